"""Files that grow: other frame rates, playable at any moment, saved and gone on with."""

import contextlib
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from knotjax.errors import InputError
from knotjax.media import VideoWriter, part_of, read_video
from tests.test_media import durations, moving, tone

SIZE, FRAME = 64, 640


def numbered(count) -> np.ndarray:
    """Grey frames, each far from its neighbours, uint8 [count, 64, 64, 3]."""
    grey = (20 + 53 * np.arange(count) % 211).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (count, SIZE, SIZE, 3))


@pytest.mark.parametrize("fps", [24, 25, Fraction(30_000, 1001), 30, 60])
@pytest.mark.parametrize("count", [1, 37, 100])
def test_a_file_at_another_rate_shows_the_frame_that_is_due(tmp_path, fps, count):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, size=SIZE, file_fps=fps, sound=tone(count / 25, 16_000)) as writer:
        for start in range(0, count, 9):
            writer.write(numbered(count)[start : start + 9])
    video, rate, sound = read_video(path)
    due = [k * 25 // fps for k in range(len(video))]
    error = np.abs(video[:, 32, 32, 1].astype(int) - numbered(count)[due, 32, 32, 1]).max()
    assert error < 20 and (due[-1] == count - 1 or fps < 25)
    assert rate == pytest.approx(float(fps)) and len(video) == int(np.ceil(count * Fraction(fps) / 25))
    picture_time, sound_time = durations(path)
    print(f"{count} frames at {float(fps):.2f}: grey {error}, picture {picture_time:.4f} s, sound {sound_time:.4f} s")
    assert abs(picture_time - sound_time) <= 1 / fps and len(sound) == count * FRAME
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = sorted(p.pts * stream.time_base for p in container.demux(stream) if p.pts is not None)
    assert times == [k / Fraction(fps) for k in range(len(times))], "the file's times are exact"


def write(path, frames, wave, *, stop=None, resume=None, every=60, **options):
    """Write in pieces of 10 frames, saving every `every`; `stop` leaves the file as SIGKILL would."""
    marks, start = [], resume[1] if resume else 0
    with VideoWriter(path, size=SIZE, resume=resume, **options) as writer:
        if resume:
            writer.repeat_sound(wave[: start * FRAME // 2])
            writer.repeat_sound(wave[start * FRAME // 2 : start * FRAME])
        for first in range(start, len(frames), 10):
            if first == stop:
                shutil.copy(part_of(path), path.with_name("killed"))
                return marks
            writer.write_sound(wave[first * FRAME : (first + 10) * FRAME])
            writer.write(frames[first : first + 10])
            if (first + 10) % every == 0:
                marks.append(writer.save())
    return marks


@pytest.mark.parametrize("fps", [25, Fraction(30_000, 1001)])
def test_a_killed_file_gone_on_with_is_the_same_to_the_byte(tmp_path, fps):
    frames, wave = moving(210, SIZE, SIZE), tone(210 / 25, 16_000)
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    write(whole, frames, wave, file_fps=fps)
    marks = write(cut, frames, wave, stop=170, file_fps=fps)
    assert [frame for _, frame in marks] == [60, 120] and (tmp_path / "killed").stat().st_size > marks[-1][0]
    (tmp_path / "killed").rename(part_of(cut))
    cut.unlink()  # what leaving the block has made of it
    write(cut, frames, wave, resume=marks[-1], file_fps=fps)
    assert cut.read_bytes() == whole.read_bytes()
    video, _, sound = read_video(cut)
    error = np.abs(sound[3000:-3000] - wave[3000:-3000]).max()
    print(f"sound through AAC and two saves: worst difference {error:.4f}")
    assert len(video) == int(np.ceil(210 * Fraction(fps) / 25)) and error < 0.01
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.mp4", "whole.mp4"]


def playable(path) -> np.ndarray:
    """What a player shows of a file that breaks off, uint8 [T, H, W, 3]."""
    frames = []
    with contextlib.suppress(av.FFmpegError), av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
    return np.array(frames)


def test_the_unfinished_file_plays_at_any_moment(tmp_path):
    path, copy, seen = tmp_path / "out.mp4", tmp_path / "copy.mp4", []
    with VideoWriter(path, size=SIZE, sound=tone(16, 16_000)) as writer:
        for first in range(0, 400, 10):
            writer.write(moving(10, SIZE, SIZE, first))
            if first % 40 == 30:
                data = part_of(path).read_bytes()
                copy.write_bytes(data[: len(data) - first % 7])  # the last bytes may not be there yet
                shown = playable(copy)
                seen.append((first + 10, len(shown)))
                if len(shown):
                    assert np.abs(shown[-1].astype(int) - moving(1, SIZE, SIZE, len(shown) - 1)[0]).mean() < 4
    print(f"(written, playable): {seen}")
    assert all(written - shown <= 110 for written, shown in seen), "at most two fragments and the encoder's delay"


def test_without_room_for_a_plain_copy_the_fragments_are_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("knotjax.media.writer.defragment", full)
    with VideoWriter(tmp_path / "out.mp4", size=SIZE) as writer:
        writer.write(moving(60, SIZE, SIZE))
    assert len(read_video(tmp_path / "out.mp4")[0]) == 60
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_saving_on_a_full_disk_is_an_input_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"), VideoWriter(tmp_path / "out.mp4", size=SIZE) as writer:
        writer.write(moving(5, SIZE, SIZE))
        monkeypatch.setattr("knotjax.media.fragments.os.fsync", full)
        writer.save()
    assert not list(tmp_path.iterdir())
