"""Stopping a long run from outside, between two pieces of work and not in the middle of one."""

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stoppable:
    """Context manager inside which Ctrl-C and SIGTERM both raise `KeyboardInterrupt`, but never inside `held`.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self):
        self._held = self._asked = False
        self._before = {}

    def __enter__(self) -> "Stoppable":
        if threading.current_thread() is threading.main_thread():
            self._before = {sign: signal.signal(sign, self._handle) for sign in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for sign, handler in self._before.items():
            signal.signal(sign, handler)

    def _handle(self, number, frame) -> None:
        self._asked = True
        if not self._held:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a signal waits; it counts at the end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._asked:
            raise KeyboardInterrupt

    def hold(self) -> None:
        """From here on signals do nothing: the run is ending already."""
        self._held = True
