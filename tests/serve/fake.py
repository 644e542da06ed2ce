"""An engine without a model, with the interface of `knotjax.live`: a face whose mouth opens with the sound."""

import dataclasses
import threading
import time
from collections import deque

import numpy as np

from knotjax import drive
from knotjax.errors import InputError
from knotjax.live import Overrun
from knotjax.media import read_picture
from knotjax.media.samples import Samples

FIRST, BLOCK, BEHIND = 9, 12, 24  # frames of the first block, of the others, and late from which they are dropped


class Full(InputError):
    """No slot is free."""


@dataclasses.dataclass(frozen=True)
class Shown:
    frames: np.ndarray
    sound: np.ndarray
    first: int
    due: float
    idle: bool
    turn: int = 0


class Engine:
    """`speed` makes time run faster; the block with the number `fault` fails.

    A `patient` one waits for the first sound and drops nothing, so that what it shows does not depend on time.
    """

    def __init__(self, size=64, slots=1, speed=1.0, fault=None, patient=False):
        self.size, self.slots, self.speed, self.fault, self.patient = size, slots, speed, fault, patient
        self.sessions, self.closed, self.opened = set(), False, deque(maxlen=4)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def open(self, image, *, seed=0, emotion=None, action=None, pace=True):
        if len(self.sessions) >= self.slots:
            raise Full("all sessions are taken: try again later")
        picture = image if isinstance(image, np.ndarray) else read_picture(image, self.size)
        session = Session(self, picture, seed, pace)
        session.calls.append(("open", seed, emotion, action))
        self.sessions.add(session)
        self.opened.append(session)
        return session

    def close(self):
        for session in list(self.sessions):
            session.close()
        self.closed = True


class Session:
    def __init__(self, engine, picture, seed, pace):
        self._engine, self._picture, self._pace = engine, picture, pace
        self._noise = np.random.default_rng(seed).integers(0, 40, picture.shape, np.uint8)
        self._samples, self._queue = Samples(), np.zeros(0, np.float32)
        self._lock, self._began, self._frame, self._made = threading.RLock(), time.monotonic(), 0, 0
        self.closed, self.calls, self.dropped, self.turn = False, [], 0, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def push_audio(self, pcm, rate=drive.SAMPLE_RATE):
        with self._lock:
            if len(self._queue) + len(pcm) * drive.SAMPLE_RATE / rate > 10 * drive.SAMPLE_RATE:
                raise Overrun("more than 10 s of sound wait to be spoken: send it more slowly")
            self._queue = np.concatenate([self._queue, self._samples.push(pcm, rate)])

    def end_segment(self):
        with self._lock:
            self.calls.append(("end",))
            self._queue = np.concatenate([self._queue, self._samples.end()])

    def interrupt(self):
        with self._lock:
            self.calls.append(("interrupt",))
            self.turn += 1
            self._queue = self._queue[:0]

    def switch(self, image=None, emotion=None, action=None, strength=None, ramp=0.0):
        with self._lock:
            self.calls.append(("switch", image is not None, emotion, action, strength, ramp))
            if image is not None:
                self._picture = image

    def _due(self, frame):
        return self._began + frame / drive.FPS / self._engine.speed

    def take(self, timeout):
        count = BLOCK if self._frame else FIRST
        until = time.monotonic() + timeout
        due = self._due(self._frame + count)
        while self._pace and not self.closed and (left := min(due, until) - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
        if self.closed or (self._pace and time.monotonic() < due):
            return None
        if self._engine.patient and not self._made and not len(self._queue):
            time.sleep(0.02)
            return None
        if self._engine.fault == self._made:
            raise RuntimeError("the model broke")
        with self._lock:
            while (
                self._pace
                and not self._engine.patient
                and time.monotonic() - self._due(self._frame + count) > BEHIND / drive.FPS
            ):
                self._queue, self._frame, self.dropped = (
                    self._queue[drive.FRAME * count :],
                    self._frame + count,
                    self.dropped + count,
                )
                count = BLOCK
            held = self._queue[: drive.FRAME * count]
            sound, self._queue = np.pad(held, (0, drive.FRAME * count - len(held))), self._queue[len(held) :]
            first, self._frame, self._made = self._frame, self._frame + count, self._made + 1
            frames = np.stack(
                [self._draw(first + n, sound[drive.FRAME * n : drive.FRAME * (n + 1)]) for n in range(count)]
            )
            return Shown(frames, sound, first, due, not len(held), self.turn)

    def _draw(self, number, sound):
        size = self._engine.size
        frame = self._picture // 2 + self._noise
        opening = round(size / 5 * min(1.0, 4.0 * float(np.sqrt(np.mean(np.square(sound))))))
        middle, left, right = round(0.72 * size), round(0.38 * size), round(0.62 * size)
        frame[middle - opening // 2 : middle + opening // 2 + 1, left:right] = (70, 10, 10)
        frame[:2, : number % size] = 255
        return frame

    def report(self):
        with self._lock:
            queued, times = len(self._queue) / drive.SAMPLE_RATE, {"p50": 1.5, "p95": 2.0, "p99": 2.5, "max": 3.0}
            counts = {"misses": 0, "dropped": self.dropped, "made": self._frame, "delay_seconds": 0.84}
            return counts | {"queue_seconds": queued, "block_ms": times, "nothing": float("nan")}

    def close(self):
        self.closed = True
        self._engine.sessions.discard(self)
