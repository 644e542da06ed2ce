"""A folder of real video clips as a random-access source: picture and sound, at the rates the models work in."""

import dataclasses
import json
import logging
import math
from pathlib import Path

import av
import numpy as np
import soxr

from knotjax.drive import FPS, SAMPLE_RATE
from knotjax.errors import InputError
from knotjax.files import commit

log = logging.getLogger("knotjax")

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of one file."""

    path: str  # relative to the folder
    start: float  # seconds after the first frame


class ClipFolder:
    """Windows of equal length, one after the other, out of all videos below a folder; grain reads it.

    The first time every file is decoded once from end to end: those that are damaged, have no picture or no sound, or
    are too short are left out; `broken` tells which and why. The findings are kept in `index`, and files that did not
    change since are not decoded again.

    Args:
      folder: searched with everything below it, in the order of names.
      seconds: length of a window; rounded to whole frames at 25 fps.
      size: side of the square pictures, cut from the middle.
      index: JSON file to keep the findings in, or None.

    Raises:
      InputError: no folder, or no usable clip in it.
    """

    def __init__(self, folder: Path | str, seconds: float, size: int, index: Path | None = None):
        self.folder, self.size = Path(folder), size
        self.frames = round(seconds * FPS)
        if not self.folder.is_dir():
            raise InputError(f"clips {str(folder)!r} is not a folder: give one that holds videos")
        if self.frames < 1:
            raise InputError(f"clips of {seconds} seconds have no frame: ask for {1 / FPS} seconds or more")
        known = json.loads(index.read_text()) if index and index.exists() else {}
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                name, status = str(path.relative_to(self.folder)), path.stat()
                stamp = [status.st_size, status.st_mtime_ns]
                old = known.get(name)
                found[name] = old if old and old["stamp"] == stamp else {"stamp": stamp, **_inspect(path)}
        if index and found != known:
            part = index.with_name(index.name + ".part")
            part.write_text(json.dumps(found, indent=1))
            commit(part, index)
        self.broken = {name: facts["error"] for name, facts in found.items() if "error" in facts}
        self.windows = []
        for name, facts in found.items():
            count = int(facts.get("frames", 0) // self.frames)
            self.windows += [Window(name, i * self.frames / FPS) for i in range(count)]
            if not count and name not in self.broken:
                self.broken[name] = f"lasts less than {seconds} s"
        for name, reason in self.broken.items():
            log.warning("clips: %s left out: %s", name, reason)
        if self.broken:
            log.warning("clips: %d of %d files left out", len(self.broken), len(found))
        if not self.windows:
            raise InputError(f"clips {str(folder)!r} holds no usable video of {seconds} s: {len(self.broken)} left out")

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """frames uint8 [T, size, size, 3] at 25 fps and wave float32 [n], mono at 16 kHz, of window `number`.

        Raises:
          InputError: the file can no longer be decoded.
        """
        window = self.windows[number]
        path = self.folder / window.path
        try:
            return {"frames": self._pictures(path, window.start), "wave": self._sound(path, window.start)}
        except (av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"clip {str(path)!r} cannot be decoded any more ({error}): remove it") from None

    def _pictures(self, path: Path, start: float) -> np.ndarray:
        shown, last, due = [], None, 0
        with av.open(f"file:{path}") as container:
            track = container.streams.video[0]
            origin = float((track.start_time or 0) * track.time_base)
            container.seek(int((origin + start) / track.time_base), stream=track)
            for frame in container.decode(track):
                time = frame.time - origin - start
                # A frame is shown until the next one begins.
                while last is not None and due < self.frames and due / FPS < time - 1e-6:
                    shown.append(self._square(last))
                    due += 1
                last = frame
                if due == self.frames:
                    break
            while last is not None and due < self.frames:
                shown.append(self._square(last))
                due += 1
        return np.stack(shown)

    def _square(self, frame: av.VideoFrame) -> np.ndarray:
        """The middle of a frame, uint8 [size, size, 3]."""
        scale = self.size / min(frame.height, frame.width)
        height, width = (max(self.size, round(side * scale)) for side in (frame.height, frame.width))
        picture = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return picture[top : top + self.size, left : left + self.size]

    def _sound(self, path: Path, start: float) -> np.ndarray:
        samples = self.frames * SAMPLE_RATE // FPS
        with av.open(f"file:{path}") as container:
            picture, track = container.streams.video[0], container.streams.audio[0]
            origin = float((picture.start_time or 0) * picture.time_base)
            rate, margin = track.rate, 0.1  # seconds on both sides, for the resampler's filter
            begin = round((origin + start - margin) * rate)
            wave = np.zeros(math.ceil((2 * margin + self.frames / FPS) * rate), np.float32)
            if start > 1.0:  # well before, as the first decoded piece after a jump lacks what overlaps it
                container.seek(int((origin + start - 1.0) / track.time_base), stream=track)
            for frame in container.decode(track):
                piece = _mono(frame)
                at = round(frame.time * rate) - begin
                if at >= len(wave):
                    break
                piece, at = piece[max(0, -at) :], max(at, 0)
                wave[at : at + len(piece)] = piece[: len(wave) - at]
        wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ") if rate != SAMPLE_RATE else wave
        skip = round(margin * SAMPLE_RATE)
        return np.clip(wave[skip : skip + samples], -1.0, 1.0)


def _inspect(path: Path) -> dict:
    """How many frames at 25 fps a file lasts, or what is wrong with it."""
    try:
        with av.open(f"file:{path}") as container:
            if not container.streams.video:
                return {"error": "has no picture track"}
            if not container.streams.audio:
                return {"error": "has no sound track"}
            first = last = None
            heard = 0
            for frame in container.decode(container.streams.video[0], container.streams.audio[0]):
                if isinstance(frame, av.VideoFrame):
                    if frame.is_corrupt:
                        return {"error": "is damaged"}
                    first = frame.time if first is None else first
                    last = frame.time
                else:
                    heard += frame.samples
            if first is None or not heard:
                return {"error": "holds no frames or no sound"}
            rate = float(container.streams.video[0].average_rate or FPS)
            return {"frames": math.floor((last - first + 1 / rate) * FPS + 1e-3)}
    except (av.FFmpegError, OSError, ValueError, TypeError):
        return {"error": "is damaged or not a video"}


def _mono(frame: av.AudioFrame) -> np.ndarray:
    samples = frame.to_ndarray()  # [channels, n], or [1, n * channels] when interleaved
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype.kind == "i":
        samples = samples / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.mean(axis=0, dtype=np.float32)
