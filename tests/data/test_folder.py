"""A folder of real clips: what is decoded, what is left out, and where a stopped epoch goes on."""

import logging
import os
import shutil

import av
import grain
import numpy as np
import pytest

from knotjax.data.folder import ClipFolder
from knotjax.drive import SAMPLE_RATE
from knotjax.errors import InputError
from knotjax.media import VideoWriter, read_video

FPS = 25


def make_video(path, seconds=2.0, fps=FPS, size=(48, 64), tone=440.0, rate=SAMPLE_RATE):
    """Brightness rises by four per frame at 25 fps; a steady tone whose loudness rises."""
    frames = round(seconds * fps)
    time = np.arange(frames) / fps
    pictures = np.broadcast_to((40 + 4 * 25 * time / 2)[:, None, None, None], (frames, *size, 3)).astype(np.uint8)
    at = np.arange(round(seconds * rate)) / rate
    wave = (0.1 + 0.3 * at / seconds) * np.sin(2 * np.pi * tone * at)
    with VideoWriter(path, fps=fps, size=size, sample_rate=rate, sound=wave.astype(np.float32)) as writer:
        writer.write(pictures)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    make_video(folder / "a.mp4")
    make_video(folder / "deep" / "b.mp4", seconds=1.5, fps=50, rate=48_000)
    make_video(folder / "short.mp4", seconds=0.2)
    data = bytearray((folder / "a.mp4").read_bytes())
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mov").touch()
    (folder / "notes.txt").write_text("ignored")
    with av.open(str(folder / "mute.mp4"), "w") as container:
        track = container.add_stream("libx264", rate=25)
        track.width = track.height = 32
        track.pix_fmt = "yuv420p"
        for _ in range(50):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return folder


def test_good_files_are_cut_and_broken_ones_counted(videos, caplog):
    with caplog.at_level(logging.WARNING, "knotjax"):
        source = ClipFolder(videos, seconds=0.6, size=32)
    assert sorted(source.broken) == ["cut.mp4", "empty.mov", "mute.mp4", "short.mp4", "text.mp4"]
    assert "5 of 7 files left out" in caplog.text and "mute.mp4 left out: has no sound track" in caplog.text
    assert [(w.path, round(w.start, 3)) for w in source.windows] == [
        ("a.mp4", 0.0), ("a.mp4", 0.6), ("a.mp4", 1.2), ("deep/b.mp4", 0.0), ("deep/b.mp4", 0.6),
    ]  # fmt: skip
    for sample in source:
        assert sample["frames"].shape == (15, 32, 32, 3) and sample["frames"].dtype == np.uint8
        assert sample["wave"].shape == (9600,) and sample["wave"].dtype == np.float32


def test_windows_show_and_sound_their_time(videos):
    source = ClipFolder(videos, seconds=0.6, size=32)
    frames, _, wave = read_video(videos / "a.mp4")
    for number in range(3):
        sample, first = source[number], 15 * number
        shown = sample["frames"].astype(float).mean((1, 2, 3))
        np.testing.assert_allclose(shown, frames[first : first + 15].astype(float).mean((1, 2, 3)), atol=1.0)
        heard = wave[first * 640 : (first + 15) * 640]
        assert np.corrcoef(sample["wave"], heard)[0, 1] > 0.99
        np.testing.assert_allclose(np.std(sample["wave"]), np.std(heard), rtol=0.02)
    # 50 fps and 48 kHz: every other frame, resampled sound
    frames, _, wave = read_video(videos / "deep" / "b.mp4")
    sample = source[4]
    expected = frames[30:60:2].astype(float).mean((1, 2, 3))
    np.testing.assert_allclose(sample["frames"].astype(float).mean((1, 2, 3)), expected, atol=1.0)
    assert np.corrcoef(sample["wave"], wave[15 * 640 : 30 * 640])[0, 1] > 0.99


def test_wide_pictures_are_cut_in_the_middle(tmp_path):
    frames = np.zeros((25, 32, 96, 3), np.uint8)
    frames[:, :, 32:64] = 200
    with VideoWriter(tmp_path / "wide.mp4", size=(32, 96), sound=np.full(16_000, 0.1, np.float32)) as writer:
        writer.write(frames)
    shown = ClipFolder(tmp_path, seconds=1.0, size=16)[0]["frames"]
    assert shown[:, :, 1:-1].min() > 150


def test_the_index_spares_decoding(videos, tmp_path, monkeypatch):
    folder = shutil.copytree(videos, tmp_path / "videos")
    first = ClipFolder(folder, 0.6, 32, index=tmp_path / "index.json")
    from knotjax.data import folder as room

    asked = []
    inspect = room._inspect
    monkeypatch.setattr(room, "_inspect", lambda path: asked.append(path.name) or inspect(path))
    again = ClipFolder(folder, 0.6, 32, index=tmp_path / "index.json")
    assert again.windows == first.windows and again.broken == first.broken and not asked
    os.utime(folder / "a.mp4", (1, 1))
    ClipFolder(folder, 0.6, 32, index=tmp_path / "index.json")
    assert asked == ["a.mp4"]


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        ClipFolder(tmp_path / "none", 1.0, 32)
    (tmp_path / "bad.mp4").write_text("x")
    with pytest.raises(InputError, match="no usable video"):
        ClipFolder(tmp_path, 1.0, 32)


def test_grain_reads_shuffles_shares_and_resumes(videos):
    source = ClipFolder(videos, seconds=0.2, size=16)

    def numbered(sample, rng):
        return {"level": sample["frames"].astype(np.float32).mean(), "draw": rng.random()}

    def batches(index, count):
        data = grain.MapDataset.source(source).seed(1).shuffle().repeat().random_map(numbered)
        return iter(data.batch(4 // count)[index::count].to_iter_dataset(grain.ReadOptions(1, 2)))

    whole, (left, right) = batches(0, 1), (batches(i, 2) for i in range(2))
    expected = [next(whole) for _ in range(6)]
    assert len(source) < 6 * 4, "into the second epoch"
    for batch in expected:
        pair = next(left), next(right)
        for name in batch:
            np.testing.assert_array_equal(np.concatenate([part[name] for part in pair]), batch[name])
    stopped = batches(0, 1)
    for _ in range(2):  # in the middle of the first epoch
        next(stopped)
    resumed = batches(0, 1)
    resumed.set_state(stopped.get_state())
    for batch in expected[2:]:
        found = next(resumed)
        assert all(np.array_equal(found[name], batch[name]) for name in batch)
