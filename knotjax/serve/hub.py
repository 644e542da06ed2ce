"""The engine that all clients share, its sessions, and who waits for one."""

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np

from knotjax.drive import SAMPLE_RATE
from knotjax.serve.limits import END_SECONDS, GONE, WAITING, Settings

_log = logging.getLogger(__name__)


class Crowded(Exception):
    """No session is free and the queue is full."""


def warm(engine, picture: np.ndarray) -> None:
    """Run a session until it shows something, so that everything is compiled."""
    with engine.open(picture, pace=False) as session:
        session.push_audio(np.zeros(2 * SAMPLE_RATE, np.float32))
        for _ in range(600):
            if session.take(1.0) is not None:
                return
    raise RuntimeError("the model shows nothing")


class Hub:
    """Sessions of one engine.

    Args:
      make_engine: makes the engine, which may take long; called in a thread when the server starts.
      picture: uint8 [size, size, 3], the portrait of who uploads none.
      method: its name, to be shown.

    Attributes:
      clients: those that are connected; each has `session` (or None), `ask_to_end(code, reason)` and `task`.
      counts: events since the start, by name; `past` holds what ended sessions counted.
      failure: why there is no engine, or None.
    """

    def __init__(self, make_engine: Callable, picture: np.ndarray, method: str, settings: Settings):
        self.settings, self.picture, self.method = settings, picture, method
        self.size = picture.shape[0]
        self.engine = self.failure = None
        self.clients, self.fragment_ms = set(), deque(maxlen=512)
        self.counts, self.past = Counter(), Counter()
        self.on_failure: Callable[[], None] = lambda: None
        self.decoding = asyncio.Semaphore(1)  # portraits; each may take much memory
        self._make_engine, self._ready = make_engine, asyncio.Event()
        self._free, self._queue = settings.sessions, deque()
        # One that takes from each session and one that gives to it, and two for the rest.
        self._threads = concurrent.futures.ThreadPoolExecutor(2 * settings.sessions + 2, "knotjax-serve")
        self._starting = self.loop = None

    @property
    def ready(self) -> bool:
        """Whether the engine is compiled and warm."""
        return self._ready.is_set()

    @property
    def busy(self) -> int:
        """Sessions that are taken."""
        return self.settings.sessions - self._free

    @property
    def waiting(self) -> int:
        """Clients in the queue."""
        return len(self._queue)

    def submit(self, function, *arguments, **options) -> asyncio.Future:
        """Run something that blocks."""
        call = functools.partial(function, *arguments, **options)
        return self.loop.run_in_executor(self._threads, call)

    def in_thread(self, function, *arguments, **options) -> asyncio.Future:
        """Run something that blocks; it goes on when the one who awaits it is cancelled."""
        return asyncio.shield(self.submit(function, *arguments, **options))

    def start(self) -> None:
        """Begin to make the engine; called in the event loop that all of this runs in."""
        self.loop = asyncio.get_running_loop()
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        try:
            engine = await self.in_thread(self._make_engine)
            self.engine = engine
            await self.in_thread(warm, engine, self.picture)
            self._ready.set()
        except Exception as error:
            _log.exception("the engine did not start")
            self.failure = error
            self.on_failure()

    async def stop(self) -> None:
        """End all sessions and the engine."""
        await self.end_all()
        if self._starting is not None:
            self._starting.cancel()
        if self.engine is not None:
            await self.in_thread(self.engine.close)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def end_all(self) -> None:
        """Ask all clients to finish their block and wait until they have, but not for long."""
        for client in self.clients:
            client.ask_to_end(GONE, "the server ends")
        tasks = [client.task for client in self.clients]
        if tasks:
            await asyncio.wait(tasks, timeout=END_SECONDS)

    @contextlib.asynccontextmanager
    async def place(self, tell: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        """Hold one of the sessions, after waiting for it.

        Args:
          tell: called with the position in the queue, from 1, whenever it changes; 0 while the engine starts.

        Raises:
          Crowded: the queue is full.
        """
        if not self._free or self._queue:
            await self._wait(tell)
        else:
            self._free -= 1
        try:
            if not self.ready:
                await tell(0)
                await self._ready.wait()
            yield
        finally:
            self._release()

    async def _wait(self, tell) -> None:
        """Wait until a session is handed over."""
        if len(self._queue) >= WAITING:
            self.counts["refused_full"] += 1
            raise Crowded
        turn, told = asyncio.get_running_loop().create_future(), None
        self._queue.append(turn)
        try:
            while not turn.done():
                position = self._queue.index(turn) + 1
                if position != told:
                    await tell(position)
                    told = position
                await asyncio.wait([turn], timeout=0.5)
        except BaseException:
            if turn.done():
                self._release()
            else:
                self._queue.remove(turn)
            raise

    def _release(self) -> None:
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._free += 1
