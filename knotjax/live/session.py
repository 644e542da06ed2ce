"""One live stream, as its client sees it."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from knotjax import drive
from knotjax.edits import Edit
from knotjax.errors import InputError
from knotjax.live.clock import delay
from knotjax.live.seat import Seat, Shown
from knotjax.live.stages import STAGES, percentiles
from knotjax.media.samples import Samples, check_rate

if TYPE_CHECKING:
    from knotjax.live.engine import Engine


class LiveSession:
    """A portrait that speaks what is pushed, and breathes when nothing is; from `Engine.open`.

    Every method may be called from any thread. With pace, a frame is shown a fixed time after its sound can have come
    (`delay`), and nothing waits for the client: sound that has not come when its block is made is silence, and of more
    than two blocks that nobody takes the oldest is dropped. Without pace, every block is made as soon as its sound is
    there and there is room for it, and the same pushes make the same frames.
    """

    def __init__(self, engine: "Engine", seat: Seat):
        self._engine, self._seat = engine, seat
        self._input = threading.Lock()  # sound goes in in the order of calls
        self._samples = Samples()

    @property
    def closed(self) -> bool:
        """Whether nothing more is made."""
        return self._seat.closed

    @property
    def size(self) -> int:
        """Height and width of the frames in pixels."""
        return self._engine.size

    @property
    def turn(self) -> int:
        """Interruptions so far; frames with a lower `Shown.turn` are not to be shown any more."""
        return self._seat.turn

    @property
    def queue_seconds(self) -> float:
        """Seconds of sound that wait to be heard."""
        return len(self._seat.sound) / drive.SAMPLE_RATE

    @property
    def work(self) -> float:
        """Seconds of computing that the newest block took, shared with the other streams of its batch."""
        with self._engine._wake:
            return self._seat.blocks[-1].work if self._seat.blocks else 0.0

    @property
    def delay(self) -> float:
        """Seconds from a sound to its frame, when paced: look-ahead, one block, and 200 ms."""
        return delay(self._engine.plan)

    def push_audio(self, pcm, rate: int = drive.SAMPLE_RATE) -> None:
        """Add sound: float (-1 .. 1) or integer samples [n] or [n, channels], at any rate from 8 to 192 kHz.

        Raises:
          Overrun: more than 10 s would wait; nothing was taken.
          InputError: another rate, shape or kind, or the session is closed.
        """
        check_rate(rate)
        pcm = np.asarray(pcm)
        with self._input:
            with self._engine._wake:
                self._check()
                self._seat.sound.room(-(-len(pcm) * drive.SAMPLE_RATE // rate) if pcm.ndim else 0)
            samples = self._samples.push(pcm, rate)
            with self._engine._wake:
                self._seat.push(samples)
                self._engine._wake.notify_all()

    def end_segment(self) -> None:
        """This utterance is over: what waits is played to its end, then idle motion goes on.

        Without pace, its last block is filled with silence.
        """
        with self._input:
            rest = self._samples.end()
            with self._engine._wake:
                self._check()
                if len(rest):
                    self._seat.push(rest)
                self._seat.end()
                self._seat.news.notify_all()
                self._engine._wake.notify_all()

    def interrupt(self) -> None:
        """Drop all sound that was pushed and all frames that were not taken. The next block hears only what comes."""
        with self._input:
            self._samples.end()
            with self._engine._wake:
                self._check()
                self._seat.interrupt()
                self._engine._wake.notify_all()

    def switch(
        self,
        image=None,
        emotion: str | None = None,
        action: str | None = None,
        strength: float | None = None,
        ramp: float = 0.0,
        policy: str = "anchor",
    ) -> None:
        """Change words, portrait or strength of motion from the next block on; see `edits.Edit`.

        What is left out stays. Two changes before one block become one.

        Raises:
          InputError: something given cannot be used, or the session is closed.
        """
        picture = None if image is None else self._engine.picture(image)
        new = Edit(0.0, emotion=emotion, action=action, ramp=ramp, strength=strength, picture=picture, policy=policy)
        with self._engine._wake:
            self._check()
            if old := self._seat.change:
                names = ("emotion", "action", "strength", "picture")
                kept = {name: getattr(old, name) for name in names if getattr(new, name) is None}
                new = dataclasses.replace(new, **kept)
            self._seat.change = new

    def take(self, timeout: float | None = 0.0) -> Shown | None:
        """The next frames, waited for at most `timeout` seconds; None if there are none. None as time: any time.

        Raises:
          RuntimeError: the stream failed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        seat = self._seat
        with self._engine._wake:
            while (shown := seat.take(time.monotonic())) is None:
                if seat.error:
                    raise RuntimeError(f"the stream failed: {seat.error}") from seat.error
                left = None if until is None else until - time.monotonic()
                if seat.closed or (left is not None and left <= 0.0) or (timeout is None and seat.drained):
                    return None
                seat.news.wait(left)
            self._engine._wake.notify_all()  # there is room again
        return shown

    def __iter__(self) -> Iterator[Shown]:
        """Frames as they come, until the session is closed; without pace, until all that was ended is out."""
        while (shown := self.take(None)) is not None:
            yield shown

    def report(self) -> dict:
        """What was counted and measured so far; times in milliseconds over the newest 1024 blocks.

        shown, made: frames taken, and made.
        late: frames that came out after they were due; misses: blocks with such a frame.
        dropped: frames; dropped_by: late (their time was over), queue (not taken in time), interrupt.
        stalls: times that the stream was set back by whole blocks.
        gaps: times that an utterance was torn because its sound came late.
        faults: blocks that were no pictures, each replaced by a still.
        broken: samples that were not numbers, and became silence.
        queue_seconds: sound that waits; waiting: blocks that wait to be taken.
        position: seconds made; delay_seconds: from a sound to its frame.
        block_ms: computing time of a block; stages_ms: see `stages.Block`.
        """
        with self._engine._wake:
            seat = self._seat
            blocks, made = list(seat.blocks), seat.timeline.made
            return {
                "shown": seat.shown,
                "made": made,
                "late": seat.late,
                "dropped": sum(seat.dropped.values()),
                "dropped_by": dict(seat.dropped),
                "misses": seat.misses,
                "stalls": seat.stalls,
                "gaps": seat.sound.gaps,
                "faults": seat.faults,
                "broken": self._samples.broken,
                "queue_seconds": self.queue_seconds,
                "waiting": len(seat.out),
                "position": made / drive.FPS,
                "delay_seconds": self.delay,
                "block_ms": percentiles(block.work for block in blocks),
                "stages_ms": {name: percentiles(getattr(block, name) for block in blocks) for name in STAGES},
            }

    def save(self, path) -> None:
        """Save the stream as it is before its next block; `Engine.open(resume=path)` goes on with it.

        The frames to come are the same bit for bit, in the same slot of an engine of as many slots. Frames that wait to
        be taken stay with this session. Motion that was given to `open` must be given again.

        Raises:
          InputError: the session is closed.
          OSError: the file cannot be written.
        """
        with self._input:
            rest = self._samples.end()  # a resampler cannot be saved: what follows begins a new one here and there
            with self._engine._wake:
                self._check()
                if len(rest):
                    self._seat.push(rest)
            self._engine._do(lambda: self._engine._save(self._seat, path))

    def close(self) -> None:
        """Leave the slot to others. Frames that wait can still be taken."""
        self._engine._leave(self._seat)

    def __enter__(self) -> "LiveSession":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check(self) -> None:
        if self._seat.closed:
            raise InputError("the session is closed: open another") from self._seat.error
