"""A stream as WebRTC: pictures and sound as RTP, straight to one client; needs the package `aiortc`."""

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, VideoFrame

from knotjax.drive import FPS, SAMPLE_RATE
from knotjax.serve import limits
from knotjax.serve.messages import Refusal

PACKET = SAMPLE_RATE // 50  # samples of a packet of sound, 20 ms
TICKS = {"video": 90_000, "audio": SAMPLE_RATE}  # per second, of the times of frames
HELD = {"video": 2 * FPS, "audio": 2 * 50}  # frames that may wait: 2 s; of more the oldest are dropped
OTHERS_ADDRESSES = re.compile(r"^a=(candidate|end-of-candidates|remote-candidates)\b.*\r?\n", re.MULTILINE)


class Track(MediaStreamTrack):
    """What was put in, each frame when it is due.

    Attributes:
      left_out: frames dropped because more than 2 s waited for a sender that is too slow.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.left_out = kind, 0
        self._began, self._next = time.monotonic(), 0.0
        self._held, self._news = deque(maxlen=HELD[kind]), asyncio.Event()

    def put(self, frame: AudioFrame | VideoFrame, due: float, seconds: float) -> None:
        """Add a frame that is to be shown for some seconds from `due` on (monotonic clock), and after those before."""
        due = max(due, self._next)
        self._next = due + seconds
        frame.time_base = Fraction(1, TICKS[self.kind])
        frame.pts = round((due - self._began) * TICKS[self.kind])
        self.left_out += len(self._held) == self._held.maxlen
        self._held.append((due, frame))
        self._news.set()

    def clear(self) -> None:
        """Forget what is not sent yet."""
        if self._held:
            self._next = self._held[0][0]
            self._held.clear()

    async def recv(self) -> AudioFrame | VideoFrame:
        """The next frame, in its time; called by the sender."""
        while self.readyState == "live":
            if not self._held:
                self._news.clear()
                await self._news.wait()
            elif (left := self._held[0][0] - time.monotonic()) > 0:
                await asyncio.sleep(left)  # and look again: it may be forgotten meanwhile
            else:
                return self._held.popleft()[1]
        raise MediaStreamError


def confine(connection: RTCPeerConnection, address: str) -> None:
    """Let a connection use one address of this machine; by itself it takes all but that of the loopback."""
    transports = {one.receiver.transport.transport for one in connection.getTransceivers()}
    for ice in (transport.iceGatherer._connection for transport in transports):
        gather = ice.get_component_candidates
        ice.get_component_candidates = lambda component, addresses, gather=gather: gather(component, [address])


class Peer:
    """The media connection of one client.

    It asks no other server, sends to nobody but who proves to have read the answer, whatever addresses the offer names,
    and receives no media.

    Args:
      address: of this machine, which the client reached it under.
      lost: called when it breaks.
    """

    def __init__(self, address: str, lost: Callable[[], None]):
        self._address, self._lost = address, lost
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connection.on("connectionstatechange", self._changed)
        self._connected = asyncio.Event()
        self._tracks = {kind: Track(kind) for kind in TICKS}
        self._turn, self._closed = 0, False

    @property
    def left_out(self) -> int:
        """Pictures dropped because they could not be sent in time."""
        return self._tracks["video"].left_out

    async def answer(self, offer: str) -> str:
        """Take an offer (SDP) to receive one video and one audio track; returns the answer.

        Raises:
          Refusal: it is no such offer.
        """
        connection = self._connection
        try:
            async with asyncio.timeout(limits.SEND_SECONDS):
                await connection.setRemoteDescription(RTCSessionDescription(OTHERS_ADDRESSES.sub("", offer), "offer"))
                wanted = connection.getTransceivers()
                if sorted(one.kind for one in wanted) != sorted(self._tracks) or connection.sctp is not None:
                    raise ValueError("ask for one video and one audio track, and nothing else")
                for one in wanted:
                    one.sender.replaceTrack(self._tracks[one.kind])
                    one.direction = "sendonly"
                confine(connection, self._address)
                await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # whatever a wrong offer leads to in the library
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise Refusal("bad_offer", f"offer: {reason}") from None
        return connection.localDescription.sdp

    async def connected(self) -> bool:
        """Wait until media can flow; returns whether it can in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.PEER_SECONDS):
                await self._connected.wait()
        return self._connected.is_set()

    def show(self, shown) -> None:
        """Send what a session showed, each frame when it is due."""
        if shown.turn < self._turn:  # taken before an interruption
            return
        sound = np.rint(np.clip(shown.sound, -1.0, 1.0) * 32767.0).astype(np.int16)
        for number, picture in enumerate(shown.frames):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            self._tracks["video"].put(frame, shown.due + number / FPS, 1 / FPS)
        for start in range(0, len(sound), PACKET):
            frame = AudioFrame.from_ndarray(sound[None, start : start + PACKET], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            self._tracks["audio"].put(frame, shown.due + start / SAMPLE_RATE, PACKET / SAMPLE_RATE)

    def interrupt(self, turn: int) -> None:
        """Forget what is not sent yet, and what still comes from before this interruption."""
        self._turn = turn
        for track in self._tracks.values():
            track.clear()

    async def close(self) -> None:
        """End the connection."""
        if self._closed:
            return
        self._closed, self._lost = True, lambda: None
        for track in self._tracks.values():
            track.stop()
        with contextlib.suppress(Exception):  # one that took only half of a wrong offer in, and opened nothing yet
            async with asyncio.timeout(limits.SEND_SECONDS):
                await self._connection.close()

    def _changed(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._lost()
