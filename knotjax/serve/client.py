"""One client's conversation over its WebSocket, from hello to close."""

import asyncio
import contextlib
import json
import logging
import math
import time
import uuid

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from knotjax.errors import InputError
from knotjax.serve import limits
from knotjax.serve.access import bearer, token_matches
from knotjax.serve.hub import Crowded, Hub
from knotjax.serve.messages import Message, Refusal, parse
from knotjax.serve.output import Fragment, Output
from knotjax.serve.states import Life, State
from knotjax.serve.uploads import Upload

_log = logging.getLogger(__name__)
TAKE_SECONDS = 0.25  # a session that ends is left within this time
TOLD_EVERY = 1.0  # seconds between two messages that sound was dropped


class Ended(Exception):
    """The conversation is over.

    Attributes:
      code: WebSocket close code; None when the client has gone.
      kind: of the error to tell before, or None.
    """

    def __init__(self, code: int | None, reason: str, kind: str | None = None):
        super().__init__(reason)
        self.code, self.reason, self.kind = code, reason, kind


async def _or_after(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, but not longer. (`asyncio.wait_for` may lose a cancellation that comes with the event.)"""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()


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


class Bucket:
    """How many messages a client may still send: so many at once, and so many each second."""

    def __init__(self):
        self._left, self._at = limits.MESSAGES_AT_ONCE, time.monotonic()

    def take(self, cost: float) -> bool:
        now = time.monotonic()
        fresh = self._left + (now - self._at) * limits.MESSAGES_PER_SECOND
        self._left, self._at = min(limits.MESSAGES_AT_ONCE, fresh) - cost, now
        return self._left >= 0.0


class Client:
    """One client.

    One task reads what it sends, one leads it through its life and sends; the first to end, ends the other.

    Attributes:
      id: of the server's own making.
      session: of the engine, once it streams, else None.
      last: fragment sent, or None.
    """

    def __init__(self, socket: WebSocket, hub: Hub):
        self.id, self.task = str(uuid.uuid4()), asyncio.current_task()
        self.session = self.last = None
        self._socket, self._hub, self._settings = socket, hub, hub.settings
        self._life, self._bucket, self._mistakes = Life(), Bucket(), 0
        self._greeted, self._started = asyncio.Event(), asyncio.Event()
        self._asked = asyncio.Event()  # to end
        self._news = asyncio.Event()  # a fragment was confirmed, or the end was asked for
        self._sending = asyncio.Lock()
        self._end: Ended | None = None
        self._heard, self._overrun_told = time.monotonic(), -math.inf
        self._picture, self._upload, self._rate = hub.picture, None, None
        self._opening, self._output = None, None
        self._sent, self._confirmed, self._sent_at, self._round_ms = 0, 0, {}, None
        self._cut = False  # whether the next fragment is the first after an interruption
        self._first_at = None

    def ask_to_end(self, code: int, reason: str) -> None:
        """Finish the block that is being made, then close."""
        self._end = self._end or Ended(code, reason)
        self._asked.set()
        self._news.set()

    async def run(self) -> None:
        """Talk until the end; nothing is left behind."""
        self._hub.clients.add(self)
        tasks = [asyncio.create_task(part) for part in (self._read(), self._lead(), self._leave())]
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
        await self._close(ended)

    def _why(self, done) -> Ended:
        for task in done:
            error = task.exception()
            if isinstance(error, Ended):
                return error
            if error is not None:
                _log.error("client %s: unexpected fault", self.id, exc_info=error)
                return Ended(limits.FAULT, "fault of the server", "fault")
        return Ended(1000, "bye")

    async def _close(self, ended: Ended) -> None:
        if ended.code is None:
            return
        with contextlib.suppress(Ended, WebSocketDisconnect, RuntimeError, TimeoutError):
            if ended.kind:
                await self._tell(type="error", code=ended.kind, text=ended.reason)
            async with asyncio.timeout(1.0):
                await self._socket.close(ended.code, ended.reason)

    # Sending.

    async def _send(self, data: bytes | str) -> None:
        sending = self._socket.send_text if isinstance(data, str) else self._socket.send_bytes
        try:
            async with asyncio.timeout(self._settings.send_seconds), self._sending:
                await sending(data)
        except TimeoutError:
            self._hub.counts["stalled"] += 1
            raise Ended(limits.AGAIN, "you do not read") from None
        except (WebSocketDisconnect, RuntimeError):
            raise Ended(None, "gone") from None

    async def _tell(self, **message) -> None:
        await self._send(json.dumps(message, allow_nan=False))

    # Reading.

    async def _read(self) -> None:
        while True:
            event = await self._socket.receive()
            if event["type"] == "websocket.disconnect":
                raise Ended(None, "gone")
            if self._life.state is State.CLOSED:
                continue  # it is being sent away
            if not self._bucket.take(1.0):
                raise Ended(limits.FLOOD, "too many messages", "flood")
            try:
                if event.get("text") is not None:
                    await self._control(parse(event["text"]))
                else:
                    await self._data(event.get("bytes") or b"")
            except Refusal as error:
                await self._refuse(error)

    async def _refuse(self, error: Refusal) -> None:
        self._mistakes += error.code != "audio_overrun"
        self._hub.counts[f"refused_{error.code}"] += 1
        if self._life.state is State.GREETING:
            raise Ended(limits.POLICY, str(error), error.code)
        if self._mistakes >= limits.MISTAKES:
            raise Ended(limits.TOO_MANY_MISTAKES, "too many messages that cannot be used", error.code)
        if error.code == "audio_overrun":
            if time.monotonic() - self._overrun_told < TOLD_EVERY:
                return
            self._overrun_told = time.monotonic()
        await self._tell(type="error", code=error.code, text=str(error))

    async def _control(self, message: Message) -> None:
        kind = message.type
        self._life.check(kind)
        if kind != "got":
            self._heard = time.monotonic()
        await getattr(self, f"_on_{kind}")(message)

    async def _on_hello(self, message) -> None:
        if not token_matches(message.token or bearer(self._socket.headers), self._settings.token):
            self._hub.counts["wrong_token"] += 1
            await asyncio.sleep(1.0)  # a guess costs time
            raise Ended(limits.POLICY, "wrong token", "token")
        self._life.become(State.WAITING)
        self._greeted.set()

    async def _on_bye(self, message) -> None:
        self.ask_to_end(1000, "bye")

    async def _on_portrait(self, message) -> None:
        if not self._bucket.take(limits.PICTURE_COST):
            raise Ended(limits.FLOOD, "too many portraits", "flood")
        self._upload = Upload(message.bytes)

    async def _on_start(self, message) -> None:
        options = {"seed": message.seed, "emotion": message.emotion, "action": message.action}
        self._opening = self._hub.submit(self._open, options)
        self._output = await self._use(asyncio.shield(self._opening))
        self.session = self._output.session
        self._life.become(State.LIVE)
        self._started.set()

    def _open(self, options: dict) -> Output:
        session = self._hub.engine.open(self._picture, **options)
        return Output(session, self._hub.size, self._settings.record)

    async def _on_sound(self, message) -> None:
        self._rate = message.rate

    async def _on_end(self, message) -> None:
        await self._use(self._hub.in_thread(self.session.end_segment))

    async def _on_interrupt(self, message) -> None:
        await self._use(self._hub.in_thread(self.session.interrupt))
        self._cut = True

    async def _on_switch(self, message) -> None:
        changes = message.model_dump(exclude={"type"})
        await self._use(self._hub.in_thread(self.session.switch, **changes))

    async def _on_got(self, message) -> None:
        if not self._confirmed <= message.fragment < self._sent:
            raise Refusal("bad_message", f"got: fragment {message.fragment} is not one that awaits it")
        self._round_ms = 1000 * (time.monotonic() - self._sent_at[message.fragment])
        for number in range(self._confirmed, message.fragment + 1):
            del self._sent_at[number]
        self._confirmed = message.fragment + 1
        self._news.set()

    async def _data(self, data: bytes) -> None:
        self._heard = time.monotonic()
        if self._upload is not None:
            await self._picture_data(data)
            return
        self._life.check("sound data")
        if self._rate is None:
            raise Refusal("out_of_order", "sound data cannot be sent before its rate is told")
        if not data or len(data) % 2:
            raise Refusal("bad_sound", f"sound of {len(data)} bytes: send 16-bit samples, one or more")
        await self._use(self._hub.in_thread(self.session.push_audio, np.frombuffer(data, "<i2"), self._rate))

    async def _picture_data(self, data: bytes) -> None:
        self._life.check("picture data")
        upload = self._upload
        try:
            whole = upload.add(data)
        except Refusal:
            self._upload = None
            raise
        if not whole:
            return
        self._upload = None
        async with self._hub.decoding:
            self._picture = await self._hub.in_thread(upload.picture, self._hub.size)
        if self.session is not None:
            await self._use(self._hub.in_thread(self.session.switch, image=self._picture))
        await self._tell(type="portrait")

    async def _use(self, call):
        """Await a call of the engine, which may refuse what the client gave."""
        try:
            return await call
        except Refusal:
            raise
        except InputError as error:
            code = "audio_overrun" if type(error).__name__ == "Overrun" else "refused"
            raise Refusal(code, str(error)) from None

    # Leading.

    async def _leave(self) -> None:
        """Once asked to end, do so; a stream may first finish its block."""
        await self._asked.wait()
        if self._life.state is State.LIVE:
            await asyncio.sleep(limits.END_SECONDS)
        raise self._end

    async def _lead(self) -> None:
        await self._within(self._greeted.wait(), self._settings.hello_seconds, limits.NO_HELLO, "say hello first")
        try:
            async with self._hub.place(self._tell_position):
                await self._use_place()
        except Crowded:
            raise Ended(limits.AGAIN, "all sessions are taken and the queue is full: try later", "full") from None

    async def _tell_position(self, position: int) -> None:
        await self._tell(type="queue", position=position)

    async def _within(self, waiting, seconds: float, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                await waiting
        except TimeoutError:
            raise Ended(code, reason, "timeout") from None

    async def _use_place(self) -> None:
        self._life.become(State.READY)
        await self._tell(type="ready", id=self.id, size=self._hub.size, method=self._hub.method)
        self._heard = time.monotonic()
        try:
            while not self._started.is_set():
                self._check_time()
                await _or_after(0.25, self._started)
            await self._stream()
        finally:
            self._life.become(State.CLOSED)
            await _to_its_end(self._free())

    async def _free(self) -> None:
        """Give the session back, even one that is just being opened."""
        self.session = None
        if self.last is not None:
            self._hub.past["misses"] += self.last.stream.get("misses", 0)
            self._hub.past["left_out"] += self.last.left_out
        if self._opening is not None:
            await asyncio.wait([self._opening])
            if self._opening.exception() is None:
                await self._hub.in_thread(self._opening.result().close)

    def _check_time(self) -> None:
        now = time.monotonic()
        if self._end is not None:
            raise self._end
        if now - self._heard > self._settings.idle_seconds:
            raise Ended(limits.IDLE, f"nothing came for {self._settings.idle_seconds:g} s", "idle")
        longest = self._settings.max_seconds
        if longest is not None and self._first_at is not None and now - self._first_at > longest:
            raise Ended(limits.TIME_OVER, f"a session lasts at most {longest:g} s", "time_over")

    async def _stream(self) -> None:
        self._first_at = time.monotonic()
        while True:
            self._check_time()
            await self._window()
            try:
                fragment = await self._hub.in_thread(self._output.next, TAKE_SECONDS)
            except Exception as error:
                _log.exception("client %s: the stream broke", self.id)
                raise Ended(limits.FAULT, "the stream broke", "fault") from error
            if fragment is not None:
                await self._give(fragment)

    async def _window(self) -> None:
        """Wait while too much is on its way; the stream meanwhile drops frames by its own rule."""
        until = time.monotonic() + self._settings.send_seconds
        while self._sent - self._confirmed >= limits.UNCONFIRMED and self._end is None:
            self._news.clear()
            await _or_after(until - time.monotonic(), self._news)
            if time.monotonic() >= until and self._sent - self._confirmed >= limits.UNCONFIRMED:
                self._hub.counts["stalled"] += 1
                raise Ended(limits.AGAIN, "you do not confirm what you are sent")

    async def _give(self, fragment: Fragment) -> None:
        if fragment.head:
            await self._tell(type="started", mime=fragment.mime)
            await self._send(fragment.head)
        cut, self._cut = self._cut, False
        self._sent_at[fragment.number] = time.monotonic()
        self._sent = fragment.number + 1
        await self._tell(**self._report(fragment, cut))
        await self._send(fragment.data)
        self.last = fragment
        self._hub.fragment_ms.append(fragment.encode_ms)
        self._hub.counts["fragments"] += 1
        self._hub.counts["bytes"] += len(fragment.data)

    def _report(self, fragment: Fragment, cut: bool) -> dict:
        """What goes before a fragment: its place in time, and how the stream does."""
        if fragment.number == 0:
            self._began = time.monotonic() - fragment.seconds
        media = fragment.begins + fragment.seconds
        return {
            "type": "report",
            "fragment": fragment.number,
            "begins": round(fragment.begins, 3),
            "seconds": round(fragment.seconds, 3),
            "cut": cut,
            "idle": fragment.idle,
            "left_out": fragment.left_out,
            "encode_ms": round(fragment.encode_ms, 2),
            "round_ms": None if self._round_ms is None else round(self._round_ms, 2),
            "drift_ms": round(1000 * (time.monotonic() - self._began - media), 2),
            "unconfirmed": self._sent - self._confirmed,
            "recording": None if self._settings.record is None else self._output.recording_failed or "on",
            "stream": fragment.stream,
        }
