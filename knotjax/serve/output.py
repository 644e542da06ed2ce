"""From a live session to bytes for one client, and to its recording."""

import dataclasses
import logging
import math
import threading
import time
from pathlib import Path

from knotjax.drive import FPS, FRAME
from knotjax.serve.live_mp4 import LiveMp4
from knotjax.serve.recordings import Recording

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Fragment:
    """A piece of the video, ready to be sent."""

    number: int  # from 0
    data: bytes  # empty if nobody needs it packed
    begins: float  # seconds of video before it
    seconds: float
    left_out: int  # frames that the stream dropped so far
    idle: bool  # whether nobody speaks
    encode_ms: float
    stream: dict  # what the session reports of itself, as plain values
    shown: object  # what the session showed
    head: bytes = b""  # what goes before it: set in the first
    mime: str = ""


class Output:
    """Takes what a session shows and packs it. Its methods block and may be called from any thread.

    Args:
      session: what `Engine.open` returned; closed by `close`.
      size: height and width of its frames in pixels.
      folder: where to keep a recording, or None.
      pack: whether the client needs fragments as bytes.

    Attributes:
      recording_failed: why the recording ended early, or None.
    """

    def __init__(self, session, size: int, folder: Path | None, pack: bool = True):
        self.session, self._folder = session, folder
        self._mp4 = LiveMp4(size) if pack or folder is not None else None
        self._lock, self._closed = threading.Lock(), False
        self._recording = self.recording_failed = None
        self._number = self._next = self._left_out = self._frames = 0

    def next(self, timeout: float) -> Fragment | None:
        """The next fragment, or None if none comes within `timeout` seconds."""
        with self._lock:
            shown = None if self._closed else self.session.take(timeout)
            if shown is None:
                return None
            began = time.perf_counter()
            first, times = self._number == 0, len(shown.sound) // FRAME
            if first:
                self._next = shown.first
            data = self._mp4.add(shown.frames, shown.sound) if self._mp4 else b""
            self._left_out += max(0, shown.first - self._next) + times - min(times, len(shown.frames))
            self._next = shown.first + times
            self._record(data)
            fragment = Fragment(
                self._number, data, self._frames / FPS, times / FPS, self._left_out, bool(shown.idle),
                1000 * (time.perf_counter() - began), _plain(self.session.report()), shown,
                *((self._mp4.head, self._mp4.mime) if first and self._mp4 else ()),
            )  # fmt: skip
            self._number, self._frames = self._number + 1, self._frames + times
            return fragment

    def close(self) -> None:
        """Free the session, finish the recording."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self.session.close()
            finally:
                self._finish()

    def _record(self, data: bytes) -> None:
        if self._folder is None or self.recording_failed:
            return
        try:
            if self._recording is None:
                self._recording = Recording(self._folder, self._mp4.head)
            self._recording.write(data)
        except OSError as error:
            self._recording_ended(error)

    def _finish(self) -> None:
        if self._mp4:
            self._mp4.close()
        if self._recording is not None:
            try:
                self._recording.close()
            except OSError as error:
                self._recording_ended(error)

    def _recording_ended(self, error: OSError) -> None:
        self.recording_failed = error.strerror or str(error)
        _log.error("a recording ended early: %s", self.recording_failed)


def _plain(report: dict) -> dict:
    """The finite numbers of a report, those of dicts inside it as `outer_inner`."""
    plain = {}
    for name, value in report.items():
        if isinstance(value, dict):
            plain |= {f"{name}_{inner}": number for inner, number in _plain(value).items()}
        elif isinstance(value, int | float) and math.isfinite(value):
            plain[name] = value
    return plain
