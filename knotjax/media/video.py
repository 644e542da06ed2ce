"""Writing a talking video piece by piece, and reading one back."""

import collections
import contextlib
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soxr

from knotjax.drive import FPS, SAMPLE_RATE
from knotjax.errors import InputError
from knotjax.files import commit
from knotjax.media.pictures import regular_size

COMMENT = "synthetic video made by knotjax"


def _url(path: Path) -> str:
    """`path` for FFmpeg, which would take a colon in a bare name for a protocol."""
    return f"file:{path}"


def check_output(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Check that a video can be written to `path`; creates nothing.

    Raises:
      InputError: not an .mp4 name, the folder is missing or not writable, or the file exists and `overwrite` is false.
    """
    path = Path(path)
    name = f"output {str(path)!r}"
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{name} does not end in .mp4, the only kind of file written: rename it")
    if "\0" in str(path):
        raise InputError(f"{name} is not a usable name (it holds a NUL): choose another")
    try:
        if path.is_dir():
            raise InputError(f"{name} is a folder: give a file name")
        if not path.parent.is_dir():
            raise InputError(f"{name} cannot be written (no folder {str(path.parent)!r}): create the folder first")
        exists = path.exists() or path.is_symlink()
    except OSError as error:
        raise InputError(f"{name} is not a usable name ({error.strerror}): choose another") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{name} cannot be written (folder {str(path.parent)!r} is read-only): choose another folder")
    if exists and not overwrite:
        raise InputError(f"{name} exists: choose another name or allow overwriting (--overwrite)")


class VideoWriter:
    """Context manager that writes an H.264 + AAC .mp4 as frames and sound arrive, in constant memory.

    Everything goes to `<path>.part`, which becomes `path` only when the block ends without an exception; otherwise it
    is removed and an existing `path` stays as it was. Sound is cut or padded with silence to the length of the picture.

    Args:
      path: name of the file, ending in .mp4.
      fps: frames per second, whole or a `Fraction`.
      size: side of a square picture, or (height, width), in pixels; even.
      sample_rate: samples per second of the sound given.
      overwrite: whether an existing file may be replaced.
      sound: float32 [n] mono in [-1, 1], when all of it is known up front; `write_sound` adds to it.

    Raises:
      InputError: `path` cannot be written (found before any work starts), `size` is odd, or the disk fills up.
      ValueError: frames or samples of the wrong shape or type, or no frames at all.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: int | Fraction = FPS,
        size: int | tuple[int, int] = 128,
        sample_rate: int = SAMPLE_RATE,
        overwrite: bool = False,
        sound: np.ndarray | None = None,
    ):
        check_output(path, overwrite)
        self._path = Path(path)
        self._part = self._path.with_name(self._path.name + ".part")
        self._height, self._width = (size, size) if isinstance(size, int) else size
        if self._height % 2 or self._width % 2 or min(self._height, self._width) < 2:
            raise InputError(f"video size {self._width}x{self._height} is odd: H.264 needs even width and height")
        self._fps, self._rate = Fraction(fps), sample_rate
        self._frames = self._samples = 0  # written so far
        self._pending: collections.deque[np.ndarray] = collections.deque()  # sound that runs ahead of the picture
        self._container = None
        if sound is not None:
            self.write_sound(sound)

    def __enter__(self) -> "VideoWriter":
        try:
            self._part.unlink(missing_ok=True)  # a crashed run's; never write through a link
            self._part.touch(exist_ok=False)  # FFmpeg opens it only with the first packet
            self._container = av.open(_url(self._part), "w", format="mp4", options={"movflags": "+faststart"})
            self._container.metadata["comment"] = COMMENT
            self._video = self._container.add_stream("libx264", rate=self._fps, options={"crf": "18"})
            self._video.width, self._video.height, self._video.pix_fmt = self._width, self._height, "yuv420p"
            self._video.codec_context.time_base = 1 / self._fps
            self._audio = self._container.add_stream("aac", rate=self._rate, layout="mono")
            self._audio.codec_context.time_base = Fraction(1, self._rate)
        except OSError as error:
            self._abort()
            raise self._failed(error) from None
        except BaseException:
            self._abort()
            raise
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if kind is not None:
            self._abort()
            return
        try:
            self._finish()
        except OSError as error:
            self._abort()
            raise self._failed(error) from None
        except BaseException:
            self._abort()
            raise

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 [n, H, W, 3]."""
        if frames.dtype != np.uint8 or frames.shape[1:] != (self._height, self._width, 3):
            wanted = f"uint8 [n, {self._height}, {self._width}, 3]"
            raise ValueError(f"frames are {frames.dtype} {list(frames.shape)}, not {wanted}")
        try:
            for picture in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = self._frames, 1 / self._fps
                self._container.mux(self._video.encode(frame))
                self._frames += 1
                self._drain()  # frame by frame, so that the muxer never has to hold back one of the two
        except OSError as error:
            raise self._failed(error) from None

    def write_sound(self, samples: np.ndarray) -> None:
        """Append sound, float32 [n] in [-1, 1]; it may run ahead of the picture or behind it."""
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError(f"sound is {list(samples.shape)} or not finite, not float32 [n]")
        if len(samples):
            self._pending.append(np.clip(samples, -1.0, 1.0))

    def _due(self) -> int:
        """Samples still missing up to the end of the picture."""
        return round(self._frames * self._rate / self._fps) - self._samples

    def _drain(self) -> None:
        while self._pending and (due := self._due()) > 0:
            samples = self._pending.popleft()
            if len(samples) > due:
                self._pending.appendleft(samples[due:])
            self._encode_sound(samples[:due])

    def _encode_sound(self, samples: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._samples, Fraction(1, self._rate)
        self._container.mux(self._audio.encode(frame))
        self._samples += len(samples)

    def _finish(self) -> None:
        if not self._frames:
            raise ValueError(f"no frames were written to {str(self._path)!r}")
        self._drain()
        while (due := self._due()) > 0:
            self._encode_sound(np.zeros(min(due, self._rate), np.float32))
        self._container.mux(self._video.encode(None))
        self._container.mux(self._audio.encode(None))
        self._container.close()
        commit(self._part, self._path)

    def _abort(self) -> None:
        """Leave nothing behind; the exception under way is the one to report."""
        with contextlib.suppress(OSError, ValueError):
            if self._container is not None:
                self._container.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> InputError:
        reason = error.strerror or str(error)
        return InputError(
            f"output {str(self._path)!r} cannot be written ({reason}): free space or choose another folder"
        )


def read_video(path: str | os.PathLike) -> tuple[np.ndarray, float, np.ndarray]:
    """Read a whole video file: frames uint8 [T, H, W, 3], frames per second, sound float32 [n] mono at 16 kHz.

    Sound starts at the first frame's time; a file without sound gives n = 0. All frames are held in memory.

    Raises:
      InputError: missing, empty, damaged, or without a picture track.
    """
    path = Path(path)
    name = f"video {str(path)!r}"
    regular_size(path, "video")
    try:
        with av.open(_url(path)) as container:
            if not container.streams.video:
                raise InputError(f"{name} has no picture track: give another file")
            video = container.streams.video[0]
            audio = container.streams.audio[0] if container.streams.audio else None
            frames, pieces, starts = [], [], {}
            for frame in container.decode(*filter(None, (video, audio))):
                starts.setdefault(type(frame), frame.time or 0.0)
                if isinstance(frame, av.VideoFrame):
                    frames.append(frame.to_ndarray(format="rgb24"))
                else:
                    pieces.append(_mono(frame))
            if not frames:
                raise InputError(f"{name} holds no frames: save or download it again")
            fps = float(video.average_rate)
            wave = np.zeros(0, np.float32)
            if pieces:
                rate = audio.rate
                wave = np.concatenate(pieces)
                if audio.duration:  # the last AAC frame is padded beyond the end of the sound
                    wave = wave[: round(audio.duration * audio.time_base * rate)]
                lead = round((starts[av.AudioFrame] - starts[av.VideoFrame]) * rate)
                wave = np.pad(wave, (lead, 0)) if lead > 0 else wave[-lead:]
                wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ") if rate != SAMPLE_RATE else wave
    except av.FFmpegError:
        raise InputError(f"{name} is damaged or not a video: save or download it again") from None
    return np.stack(frames), fps, np.clip(wave, -1.0, 1.0)


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """Average of a frame's channels, float32 [n]."""
    samples = frame.to_ndarray()  # [channels, n], or [1, n * channels] when interleaved
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype.kind == "i":
        samples = samples / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.mean(axis=0, dtype=np.float32)
