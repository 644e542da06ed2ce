"""One model on one device that makes several streams at once."""

import atexit
import itertools
import math
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from knotjax import drive
from knotjax.edits import Edit
from knotjax.errors import InputError
from knotjax.live import saved, slots, stages
from knotjax.live.clock import Beat, Pace, hears
from knotjax.live.seat import Seat
from knotjax.live.session import LiveSession
from knotjax.live.stages import Block
from knotjax.media import read_picture
from knotjax.models import motion, speech
from knotjax.models.dit import Conditions
from knotjax.portrait_stream import begin, carry_out
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.recovery import Limits
from knotjax.timeline import Timeline

MAX_SLOTS = 64
LIMITS = Limits(step=math.inf, drift=math.inf)  # a stream may get another portrait, which looks different


class Full(InputError):
    """No slot is free."""


class Engine:
    """A fixed number of slots, batched into one compiled step; every stream is at its own phase.

    One thread makes the blocks. Streams come and go without a compilation, and one that comes, goes, waits or fails
    does not change a bit of the others.

    Example:
      with Engine(Animator.load()) as engine, engine.open("me.png") as session:
          session.push_audio(samples, 48_000)
          for shown in session:
              ...

    Args:
      animator: the loaded model.
      slots: streams at once.
      plan: a streaming plan; the trained one by default.

    Raises:
      InputError: slots outside 1 .. 64.
    """

    def __init__(self, animator, slots: int = 1, plan: StreamPlan | None = None):
        if not 1 <= slots <= MAX_SLOTS:
            raise InputError(f"slots {slots}: give a number from 1 to {MAX_SLOTS}")
        self.model, self.plan = animator.model, plan or animator.plan()
        self._seats: list[Seat | None] = [None] * slots
        self._slots = None  # the device's part of them
        self._beat = Beat.of(self.plan)
        self._lock = threading.RLock()  # of all seats
        self._wake = threading.Condition(self._lock)  # there may be something to do
        self._jobs: deque[tuple[Callable, Future]] = deque()
        self._trace: deque[Block] = deque(maxlen=stages.KEPT)
        self._closed, self._error = False, None
        self._thread = threading.Thread(target=self._run, name="knotjax-live", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        try:
            self._do(self._warm)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Height and width of the frames in pixels."""
        return self.model.codec.size

    @property
    def free(self) -> int:
        """Slots in which no stream is."""
        with self._wake:
            return sum(seat is None for seat in self._seats)

    def open(
        self,
        image=None,
        *,
        seed: int = 0,
        emotion: str | None = None,
        action: str | None = None,
        channels: np.ndarray | None = None,
        present=None,
        pace: bool = True,
        resume=None,
    ) -> LiveSession:
        """Start a stream in a free slot.

        Args:
          image: path of a picture, or uint8 [size, size, 3]; not used with `resume`.
          seed: of the stream's noise.
          emotion, action: words of `drive.EMOTIONS` and `drive.ACTIONS`.
          channels, present: given motion, see `Animator.stream`.
          pace: show 25 frames per second from now on, with idle motion while no sound is there; else make every block
            as soon as its sound is there.
          resume: path of a saved session to go on with.

        Raises:
          Full: no slot is free.
          InputError: the picture, a word or the saved session cannot be used, or the engine is closed.
        """
        try:
            drive.word_ids(emotion, action)
        except ValueError as error:
            raise InputError(str(error)) from error
        if image is None and resume is None:
            raise InputError("no picture: give one, or a saved session to resume")
        picture = self.picture(image) if resume is None else None
        told = {"channels": channels, "present": present, "emotion": emotion, "action": action}
        return LiveSession(self, self._do(lambda: self._join(picture, seed, told, pace, resume)))

    def picture(self, image) -> np.ndarray:
        """A portrait as a stream takes it, uint8 [size, size, 3].

        Raises:
          InputError: it cannot be used.
        """
        if not isinstance(image, np.ndarray):
            return read_picture(image, self.size)
        if image.shape != (self.size, self.size, 3) or image.dtype != np.uint8:
            wanted = f"uint8[{self.size}, {self.size}, 3]"
            raise InputError(f"picture of {image.dtype}{list(image.shape)}: give {wanted}, or the path of a file")
        return np.array(image)

    def trace(self, path) -> None:
        """Write the stages of the newest 4096 blocks as JSON lines; see `stages.Block`."""
        with self._wake:
            blocks = list(self._trace)
        stages.write(path, blocks)

    def close(self) -> None:
        """End all streams. What they have made can still be taken."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # on the engine's thread, between two blocks

    def _do(self, job: Callable):
        """Have the engine's thread do something between two blocks, and wait for what it returns."""
        future = Future()
        with self._wake:
            if self._closed:
                raise InputError("the engine is closed: open another") from self._error
            self._jobs.append((job, future))
            self._wake.notify_all()
        return future.result()

    def _join(self, picture, seed: int, told: dict, pace: bool, resume) -> Seat:
        with self._wake:
            slot = next((n for n, seat in enumerate(self._seats) if seat is None), None)
        if slot is None:
            raise Full(f"all {len(self._seats)} streams are taken: try again later")
        timeline = Timeline(self.model, self.plan, **told)
        seat = Seat(slot, timeline, self._beat, self._lock, None)
        if resume is None:
            one = slots.gather(*begin(self.model, self.plan, picture, timeline.script.rows, seed))
        else:
            one = saved.read(resume, seat, jax.eval_shape(slots.take, self._slots, 0), self.identity)
        if self._slots is None:
            self._slots = slots.empty(one, len(self._seats))
        self._slots = slots.put(self._slots, one, np.int32(slot))
        with self._wake:
            if pace:
                now = time.monotonic()
                if not any(seat and seat.pace for seat in self._seats):
                    self._beat.origin = now + (self._beat.period if timeline.step else hears(self.plan, 0))
                seat.pace = Pace(self.plan, self._beat, now, timeline.step)
            self._seats[slot] = seat
        return seat

    def _leave(self, seat: Seat) -> None:
        """Free a slot; from any thread."""
        with self._wake:
            seat.fail()
            if self._seats[seat.slot] is seat:
                self._seats[seat.slot] = None
            self._wake.notify_all()

    def _save(self, seat: Seat, path) -> None:
        with self._wake:
            seat.settle()
        one = slots.take(self._slots, np.int32(seat.slot))
        with self._wake:
            saved.write(path, seat, one, self.identity)

    @cached_property
    def identity(self) -> dict:
        """What must be the same for a saved session to go on in this engine."""
        return saved.identity(self.model, self.plan)

    def _warm(self) -> None:
        """Run everything once, so that nothing is compiled later."""
        grey = np.full((self.size, self.size, 3), 128, np.uint8)
        seat = self._join(grey, 0, {}, False, None)
        policies = ["anchor", "recache"] if self.plan.recache else ["anchor"]
        changes = [Edit(0.0, policy=policy, picture=picture) for policy in policies for picture in (None, grey)]
        for change in [*changes, *[None] * self.plan.blocks]:
            seat.change = change
            seat.out.clear()
            with self._wake:
                seat.push(np.zeros(seat.timeline.needed(seat.timeline.step) - seat.position, np.float32))
            self._make([seat])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "warm"
            self._save(seat, path)
            self._leave(seat)
            self._leave(self._join(None, 0, {}, False, path))
        if seat.error:
            raise seat.error
        self._trace.clear()

    # the thread

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._closed or self._jobs):
                    now = time.monotonic()
                    ready = [seat for seat in self._seats if seat and seat.ready(now)]
                    times = [seat.next for seat in self._seats if seat and seat.next is not None]
                    if ready:
                        break
                    self._wake.wait(max(0.0, min(times) - now) if times else None)
                jobs, self._jobs = self._jobs, deque()
                if self._closed:
                    break
            for job, future in jobs:
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            if jobs:
                continue
            try:
                self._make(ready)
            except BaseException as error:  # the device failed: the states are lost
                self._error = error
                with self._wake:
                    self._closed = True
                break
        with self._wake:
            jobs, self._jobs = itertools.chain(jobs, self._jobs), deque()
            for seat in filter(None, self._seats):
                seat.fail(self._error)
        for _, future in jobs:
            future.set_exception(InputError("the engine was closed"))

    def _make(self, seats: list[Seat]) -> None:
        """One block of some streams."""
        plan, params, count = self.plan, self.model.params, len(self._seats)
        text = np.zeros((count, drive.TEXT_SLOTS, self.model.dit.text_dim), np.float32)
        audio = np.zeros((count, plan.span, speech.WINDOW_FRAMES, speech.WIDTH), np.float32)
        moves = np.zeros((count, plan.span, motion.WINDOW_FRAMES, motion.WIDTH), np.float32)
        active, emits, start = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, np.int32)
        began, going = time.monotonic(), []
        for seat in seats:
            slot, timeline = seat.slot, seat.timeline
            block = Block(began, slot, len(seats), timeline.step)
            try:
                with self._wake:
                    block.wait = 0.0 if seat.next is None else began - seat.next
                    turn = seat.begin()
                moment = timeline.moment()
                text[slot] = moment.text
                if moment.switch:
                    self._change(slot, moment)
                audio[slot], moves[slot] = timeline.windows(moment.strength)
            except Exception as error:  # of this stream alone
                with self._wake:
                    seat.fail(error)
                continue
            emitted = len(plan.emitted(timeline.step))
            active[slot], emits[slot], start[slot] = True, emitted > 0, (plan.chunk - emitted) % plan.chunk
            going.append((seat, block, turn))
        if not going:
            return
        prepared = time.monotonic()
        conditions = Conditions(text, audio, moves)
        self._slots, latents, bad = slots.turn(
            self.model.denoiser, plan, params["dit"], self._slots, conditions, active, LIMITS
        )
        bad = np.asarray(bad)
        stepped = decoded = time.monotonic()
        pixels = [None] * count
        if emits.any():
            self._slots, frames = slots.render(self.model.pixels, params["codec"], self._slots, latents, start, emits)
            pixels = np.asarray(frames)
            decoded = time.monotonic()
        with self._wake:
            for seat, block, turn in going:
                block.features, block.step, block.decode = prepared - began, stepped - prepared, decoded - stepped
                seat.finish(pixels[seat.slot], bool(bad[seat.slot]), block, decoded, turn)
                self._trace.append(block)

    def _change(self, slot: int, moment) -> None:
        """Another portrait or other words in one slot."""
        one = slots.take(self._slots, np.int32(slot))
        stream, pixels = carry_out(self.model, self.plan, one.stream, one.pixels, moment)
        record = one.record
        if moment.picture is not None:
            record = slots.gather(stream, pixels).record
        self._slots = slots.put(self._slots, slots.Slots(stream, pixels, record), np.int32(slot))
