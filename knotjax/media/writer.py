"""Writing a talking video piece by piece."""

import collections
import contextlib
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from knotjax.drive import FPS, SAMPLE_RATE
from knotjax.errors import InputError
from knotjax.files import commit
from knotjax.media.fragments import Fragments, defragment


def part_of(path: str | os.PathLike) -> Path:
    """Where the video is while it grows."""
    return Path(path).with_name(Path(path).name + ".part")


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

    Everything goes to `<path>.part`, which can be played at any moment and becomes `path` only when the block ends
    without an exception; otherwise it is removed and an existing `path` stays as it was. Sound is cut or padded with
    silence to the length of the picture.

    With another `file_fps` than `fps`, frame k of the file, at k / file_fps seconds, is the given frame that is on
    screen at that moment, floor(k fps / file_fps): frames are shown twice or left out, sound and picture stay together.

    Args:
      path: name of the file, ending in .mp4.
      fps: frames per second that are given, whole or a `Fraction`.
      size: side of a square picture, or (height, width), in pixels; even.
      sample_rate: samples per second of the sound given.
      overwrite: whether an existing file may be replaced.
      sound: float32 [n] mono in [-1, 1], when all of it is known up front; `write_sound` adds to it.
      file_fps: frames per second of the file; those that are given by default.
      resume: what `save` returned, to go on with a `.part` that a killed process left; then comes `repeat_sound`.

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
        file_fps: int | Fraction | None = None,
        resume: tuple[int, int] | None = None,
    ):
        check_output(path, overwrite)
        self._path = Path(path)
        self._part = part_of(path)
        self._height, self._width = (size, size) if isinstance(size, int) else size
        if self._height % 2 or self._width % 2 or min(self._height, self._width) < 2:
            raise InputError(f"video size {self._width}x{self._height} is odd: H.264 needs even width and height")
        self._fps, self._file_fps, self._rate = Fraction(fps), Fraction(file_fps or fps), sample_rate
        self._bytes, self._frames = resume or (0, 0)
        self._pending: collections.deque[np.ndarray] = collections.deque()  # sound that runs ahead of the picture
        self._file, self._kept = None, False
        if sound is not None:
            self.write_sound(sound)

    def __enter__(self) -> "VideoWriter":
        try:
            if not self._bytes:
                self._part.unlink(missing_ok=True)  # a crashed run's; never write through a link
            size = self._height, self._width
            self._file = Fragments(self._part, self._file_fps, size, self._rate, self._bytes, self._shown(self._frames))
        except OSError as error:
            raise self._failed(error) from None
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

    def _shown(self, frames: int) -> int:
        """How many frames of the file begin while the first `frames` that are given are on screen."""
        return math.ceil(frames * self._file_fps / self._fps)

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 [n, H, W, 3]."""
        if frames.dtype != np.uint8 or frames.shape[1:] != (self._height, self._width, 3):
            wanted = f"uint8 [n, {self._height}, {self._width}, 3]"
            raise ValueError(f"frames are {frames.dtype} {list(frames.shape)}, not {wanted}")
        try:
            for picture in frames:
                self._frames += 1
                while self._file.shown < self._shown(self._frames):
                    self._file.show(picture)
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

    def repeat_sound(self, samples: np.ndarray) -> None:
        """After `resume`: the sound float32 [n] of what is written already, from the beginning, in any pieces."""
        if len(samples):
            self._file.repeat_sound(np.clip(samples, -1.0, 1.0))

    def save(self) -> tuple[int, int]:
        """Bring everything that was given to the disk; returns what `resume` takes.

        The sound must have been given up to the end of the picture.
        """
        try:
            self._drain()
            return self._file.seal(), self._frames
        except OSError as error:
            raise self._failed(error) from None

    def leave(self) -> None:
        """Should the block end with an exception, leave the unfinished file for a later `resume`."""
        self._kept = True

    def _due(self) -> int:
        """Samples still missing up to the end of the picture."""
        return round(self._frames * self._rate / self._fps) - self._file.samples

    def _drain(self) -> None:
        while self._pending and (due := self._due()) > 0:
            samples = self._pending.popleft()
            if len(samples) > due:
                self._pending.appendleft(samples[due:])
            self._file.play(samples[:due])

    def _finish(self) -> None:
        if not self._frames:
            raise ValueError(f"no frames were written to {str(self._path)!r}")
        self._drain()
        while (due := self._due()) > 0:
            self._file.play(np.zeros(min(due, self._rate), np.float32))
        self._file.seal(last=True)
        self._file.close()
        plain = self._part.with_name(self._path.name + ".plain.part")
        try:
            plain.unlink(missing_ok=True)
            defragment(self._part, plain)
            commit(plain, self._path)
        except OSError:  # no room for a second copy: the fragments play as well
            plain.unlink(missing_ok=True)
            commit(self._part, self._path)
        self._part.unlink(missing_ok=True)

    def _abort(self) -> None:
        """Leave nothing behind that was not asked for; the exception under way is the one to report."""
        with contextlib.suppress(Exception):
            self._file.close()
        if not self._kept:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> InputError:
        reason = error.strerror or str(error)
        return InputError(
            f"output {str(self._path)!r} cannot be written ({reason}): free space or choose another folder"
        )
