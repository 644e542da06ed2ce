"""When things are due: streams that share a device make their blocks at the same moments, one block apart."""

import dataclasses
import math

from knotjax import drive
from knotjax.models.speech import LiveSpeech
from knotjax.streaming.plan import StreamPlan

SLACK = 0.2  # seconds from the moment when a block's sound can be there to its first frame


def hears(plan: StreamPlan, step: int) -> float:
    """Seconds of sound, from the beginning of a stream, that a step hears."""
    return LiveSpeech.needed(plan.first_frame(step), plan.span) / drive.SAMPLE_RATE


def delay(plan: StreamPlan) -> float:
    """The play-out delay in seconds, from a sound to its frame: look-ahead, one block, and `SLACK`."""
    step = plan.blocks + 1  # one like all others
    return hears(plan, step) - drive.pixel_count(plan.first_frame(step)) / drive.FPS + SLACK


@dataclasses.dataclass
class Beat:
    """The moments at which a device makes blocks: `origin` + n * `period`, on the monotonic clock."""

    period: float
    origin: float = 0.0

    @classmethod
    def of(cls, plan: StreamPlan) -> "Beat":
        """Beats one block apart."""
        return cls(plan.chunk * drive.STRIDE / drive.FPS)

    def at(self, number: int) -> float:
        """The moment of a beat."""
        return self.origin + number * self.period

    def before(self, now: float) -> int:
        """Number of the last beat at or before a moment."""
        return math.floor((now - self.origin) / self.period + 1e-6)


class Pace:
    """Which beat makes which step of one stream, and when its frames are to be shown.

    The first step falls on the last beat that gives its sound no more time than it needs. So the stream begins now or
    less than a block ago, with so much silence, and joining others costs no delay.

    Args:
      now: on the monotonic clock.
      step: the first one to be made, for a stream that goes on.
    """

    def __init__(self, plan: StreamPlan, beat: Beat, now: float, step: int = 0):
        first = beat.before(now + (beat.period if step else hears(plan, 0)))
        self._beat, self._first = beat, first + (beat.at(first) < now - 1e-6) - step
        self._delay = delay(plan) - hears(plan, 0)

    def beat(self, step: int) -> int:
        """Number of the beat that makes a step."""
        return self._first + step

    def due(self, frame: int) -> float:
        """When a pixel frame is to be shown, on the monotonic clock."""
        return self._beat.at(self._first) + self._delay + frame / drive.FPS

    def shift(self, beats: int) -> None:
        """Make what is to come later by whole beats."""
        self._first += beats
