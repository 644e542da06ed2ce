"""A client's WebSocket: what comes within the client's budget, what goes out within its time."""

import asyncio
import contextlib
import json
import time
from collections import Counter

from starlette.websockets import WebSocket, WebSocketDisconnect

from knotjax.serve import limits


class Ended(Exception):
    """The conversation is over.

    Attributes:
      code: WebSocket close code; None when the client has gone.
      kind: of the error to tell before, or None.
    """

    def __init__(self, code: int | None, reason: str, kind: str | None = None):
        super().__init__(reason)
        self.code, self.reason, self.kind = code, reason, kind


class Bucket:
    """How many messages a client may still send: so many at once, and so many each second."""

    def __init__(self):
        self._left, self._at = limits.MESSAGES_AT_ONCE, time.monotonic()

    def take(self, cost: float) -> bool:
        now = time.monotonic()
        fresh = self._left + (now - self._at) * limits.MESSAGES_PER_SECOND
        self._left, self._at = min(limits.MESSAGES_AT_ONCE, fresh) - cost, now
        return self._left >= 0.0


class Line:
    """One client's WebSocket.

    Every method may raise `Ended`.

    Args:
      seconds: that one send may take.
      counts: of the server's events.
    """

    def __init__(self, socket: WebSocket, seconds: float, counts: Counter):
        self._socket, self._seconds, self._counts = socket, seconds, counts
        self._bucket, self._sending = Bucket(), asyncio.Lock()

    @property
    def headers(self):
        """Of the request that opened it."""
        return self._socket.headers

    @property
    def address(self) -> str:
        """Of this machine, that the client reached."""
        address = self._socket.scope["server"][0]
        return address.removeprefix("::ffff:")

    async def receive(self) -> str | bytes:
        """The next message."""
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise Ended(None, "gone")
        text = event.get("text")
        return event.get("bytes") or b"" if text is None else text

    def spend(self, cost: float, things: str = "messages") -> None:
        """Take the cost of something that came from the client's budget."""
        if not self._bucket.take(cost):
            raise Ended(limits.FLOOD, f"too many {things}", "flood")

    async def send(self, data: bytes | str) -> None:
        """Send one message."""
        sending = self._socket.send_text if isinstance(data, str) else self._socket.send_bytes
        try:
            async with asyncio.timeout(self._seconds), self._sending:
                await sending(data)
        except TimeoutError:
            self._counts["stalled"] += 1
            raise Ended(limits.AGAIN, "you do not read") from None
        except (WebSocketDisconnect, RuntimeError):
            raise Ended(None, "gone") from None

    async def tell(self, **message) -> None:
        """Send a control message."""
        await self.send(json.dumps(message, allow_nan=False))

    async def close(self, ended: Ended) -> None:
        """Tell why it is over, and close. Raises nothing."""
        if ended.code is None:
            return
        with contextlib.suppress(Ended, WebSocketDisconnect, RuntimeError, TimeoutError):
            if ended.kind:
                await self.tell(type="error", code=ended.kind, text=ended.reason)
            async with asyncio.timeout(1.0):
                await self._socket.close(ended.code, ended.reason)
