"""One client's conversation over its WebSocket, from hello to close."""

import asyncio
import logging
import time
import uuid

from starlette.websockets import WebSocket

from knotjax.serve import limits
from knotjax.serve.controls import Controls
from knotjax.serve.delivery import Delivery, event_within
from knotjax.serve.hub import Crowded, Hub
from knotjax.serve.line import Ended, Line
from knotjax.serve.states import Life, State

_log = logging.getLogger(__name__)
TAKE_SECONDS = 0.25  # a session that ends is left within this time


async def _to_its_end(coroutine) -> None:
    """Await something that must not be broken off; a cancellation counts after it."""
    task, cancelled = asyncio.ensure_future(coroutine), None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


class Client:
    """One client.

    One task reads what it sends, one leads it through its life and sends; the first to end, ends the other.

    Attributes:
      id: of the server's own making.
    """

    def __init__(self, socket: WebSocket, hub: Hub):
        self.id, self.task = str(uuid.uuid4()), asyncio.current_task()
        self._hub, self._settings, self._life = hub, hub.settings, Life()
        self._line = Line(socket, hub.settings.send_seconds, hub.counts)
        self._delivery = Delivery(self._line, hub)
        self._controls = Controls(self._line, hub, self._life, self._delivery, self.ask_to_end)
        self._asked = asyncio.Event()  # to end
        self._end: Ended | None = None
        self._first_at = None

    @property
    def session(self):
        """Of the engine, while it streams, else None."""
        return self._controls.session

    @property
    def last(self):
        """Fragment sent, or None."""
        return self._delivery.last

    def ask_to_end(self, code: int, reason: str) -> None:
        """Finish the block that is being made, then close."""
        self._end = self._end or Ended(code, reason)
        self._asked.set()
        self._delivery.release()

    async def run(self) -> None:
        """Talk until the end; nothing is left behind."""
        self._hub.clients.add(self)
        tasks = [asyncio.create_task(part) for part in (self._controls.read(), self._lead(), self._leave())]
        ended = Ended(None, "cancelled")
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended = self._why(done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._hub.clients.discard(self)
            self._hub.counts[f"closed_{ended.code or 'by_client'}"] += 1
        await self._line.close(ended)

    def _why(self, done) -> Ended:
        for task in done:
            error = task.exception()
            if isinstance(error, Ended):
                return error
            if error is not None:
                _log.error("client %s: unexpected fault", self.id, exc_info=error)
                return Ended(limits.FAULT, "fault of the server", "fault")
        return Ended(1000, "bye")

    async def _leave(self) -> None:
        """Once asked to end, do so; a stream may first finish its block."""
        await self._asked.wait()
        if self._life.state is State.LIVE:
            await asyncio.sleep(limits.END_SECONDS)
        raise self._end

    async def _lead(self) -> None:
        greeted, seconds = self._controls.greeted, self._settings.hello_seconds
        await self._within(greeted.wait(), seconds, limits.NO_HELLO, "say hello first")
        try:
            async with self._hub.place(self._tell_position):
                await self._use_place()
        except Crowded:
            raise Ended(limits.AGAIN, "all sessions are taken and the queue is full: try later", "full") from None

    async def _tell_position(self, position: int) -> None:
        await self._line.tell(type="queue", position=position)

    async def _within(self, waiting, seconds: float, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                await waiting
        except TimeoutError:
            raise Ended(code, reason, "timeout") from None

    async def _use_place(self) -> None:
        self._life.become(State.READY)
        await self._line.tell(type="ready", id=self.id, size=self._hub.size, method=self._hub.method)
        self._controls.heard = time.monotonic()
        try:
            while not self._controls.started.is_set():
                self._check_time()
                await event_within(0.25, self._controls.started)
            await self._stream()
        finally:
            self._life.become(State.CLOSED)
            await _to_its_end(self._free())

    async def _free(self) -> None:
        """Give the session back, even one that is just being opened."""
        self._controls.session, opening = None, self._controls.opening
        if self.last is not None:
            self._hub.past["misses"] += self.last.stream.get("misses", 0)
            self._hub.past["left_out"] += self.last.left_out
        if opening is not None:
            await asyncio.wait([opening])
            if opening.exception() is None:
                await self._hub.in_thread(opening.result().close)
        await self._delivery.close()

    def _check_time(self) -> None:
        now = time.monotonic()
        if self._end is not None:
            raise self._end
        if now - self._controls.heard > self._settings.idle_seconds:
            raise Ended(limits.IDLE, f"nothing came for {self._settings.idle_seconds:g} s", "idle")
        longest = self._settings.max_seconds
        if longest is not None and self._first_at is not None and now - self._first_at > longest:
            raise Ended(limits.TIME_OVER, f"a session lasts at most {longest:g} s", "time_over")

    async def _stream(self) -> None:
        self._first_at, output = time.monotonic(), self._controls.output
        while True:
            self._check_time()
            await self._delivery.room()
            try:
                fragment = await self._hub.in_thread(output.next, TAKE_SECONDS)
            except Exception as error:
                _log.exception("client %s: the stream broke", self.id)
                raise Ended(limits.FAULT, "the stream broke", "fault") from error
            if fragment is not None:
                recording = None if self._settings.record is None else output.recording_failed or "on"
                await self._delivery.give(fragment, recording)
