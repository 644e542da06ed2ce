"""A stream's place in an engine: what was pushed, what is made, what waits to be taken.

The engine's lock is held whenever a method is called. The timeline belongs to the engine's thread: `interrupt` only
leaves a note for the next block.
"""

import dataclasses
import threading
from collections import deque

import numpy as np

from knotjax import drive
from knotjax.edits import Edit
from knotjax.live.clock import Beat, Pace
from knotjax.live.sound import LAST, SoundQueue
from knotjax.live.stages import Block
from knotjax.timeline import Timeline

BLOCKS = 2  # that wait to be taken
HISTORY = 1024  # newest blocks that a report looks at


@dataclasses.dataclass(frozen=True)
class Shown:
    """Some frames with their sound, in one clock."""

    frames: np.ndarray  # uint8 [n, size, size, 3], 25 per second
    sound: np.ndarray  # float32 [640 n], mono, 16 kHz
    first: int  # number of the first frame in its stream; numbers that are left out were dropped
    due: float  # when the first frame is to be shown, in seconds on the monotonic clock
    idle: bool  # nobody speaks: no pushed sound belongs to these frames
    ended: bool = False  # with these frames an utterance that was ended is over
    turn: int = 0  # interruptions before these frames


class Seat:
    """One stream of an engine.

    What is late, when paced:
      A frame that comes out after it is due is late. If the whole 40 ms that it was to be shown for are over, it is
      dropped with its sound. Of more than two blocks that wait to be taken the oldest is dropped with its sound. What
      was dropped leaves a hole in the numbers; the frames after it keep their numbers and times. A stream whose block
      begins or comes out late by a whole block's time or more stalls: that block and all that follow are shown later by
      so many whole blocks. So a device that is too slow shows some of every block.
    Without pace nothing is dropped: no block is made before there is room for it.
    """

    def __init__(self, slot: int, timeline: Timeline, beat: Beat, lock, pace: Pace | None):
        self.slot, self.timeline, self.pace = slot, timeline, pace
        self._beat = beat
        self.news = threading.Condition(lock)  # a block came, or none will come
        self.sound = SoundQueue()
        self.out: deque[tuple[Shown, Block, float]] = deque()
        self.change: Edit | None = None  # to take effect with the next block
        self.blocks: deque[Block] = deque(maxlen=HISTORY)
        self.error: BaseException | None = None
        self.closed = self.busy = False
        self.over = False  # the last utterance was ended
        self.faults = self.shown = self.late = self.misses = self.stalls = 0
        self.dropped = dict.fromkeys(("late", "queue", "interrupt"), 0)
        self._cut = False
        self.turn = 0  # counts interruptions
        self._kinds = np.zeros(0, np.uint8)  # of the samples of frames to come, see `SoundQueue`
        self._ended = False  # an utterance is over, and no block has said so yet

    # for the session

    @property
    def position(self) -> int:
        """Samples of the stream, counting those that wait."""
        if not self._cut:
            return self.timeline.samples + len(self.sound)
        last = self.timeline.plan.emitted(self.timeline.step + self.busy - 1)
        return drive.pixel_count(last.stop) * drive.FRAME + len(self.sound)

    @property
    def drained(self) -> bool:
        """Without pace: all that was pushed and ended is out."""
        return self.pace is None and self.over and not (self.busy or self.out or self._covered)

    def push(self, samples: np.ndarray) -> None:
        """Sound, float32 [n], 16 kHz."""
        self.sound.push(samples)
        self.over = False

    def end(self) -> None:
        """The utterance is over."""
        silence = 0
        if self.pace is None and self.sound.open:  # as much as the last block with a sample of it hears
            position = self.position
            steps = self.timeline.plan.steps(drive.latent_count(-(-position // drive.FRAME)))
            silence = max(0, self.timeline.needed(steps - 1) - position)
        was_open = self.sound.open
        if not self.sound.end(silence) and was_open:  # all of it was heard already
            pushed = np.flatnonzero(self._kinds)
            if len(pushed):
                self._kinds[pushed[-1]] = LAST
            else:
                self._ended = True
        self.over = True

    def interrupt(self) -> None:
        """Drop what waits and what is being made; the next block hears nothing that was pushed before."""
        self.sound.clear()
        self.dropped["interrupt"] += sum(len(shown.frames) for shown, _, _ in self.out)
        self.out.clear()
        self._cut, self.over, self._ended = True, True, False
        self.turn += 1

    def take(self, now: float) -> Shown | None:
        """The oldest block that waits."""
        if not self.out:
            return None
        shown, block, made = self.out.popleft()
        block.queue = now - made
        self.shown += len(shown.frames)
        return shown

    # for the engine

    @property
    def next(self) -> float | None:
        """When the next block can begin, if that depends on time alone."""
        return None if self.pace is None else self._beat.at(self.pace.beat(self.timeline.step))

    def ready(self, now: float) -> bool:
        """Whether the next block can begin."""
        if self.closed:
            return False
        if self.pace is None:
            return len(self.out) < BLOCKS and self._covered
        behind = self._beat.before(now) - self.pace.beat(self.timeline.step)
        self._stall(behind)
        return behind >= 0

    def begin(self) -> int:
        """Hear the sound of the next block; returns what `finish` is to be given."""
        timeline = self.timeline
        self.settle()
        samples, kinds = self.sound.take(timeline.needed(timeline.step) - timeline.samples)
        timeline.hear(samples)
        self._kinds = np.concatenate([self._kinds, kinds])
        if self.change:
            timeline.edit(self.change)
            self.change = None
        self.busy = True
        return self.turn

    def settle(self) -> None:
        """Carry out an interruption."""
        if self._cut:
            self.timeline.cut()
            self._kinds, self._cut = np.zeros(0, np.uint8), False

    def finish(self, pixels: np.ndarray, mended: bool, block: Block, now: float, turn: int) -> None:
        """Take a decoded block in: uint8 [4 * chunk, size, size, 3]."""
        emitted = self.timeline.advance()
        self.busy = False
        self.faults += mended
        self.blocks.append(block)
        if emitted:
            self._add(pixels[-drive.STRIDE * len(emitted) :], emitted, block, now, turn)
        self.news.notify_all()

    def fail(self, error: BaseException | None = None) -> None:
        """Nothing more will come."""
        self.error = self.error or error
        self.closed = True
        self.news.notify_all()

    def save(self) -> tuple[np.ndarray, dict]:
        """What the samples of frames to come are, and numbers; for `restore`."""
        return self._kinds, {"over": self.over, "ended": self._ended}

    def restore(self, kinds: np.ndarray, numbers: dict) -> None:
        """Go on where `save` was called."""
        self._kinds, self.over, self._ended = kinds, numbers["over"], numbers["ended"]

    def _stall(self, blocks: int) -> None:
        if blocks >= 1:
            self.pace.shift(blocks)
            self.stalls += 1

    @property
    def _covered(self) -> bool:
        return self.position >= self.timeline.needed(self.timeline.step)

    def _add(self, pixels, emitted: range, block: Block, now: float, turn: int) -> None:
        first = self.timeline.made
        piece = self.timeline.piece(pixels, emitted)
        count = len(piece.frames)
        kinds, self._kinds = self._kinds[: count * drive.FRAME], self._kinds[count * drive.FRAME :]
        if turn != self.turn:
            self.dropped["interrupt"] += count
            return
        self._ended |= bool((kinds == LAST).any())
        due, gone = now, 0
        if self.pace is not None:
            block.slack = self.pace.due(first) - now
            self._stall(int(-block.slack // self._beat.period))
            due = self.pace.due(first)
            late = int(np.clip(np.ceil((now - due) * drive.FPS), 0, count))
            gone = int(np.clip(np.floor((now - due) * drive.FPS), 0, count))
            self.late += late
            self.misses += late > 0
            self.dropped["late"] += gone
            due += gone / drive.FPS
        if gone == count:
            return
        if self.pace is not None and len(self.out) == BLOCKS:
            lost = self.out.popleft()[0]
            self.dropped["queue"] += len(lost.frames)
            self._ended |= lost.ended
        frames, sound = piece.frames[gone:].copy(), piece.sound[gone * drive.FRAME :].copy()
        idle = not kinds[gone * drive.FRAME :].any()
        self.out.append((Shown(frames, sound, first + gone, due, idle, self._ended, turn), block, now))
        self._ended = False
