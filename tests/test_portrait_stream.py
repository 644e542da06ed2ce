"""Sound that comes in pieces, of a length that nobody knows."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import knotjax
from knotjax import drive
from knotjax.edits import Edit
from knotjax.errors import InputError
from knotjax.media import pipe_pieces, read_sound, read_video
from knotjax.media.samples import Samples
from knotjax.models import speech
from tests.animators import portrait, tiny, voice

ROOT = Path(knotjax.__file__).parents[1]
FRAME = 640  # samples


def cut(wave, sizes):
    """`wave` in pieces of the given sizes, over and over."""
    at = turn = 0
    while at < len(wave):
        yield wave[at : at + sizes[turn % len(sizes)]]
        at, turn = at + sizes[turn % len(sizes)], turn + 1


def video(audio, **options):
    pieces = list(tiny().stream(portrait(), audio, **options))
    return np.concatenate([p.frames for p in pieces]), np.concatenate([p.sound for p in pieces])


WAVE = voice(2.33)
WHOLE = {}


def whole(rate):
    """The video of `WAVE` taken to be of some rate, pushed at once."""
    if rate not in WHOLE:
        WHOLE[rate] = video([WAVE], rate=rate)
    return WHOLE[rate]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 4000), min_size=1, max_size=9), st.sampled_from([16_000, 22_050, 48_000]))
def test_pieces_of_any_size_make_the_same_frames(sizes, rate):
    if sum(sizes) < 40:  # thousands of tiny pieces only cost time
        sizes = [*sizes, 4000]
    frames, sound = video(cut(WAVE, sizes), rate=rate)
    assert np.array_equal(frames, whole(rate)[0]) and np.array_equal(sound, whole(rate)[1])


def test_one_sample_at_a_time():
    frames, _ = video(cut(WAVE[:9000], [1]))
    assert np.array_equal(frames, video(WAVE[:9000])[0]) and len(frames) == 15


def test_frames_come_with_their_sound():
    for piece in tiny().stream(portrait(), cut(WAVE, [1000])):
        assert piece.sound.shape == (FRAME * len(piece.frames),) and piece.sound.dtype == np.float32
    frames, sound = video(cut(WAVE, [1000]))
    assert len(frames) == -(-len(WAVE) // FRAME) == 59
    assert np.array_equal(sound[: len(WAVE)], WAVE) and not sound[len(WAVE) :].any()


def test_a_length_known_beforehand_changes_nothing_but_the_end():
    frames = whole(16_000)[0]
    assert np.array_equal(video([WAVE], frames=59)[0], frames)
    shorter, sound = video([WAVE], frames=20)
    assert len(shorter) == 20 and len(sound) == 20 * FRAME
    longer, sound = video([WAVE], frames=70)
    assert len(longer) == 70 and np.array_equal(longer[:30], frames[:30]) and not sound[len(WAVE) :].any()


def test_a_block_is_made_as_soon_as_its_sound_is_there():
    """And not before: block 0 (frames 0 .. 8) hears frames up to 14 and 7.5 ms more, see models/speech.py."""
    stream = tiny().open(portrait())
    needed = 15 * FRAME + speech.MARGIN
    stream.push(WAVE[: needed - 1])
    assert not list(stream.pieces()) and stream.frames is None
    stream.push(WAVE[needed - 1 : needed])
    assert [len(piece.frames) for piece in stream.pieces()] == [9]
    stream.end()
    assert sum(len(piece.frames) for piece in stream.pieces()) == 16 - 9 and stream.done and stream.frames == 16
    assert not list(stream.pieces())


@pytest.mark.parametrize("method", ["avatar_forcing", "live_act"])
def test_every_kind_of_window(method):
    """A filling window, and blocks of two sizes with a sink, meet an unknown end."""
    plan = tiny().plan(method)
    edits = [Edit(0.9, emotion="sad", ramp=0.3), Edit(1.2, picture=portrait(4))]
    known, _ = video(WAVE, plan=plan, edits=edits, frames=59)
    assert np.array_equal(video(cut(WAVE, [3333, 17]), plan=plan, edits=edits)[0], known) and len(known) == 59


def test_no_sound_makes_no_frames():
    assert list(tiny().stream(portrait(), [])) == [] and list(tiny().stream(portrait(), [WAVE[:0]])) == []


def test_rates_channels_and_kinds_may_change_in_mid_stream():
    loud = (voice(0.5, 1) * 20_000).astype(np.int16)
    pieces = [(WAVE[:8000], 16_000), (np.stack([loud, loud], 1), 48_000), (voice(0.3).astype(np.float64), 8_000)]
    frames, sound = video(pieces)
    seconds = 0.5 + len(loud) / 48_000 + 4800 / 8_000
    assert len(frames) == np.ceil(round(seconds * drive.FPS, 6)) and np.isfinite(sound).all()
    with pytest.raises(InputError, match="4000 samples per second"):
        video([(WAVE, 4000)])
    with pytest.raises(InputError, match="shape"):
        video([np.zeros((10, 9), np.float32)])
    with pytest.raises(InputError, match="kind"):
        video([np.zeros(10, complex)])


def test_what_is_no_number_becomes_silence_and_is_counted():
    samples, broken = Samples(), voice(0.5)
    broken[[3, 4, 100, 7000]] = np.nan, np.inf, -np.inf, 1e30
    out = np.concatenate([samples.push(broken, 44_100), samples.end()])
    assert samples.broken == 3 and np.isfinite(out).all() and np.abs(out).max() <= 1.0
    stream = tiny().open(portrait())
    stream.push(broken)
    assert stream.broken == 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=6), st.integers(0, 40_000), st.integers(1, 9))
def test_speech_that_comes_in_pieces_equals_the_whole(sizes, samples, count):
    wave = voice(3.0)[:samples]
    rows = speech.speech_rows(wave, len(wave) // speech.FRAME + 2)
    live, start, pieces = speech.LiveSpeech(), 0, cut(wave, sizes)
    for piece in [*pieces, None]:
        if piece is None:
            live.end()
        else:
            live.push(piece)
        while live.covers(start, count) and 4 * start < len(rows) + 8:
            assert np.array_equal(live.windows(start, count), speech.speech_windows(rows, start, count))
            start += count
        assert sum(map(len, live._held)) < 50_000


# pipes


def pcm(wave) -> bytes:
    return (wave * 32767).astype("<i2").tobytes()


class Drips(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data, size):
        self._data, self._size = data, size

    def read(self, size=-1):
        size = min(self._size, size)
        out, self._data = self._data[:size], self._data[size:]
        return out


@pytest.mark.parametrize("size", [1, 3, 4096])
@pytest.mark.parametrize("kind", ["PCM", "WAV", "FLAC"])
def test_sound_from_a_pipe(tmp_path, kind, size):
    wave = voice(0.2)
    if kind == "PCM":
        data, wanted = pcm(wave), pcm(wave)
    else:
        soundfile.write(tmp_path / "a", wave, 16_000, format=kind)
        data, wanted = (tmp_path / "a").read_bytes(), pcm(read_sound(tmp_path / "a"))
    samples = Samples()
    out = [samples.push(*heard) for heard in pipe_pieces(Drips(data, size), 16_000)]
    out = np.concatenate([*out, samples.end()])
    assert len(out) == len(wave) and np.abs(out - np.frombuffer(wanted, "<i2") / 32768.0).max() < 1e-4


@pytest.mark.parametrize(
    "data, reason", [(b"", "is empty"), (b"RIFF\x24\0\0\0WAVE", "damaged"), (b"fLaC" * 99, "damaged")]
)
def test_bad_pipes(data, reason):
    with pytest.raises(InputError, match=reason) as caught:
        list(pipe_pieces(Drips(data, 4096)))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_standard_input_makes_frames_before_it_ends(tmp_path):
    """The first 0.8 s of sound are enough for the part-written file to grow; the rest follows later."""
    wave = read_sound(ROOT / "knotjax" / "assets" / "hello.wav")[: 3 * 16_000]
    child = subprocess.Popen(
        [sys.executable, "-m", "knotjax", "animate", "--audio", "-", "--rate", "48000", "-o", tmp_path / "out.mp4"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    child.stdin.write(pcm(np.repeat(wave, 3)))
    child.stdin.close()
    assert child.wait(300) == 0, child.stderr.read()
    frames, _, sound = read_video(tmp_path / "out.mp4")
    assert len(frames) == 75 and len(sound) == 48_000
