"""Long runs of the whole path: stopped, killed and gone on with."""

import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from knotjax import drive, recording
from knotjax.errors import InputError
from knotjax.interrupts import Stoppable
from knotjax.media import part_of, read_video
from tests.animators import portrait, tiny, voice


@pytest.fixture
def long(tmp_path, monkeypatch):
    """A folder with 6 s of sound: 13 blocks."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("long.wav", voice(6.0), 16_000)
    return tmp_path


def after(monkeypatch, blocks, act) -> None:
    """Do something once a number of blocks is written."""
    write, count = recording.VideoWriter.write, [0]

    def counted(self, frames):
        write(self, frames)
        count[0] += 1
        if count[0] == blocks:
            act()

    monkeypatch.setattr(recording.VideoWriter, "write", counted)


class Kill(BaseException):
    """Ends a run without ceremony."""


def killed(monkeypatch, blocks, **options) -> None:
    """Leave what SIGKILL leaves after some blocks: part and state, as they were at that moment."""

    def die():
        for file in (part_of("out.mp4"), recording.state_of("out.mp4")):
            shutil.copy(file, f"kept.{file.name}")
        raise Kill

    with monkeypatch.context() as patch:
        after(patch, blocks, die)
        with pytest.raises(Kill):
            tiny().animate(portrait(), "long.wav", "out.mp4", **options)
    assert not list(Path().glob("out.mp4*")), "any other failure leaves nothing"
    for file in Path().glob("kept.*"):
        file.rename(file.name.removeprefix("kept."))


@pytest.mark.parametrize("options", [{}, {"method": "avatar_forcing", "fps": "29.97"}])
def test_a_killed_run_gone_on_with_makes_the_same_file(long, monkeypatch, options):
    options |= {"save_every": 4, "emotion": "happy", "edits": [recording.Edit(1.0, emotion="sad", ramp=3.0)]}
    whole = tiny().animate(portrait(), "long.wav", "whole.mp4", **options)
    killed(monkeypatch, 7, **options)
    report = tiny().animate(portrait(), "long.wav", "out.mp4", resume=True, **options)
    assert Path("out.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    assert report.frames == whole.frames == 150 and 0 < report.resumed < 7 * 12
    assert sorted(p.name for p in long.iterdir()) == ["long.wav", "out.mp4", "whole.mp4"]


def test_a_saved_run_goes_on_only_with_its_own_arguments(long, monkeypatch):
    killed(monkeypatch, 6, save_every=4)
    before = sorted(p.name for p in long.iterdir())
    soundfile.write("other.wav", voice(6.0, 1), 16_000)
    for audio, options in [
        ("long.wav", {"seed": 1}), ("long.wav", {"fps": "30"}), ("long.wav", {"save_every": 3}), ("other.wav", {}),
    ]:  # fmt: skip
        with pytest.raises(InputError, match="another stream"):
            tiny().animate(portrait(), audio, "out.mp4", resume=True, **({"save_every": 4} | options))
    with pytest.raises(InputError, match="another stream"):
        tiny().animate(portrait(1), "long.wav", "out.mp4", resume=True, save_every=4)
    os.truncate("out.mp4.part", 100)
    with pytest.raises(InputError, match="shorter"):
        tiny().animate(portrait(), "long.wav", "out.mp4", resume=True, save_every=4)
    assert sorted(p.name for p in long.iterdir() if p.name != "other.wav") == before


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_a_shorter_video(long, monkeypatch, sign):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    after(monkeypatch, 3, lambda: os.kill(os.getpid(), sign))
    report = tiny().animate(portrait(), "long.wav", "out.mp4", save_every=2)
    frames, _, sound = read_video("out.mp4")
    assert report.stopped and len(frames) == 33 and len(sound) == 33 * 640
    assert sorted(p.name for p in long.iterdir()) == ["long.wav", "out.mp4"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_run_stopped_before_the_first_frame_leaves_nothing(long, monkeypatch):
    monkeypatch.setattr(recording, "_compile", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        tiny().animate(portrait(), "long.wav", "out.mp4")
    assert [p.name for p in long.iterdir()] == ["long.wav"]


def test_sound_that_breaks_off_leaves_nothing(long):
    def sound():
        yield voice(1.0)
        raise InputError("the line is dead: call again")

    with pytest.raises(InputError, match="dead"):
        tiny().animate(portrait(), sound(), "out.mp4")
    with pytest.raises(InputError, match="no samples"):
        tiny().animate(portrait(), [], "out.mp4")
    assert [p.name for p in long.iterdir()] == ["long.wav"]


def test_broken_samples_are_counted_in_a_note(long):
    wave = voice(0.3)
    wave[[5, 50, 500]] = np.nan
    report = tiny().animate(portrait(), wave, "out.mp4")
    assert report.frames == 8 and any(note.startswith("3 samples") for note in report.notes)


def test_signals_wait_while_held_and_other_threads_are_left_alone():
    done = []
    with pytest.raises(KeyboardInterrupt), Stoppable() as stop:
        with stop.held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("all of it")
        done.append("not this")
    assert done == ["all of it"]
    before = signal.getsignal(signal.SIGTERM)

    def other():
        with Stoppable():
            done.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert done[-1] is True and drive.FPS == 25
