"""Sound that was pushed and is not heard yet."""

import numpy as np

from knotjax import drive
from knotjax.errors import InputError

LIMIT = 10 * drive.SAMPLE_RATE  # samples that may wait
CUSHION = drive.SAMPLE_RATE // 25  # samples held back where live sound sets in, against jitter of what follows
SILENCE, PUSHED, LAST = 0, 1, 2  # what a sample is; LAST: the last one of an utterance


class Overrun(InputError):
    """More sound was pushed than may wait."""


class SoundQueue:
    """At most 10 s of sound between its arrival and the step that hears it. Not locked.

    A step that comes when less is there than it hears never waits. Missing sound is silence: where an utterance that is
    still arriving sets in, before it, so that it is not torn; else after it.
    """

    def __init__(self):
        self._held, self._kinds = np.zeros(0, np.float32), np.zeros(0, np.uint8)
        self.open = False  # the last utterance may go on
        self.talking = False  # it has set in
        self.gaps = 0  # times that an utterance was torn because its sound came late

    def __len__(self) -> int:
        return len(self._held)

    def room(self, count: int) -> None:
        """Refuse more than fits.

        Raises:
          Overrun: with `count` samples more, over 10 s would wait.
        """
        if len(self) + count > LIMIT:
            waits, more = len(self) / drive.SAMPLE_RATE, count / drive.SAMPLE_RATE
            raise Overrun(
                f"sound of {more:.2f} s on top of {waits:.2f} s that wait: at most {LIMIT / drive.SAMPLE_RATE:g} s may "
                "wait; push it later, or interrupt first"
            )

    def push(self, samples: np.ndarray) -> None:
        """Append to the last utterance, or begin one: float32 [n], 16 kHz."""
        self._append(samples, PUSHED)
        self.open = True

    def end(self, silence: int = 0) -> bool:
        """The last utterance is over; a number of samples of silence follow it. Returns whether its end waits here."""
        waits = self.open and len(self) > 0
        if waits:
            self._kinds = np.concatenate([self._kinds[:-1], np.array([LAST], np.uint8)])
        self._append(np.zeros(silence, np.float32), SILENCE)
        self.open = False
        return waits

    def clear(self) -> None:
        """Drop all that waits."""
        self._held, self._kinds = np.zeros(0, np.float32), np.zeros(0, np.uint8)
        self.open = self.talking = False

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The next `count` samples, float32, and what they are, uint8."""
        missing = count - len(self)
        if missing <= 0:
            self.talking = True
            return self._pop(count)
        if self.open and not self.talking:
            taken = max(0, len(self) - CUSHION)
            self.talking, place = taken > 0, (count - taken, 0)
        else:
            taken, place = len(self), (0, missing)
            self.gaps += self.open
            self.talking = False
        samples, kinds = self._pop(taken)
        return np.pad(samples, place), np.pad(kinds, place, constant_values=SILENCE)

    def save(self) -> tuple[np.ndarray, np.ndarray, dict]:
        """All that `restore` needs."""
        return self._held, self._kinds, {"open": self.open, "talking": self.talking, "gaps": self.gaps}

    def restore(self, held: np.ndarray, kinds: np.ndarray, numbers: dict) -> None:
        """Go on where `save` was called."""
        self._held, self._kinds = held, kinds
        self.open, self.talking, self.gaps = (numbers[name] for name in ("open", "talking", "gaps"))

    def _append(self, samples: np.ndarray, kind: int) -> None:
        self._held = np.concatenate([self._held, samples])
        self._kinds = np.concatenate([self._kinds, np.full(len(samples), kind, np.uint8)])

    def _pop(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        out = self._held[:count], self._kinds[:count]
        self._held, self._kinds = self._held[count:], self._kinds[count:]
        return out
