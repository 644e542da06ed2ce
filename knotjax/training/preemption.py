"""Leaving in good order when the machine is taken away."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Context manager inside which SIGTERM is noted instead of ending the process.

    With several processes jax's preemption service listens, and all of them agree on the step to stop at.
    """

    def __init__(self):
        self._asked, self._before = False, None

    def __enter__(self) -> "Preemption":
        # Python lets only the main thread set handlers; elsewhere SIGTERM keeps its meaning.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number, frame) -> None:
        self._asked = True

    def reached(self, step: int) -> bool:
        """Whether to save now and stop; every process must ask at every step."""
        return self._asked if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)
