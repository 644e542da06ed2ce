"""Showing on stderr how far a long run has come."""

import logging
import resource
import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

LOG_SECONDS = 10.0  # between two lines when nobody watches a terminal


def peak_memory_mib() -> float:
    """The largest amount of main memory this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def show_log() -> None:
    """Show on stderr what knotjax logs, every line with its time."""
    # Some libraries set logging up while they are imported.
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("knotjax").setLevel(logging.INFO)


class Progress:
    """Context manager that shows frames done, frames per second and time left.

    On a terminal it is a bar; elsewhere it is one line every ten seconds, so that logs stay short.

    Args:
      total: frames to come, or None when not known.
      enabled: false shows nothing.
      stream: where to write, stderr unless told.
    """

    def __init__(self, total: int | None, enabled: bool = True, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._total, self._done = total, 0
        self._start = self._said = time.monotonic()
        terminal = self._stream.isatty()
        self._lines = enabled and not terminal
        self._bar = tqdm(total=total, unit="frame", file=self._stream, disable=not (enabled and terminal))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.close()

    def update(self, frames: int) -> None:
        """Count `frames` more as done."""
        self._done += frames
        self._bar.update(frames)
        now = time.monotonic()
        if self._lines and now - self._said >= LOG_SECONDS:
            self._said = now
            print(self.line(now - self._start), file=self._stream, flush=True)

    def line(self, seconds: float) -> str:
        """What to say `seconds` after the start, e.g. "120/300 frames, 31.2 fps, 0:06 left"."""
        fps = self._done / seconds if seconds > 0 else 0.0
        if self._total is None:
            return f"{self._done} frames, {fps:.1f} fps"
        left = tqdm.format_interval((self._total - self._done) / fps) if fps else "?"
        return f"{self._done}/{self._total} frames, {fps:.1f} fps, {left} left"
