"""What each message of a client does to its session."""

import asyncio
import math
import time
from collections.abc import Callable

import numpy as np

from knotjax.errors import InputError
from knotjax.live import Overrun
from knotjax.serve import limits
from knotjax.serve.access import bearer, token_matches
from knotjax.serve.delivery import Delivery
from knotjax.serve.hub import Hub
from knotjax.serve.line import Ended, Line
from knotjax.serve.messages import Message, Refusal, parse
from knotjax.serve.output import Output
from knotjax.serve.states import Life, State
from knotjax.serve.uploads import Upload

TOLD_EVERY = 1.0  # seconds between two messages that sound was dropped


def _webrtc():
    """The module, which takes a while to load."""
    try:
        from knotjax.serve import webrtc
    except ModuleNotFoundError as error:
        raise InputError(f'WebRTC needs {error.name}: pip install "knotjax[webrtc]"') from None
    return webrtc


class Controls:
    """Reads what one client sends, and does it.

    Args:
      leave: called with a close code and a reason when it is to end.

    Attributes:
      session: of the engine, once it streams, else None.
      opening: future of the output, once it is asked for; ends in `output`.
      greeted, started: whether it said hello, and streams.
      heard: when the newest message came that is more than a confirmation.
    """

    def __init__(self, line: Line, hub: Hub, life: Life, delivery: Delivery, leave: Callable[[int, str], None]):
        self.session = self.opening = self.output = None
        self.greeted, self.started = asyncio.Event(), asyncio.Event()
        self.heard = time.monotonic()
        self._line, self._hub, self._life, self._delivery, self._leave = line, hub, life, delivery, leave
        self._picture, self._upload, self._rate = hub.picture, None, None
        self._mistakes, self._overrun_told = 0, -math.inf

    async def read(self) -> None:
        """Do what comes, until something raises `Ended`."""
        while True:
            message = await self._line.receive()
            if self._life.state is State.CLOSED:
                continue  # it is being sent away
            self._line.spend(1.0)
            try:
                if isinstance(message, str):
                    await self._control(parse(message))
                else:
                    await self._data(message)
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
        await self._line.tell(type="error", code=error.code, text=str(error))

    async def _control(self, message: Message) -> None:
        kind = message.type
        self._life.check(kind)
        if kind != "got":
            self.heard = time.monotonic()
        await getattr(self, f"_on_{kind}")(message)

    async def _on_hello(self, message) -> None:
        token = self._hub.settings.token
        if not token_matches(message.token or bearer(self._line.headers), token):
            self._hub.counts["wrong_token"] += 1
            await asyncio.sleep(1.0)  # a guess costs time
            raise Ended(limits.POLICY, "wrong token", "token")
        self._life.become(State.WAITING)
        self.greeted.set()

    async def _on_bye(self, message) -> None:
        self._leave(1000, "bye")

    async def _on_portrait(self, message) -> None:
        self._line.spend(limits.PICTURE_COST, "portraits")
        self._upload = Upload(message.bytes)

    async def _on_offer(self, message) -> None:
        self._line.spend(limits.PICTURE_COST, "offers")
        if self._delivery.peer is not None:
            raise Refusal("out_of_order", "offer cannot be sent twice")
        webrtc = await self._use(self._hub.in_thread(_webrtc))
        broke = limits.AGAIN, "the media connection broke"
        peer = self._delivery.peer = webrtc.Peer(self._line.address, lambda: self._leave(*broke))
        try:
            sdp = await peer.answer(message.sdp)
        except Refusal:
            self._delivery.peer = None
            await peer.close()
            raise
        await self._line.tell(type="answer", sdp=sdp)

    async def _on_start(self, message) -> None:
        options = {"seed": message.seed, "emotion": message.emotion, "action": message.action}
        self.opening = self._hub.submit(self._open, options)
        self.output = await self._use(asyncio.shield(self.opening))
        self.session = self.output.session
        self._life.become(State.LIVE)
        self.started.set()

    def _open(self, options: dict) -> Output:
        session = self._hub.engine.open(self._picture, **options)
        return Output(session, self._hub.size, self._hub.settings.record, pack=self._delivery.peer is None)

    async def _on_sound(self, message) -> None:
        self._rate = message.rate

    async def _on_end(self, message) -> None:
        await self._use(self._hub.in_thread(self.session.end_segment))

    async def _on_interrupt(self, message) -> None:
        await self._use(self._hub.in_thread(self.session.interrupt))
        self._delivery.interrupt(self.session.turn)

    async def _on_switch(self, message) -> None:
        changes = message.model_dump(exclude={"type"})
        await self._use(self._hub.in_thread(self.session.switch, **changes))

    async def _on_got(self, message) -> None:
        self._delivery.confirm(message.fragment)

    async def _data(self, data: bytes) -> None:
        self.heard = time.monotonic()
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
        await self._line.tell(type="portrait")

    async def _use(self, call):
        """Await a call of the engine, which may refuse what the client gave."""
        try:
            return await call
        except Refusal:
            raise
        except InputError as error:
            code = "audio_overrun" if isinstance(error, Overrun) else "refused"
            raise Refusal(code, str(error)) from None
