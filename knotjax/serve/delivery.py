"""How a stream gets to its client: as fragments, only so many on their way at once, or over WebRTC."""

import asyncio
import contextlib
import dataclasses
import time

from knotjax.serve import limits
from knotjax.serve.hub import Hub
from knotjax.serve.line import Ended, Line
from knotjax.serve.messages import Refusal
from knotjax.serve.output import Fragment


async def event_within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, but not longer. (`asyncio.wait_for` may lose a cancellation that comes with the event.)"""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()


class Delivery:
    """The fragments of one client, each after a report.

    Attributes:
      last: fragment sent, or None.
      peer: media connection that shows them, else they are sent as they are.
    """

    def __init__(self, line: Line, hub: Hub):
        self.last, self.peer, self._cut = None, None, False
        self._line, self._hub = line, hub
        self._news = asyncio.Event()  # a fragment was confirmed, or nobody waits for it any more
        self._ending = False
        self._sent, self._confirmed, self._sent_at, self._round_ms = 0, 0, {}, None
        self._began = None  # when the video would have begun, had its first fragment come without delay

    def release(self) -> None:
        """Let nothing wait for confirmations any more."""
        self._ending = True
        self._news.set()

    def interrupt(self, turn: int) -> None:
        """What comes next is the first after an interruption; `turn` is their number."""
        self._cut = True
        if self.peer is not None:
            self.peer.interrupt(turn)

    async def close(self) -> None:
        """Nothing more is sent."""
        if self.peer is not None:
            await self.peer.close()

    def confirm(self, number: int) -> None:
        """A fragment and those before it have arrived.

        Raises:
          Refusal: it is not on its way.
        """
        if not self._confirmed <= number < self._sent:
            raise Refusal("bad_message", f"got: fragment {number} is not one that awaits it")
        self._round_ms = 1000 * (time.monotonic() - self._sent_at[number])
        for passed in range(self._confirmed, number + 1):
            del self._sent_at[passed]
        self._confirmed = number + 1
        self._news.set()

    async def room(self) -> None:
        """Wait while too much is on its way; the stream meanwhile drops frames by its own rule.

        Raises:
          Ended: it takes too long.
        """
        if self.peer is not None:  # RTP is not confirmed: who is too slow loses some of it
            if not await self.peer.connected():
                raise Ended(limits.AGAIN, f"no media connection within {limits.PEER_SECONDS:g} s", "timeout")
            return
        seconds = self._hub.settings.send_seconds
        until = time.monotonic() + seconds
        while self._sent - self._confirmed >= limits.UNCONFIRMED and not self._ending:
            self._news.clear()
            await event_within(until - time.monotonic(), self._news)
            if time.monotonic() >= until and self._sent - self._confirmed >= limits.UNCONFIRMED:
                self._hub.counts["stalled"] += 1
                raise Ended(limits.AGAIN, "you do not confirm what you are sent")

    async def give(self, fragment: Fragment, recording: str | None) -> None:
        """Send a fragment.

        Args:
          recording: how the recording does, to be told.

        Raises:
          Ended: the client is gone or does not read.
        """
        cut, self._cut = self._cut, False
        if self.peer is not None:
            fragment = dataclasses.replace(fragment, left_out=fragment.left_out + self.peer.left_out)
            await self._show(fragment, cut, recording)
        else:
            await self._send(fragment, cut, recording)
        self.last = dataclasses.replace(fragment, data=b"", shown=None)
        self._hub.fragment_ms.append(fragment.encode_ms)
        self._hub.counts["fragments"] += 1

    async def _show(self, fragment: Fragment, cut: bool, recording: str | None) -> None:
        if fragment.number == 0:
            await self._line.tell(type="started", mime=None)
        self.peer.show(fragment.shown)
        await self._line.tell(**self._report(fragment, cut, recording))

    async def _send(self, fragment: Fragment, cut: bool, recording: str | None) -> None:
        if fragment.number == 0:
            await self._line.tell(type="started", mime=fragment.mime)
            await self._line.send(fragment.head)
        self._sent_at[fragment.number] = time.monotonic()
        self._sent = fragment.number + 1
        await self._line.tell(**self._report(fragment, cut, recording))
        await self._line.send(fragment.data)
        self._hub.counts["bytes"] += len(fragment.data)

    def _report(self, fragment: Fragment, cut: bool, recording: str | None) -> dict:
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
            "recording": recording,
            "stream": fragment.stream,
        }
