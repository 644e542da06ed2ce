"""A client that gets its stream as WebRTC, in this process."""

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections import Counter

import av
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from knotjax.serve import limits
from knotjax.serve.messages import Refusal
from tests.serve.fake import Engine
from tests.serve.serving import Client, serving, tone, wait

pytest.importorskip("aiortc", reason="extra 'webrtc'")
import aiortc

from knotjax.serve import webrtc
from tests.serve.test_fuzz import mutated


@pytest.fixture(scope="module")
def server():
    with serving(Engine(slots=2), sessions=2) as server:
        yield server
    assert server.engine.closed and not server.engine.sessions


class Viewer:
    """Speaks the protocol over its WebSocket and keeps what comes over RTP, with the time of its coming."""

    def __init__(self, socket):
        self.socket, self.told, self.code = socket, [], None
        self.pictures, self.sound = [], []
        self.connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.connection.on("track", lambda track: self._tasks.append(asyncio.create_task(self._watch(track))))
        self._tasks = [asyncio.create_task(self._hear())]

    async def _hear(self):
        try:
            async for message in self.socket:
                assert isinstance(message, str), "no fragment comes over the WebSocket"
                self.told.append(json.loads(message))
        finally:
            self.code = self.socket.close_code

    async def _watch(self, track):
        kept = self.pictures if track.kind == "video" else self.sound
        with contextlib.suppress(aiortc.mediastreams.MediaStreamError):
            while True:
                frame = await track.recv()
                array = frame.to_ndarray(format="rgb24") if track.kind == "video" else frame.to_ndarray()[0, ::2]
                kept.append((time.monotonic(), frame.time, array))

    async def tell(self, kind, **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def until(self, condition, seconds=15.0):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end and self.code is None, (self.told[-3:], self.code)
            await asyncio.sleep(0.02)
        return found

    async def came(self, kind, **fields):
        return await self.until(lambda: [m for m in self.told if {"type": kind, **fields}.items() <= m.items()])

    async def offer(self):
        for kind in ("video", "audio"):
            self.connection.addTransceiver(kind, direction="recvonly")
        await self.connection.createOffer()  # makes the transports, to be confined
        webrtc.confine(self.connection, "127.0.0.1")
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def begin(self):
        await self.tell("hello")
        await self.came("ready")
        await self.tell("offer", sdp=await self.offer())
        sdp = (await self.came("answer"))[0]["sdp"]
        await self.connection.setRemoteDescription(aiortc.RTCSessionDescription(sdp, "answer"))
        await self.tell("start")
        await self.until(lambda: self.pictures and self.sound)
        return sdp

    async def close(self):
        for task in self._tasks:
            task.cancel()
        await self.connection.close()


def viewing(server, script):
    """Run a script of a viewer."""

    async def run():
        async with connect(f"ws://127.0.0.1:{server.port}/live", proxy=None) as socket:
            viewer = Viewer(socket)
            try:
                return await script(viewer)
            finally:
                await viewer.close()

    return asyncio.run(run())


def loud(pieces):
    return np.array([float(np.abs(array.astype(float)).mean()) for _, _, array in pieces])


def test_pictures_and_sound_come_together_and_stop_when_interrupted(server):
    async def script(viewer):
        sdp = await viewer.begin()
        hosts = {line.split()[4] for line in sdp.splitlines() if line.startswith("a=candidate")}
        assert hosts == {"127.0.0.1"}, "only the address that the client reached"
        await viewer.tell("sound", rate=16_000)
        for _ in range(16):
            await viewer.socket.send(tone(0.5))
        await viewer.until(lambda: loud(viewer.sound[-20:]).mean() > 1000)
        await asyncio.sleep(1.5)
        session = server.engine.opened[-1]
        assert len(session._queue) > 2 * 16_000, "there is more to say"
        began = time.monotonic()
        await viewer.tell("interrupt")
        await viewer.came("report", cut=True)
        await asyncio.sleep(1.0)
        after = [at - began for at, _, array in viewer.sound if at > began and np.abs(array.astype(int)).max() > 2000]
        print(f"last sound {max(after, default=0.0):.2f} s after the interruption")
        assert max(after, default=0.0) < 0.5
        assert ("interrupt",) in session.calls
        await viewer.tell("bye")
        while viewer.code is None:
            await asyncio.sleep(0.02)
        return viewer

    viewer = viewing(server, script)
    assert viewer.code == 1000
    wait(lambda: not server.hub.busy and not server.engine.sessions)
    media = np.array([at for _, at, _ in viewer.pictures])
    clock = np.array([at for at, _, _ in viewer.pictures])
    late = (clock - clock[0]) - (media - media[0])
    print(f"{len(media)} pictures, {np.ptp(late):.2f} s between the earliest and the latest")
    assert len(media) > 40 and np.all(np.diff(media) > 0) and np.ptp(late) < 0.5, "each in its time"
    assert viewer.pictures[0][2].shape == (64, 64, 3)
    mouth = np.array([picture[36:56, 26:38, 1].mean() for _, _, picture in viewer.pictures])
    assert np.ptp(mouth) > 20, "the mouth opens"
    reports = [message for message in viewer.told if message["type"] == "report"]
    assert [report["fragment"] for report in reports] == list(range(len(reports)))
    assert all(report["unconfirmed"] == 0 for report in reports)
    shut, opened = mouth.max(), mouth.min()
    spoken = clock[mouth < (shut + opened) / 2]
    sounding = np.array([at for at, _, _ in viewer.sound])[loud(viewer.sound) > 2000]
    print(f"mouth {spoken[0] - sounding[0]:+.2f} s and {spoken[-1] - sounding[-1]:+.2f} s from the sound")
    assert abs(spoken[0] - sounding[0]) < 0.3 and abs(spoken[-1] - sounding[-1]) < 0.3


@pytest.mark.parametrize("way", ["media", "both"])
def test_a_peer_that_vanishes_frees_its_place(server, way):
    async def script(viewer):
        await viewer.begin()
        assert server.hub.busy == 1
        if way == "media":
            await viewer.connection.close()
            while viewer.code is None:
                await asyncio.sleep(0.02)
            assert viewer.code == limits.AGAIN
        else:
            viewer.socket.transport.abort()
        began = time.monotonic()
        while server.hub.busy or server.engine.sessions:
            await asyncio.sleep(0.02)
            assert time.monotonic() - began < 5.0
        print(f"free {time.monotonic() - began:.2f} s later")

    viewing(server, script)
    wait(lambda: len(asyncio.all_tasks(server.hub.loop)) <= 2, 10.0)


def test_no_media_connection_in_time(monkeypatch):
    monkeypatch.setattr(limits, "PEER_SECONDS", 0.5)

    async def script(viewer):
        await viewer.tell("hello")
        await viewer.came("ready")
        await viewer.tell("offer", sdp=await viewer.offer())
        await viewer.came("answer")
        await viewer.tell("start")
        with contextlib.suppress(ConnectionClosed):
            await asyncio.wait_for(viewer.socket.wait_closed(), 10.0)
        await asyncio.sleep(0.1)
        assert viewer.code == limits.AGAIN and viewer.told[-1]["code"] == "timeout"

    with serving() as server:
        viewing(server, script)
        wait(lambda: not server.hub.busy and not server.engine.sessions, 5.0)


AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\n"
BAD = {
    "no SDP": "hello",
    "nothing wanted": "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n",
    "many tracks": "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n" + AUDIO * 200,
    "binary": "\0" * 500,
}


@pytest.mark.parametrize("case", BAD)
def test_offers_that_cannot_be_used(server, case):
    with Client(server) as client:
        client.until("ready")
        client.tell("offer", sdp=BAD[case])
        told = client.until("error")
        print(told["text"])
        assert told["code"] == "bad_offer" and "\n" not in told["text"]
        client.tell("start")
        client.more(1)


def test_mutated_offers_are_answered_or_refused_and_leave_nothing():
    rng, outcomes = random.Random(0), Counter()

    async def offer():
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        for kind in ("video", "audio"):
            connection.addTransceiver(kind, direction="recvonly")
        sdp = (await connection.createOffer()).sdp
        await connection.close()
        return sdp

    async def throw():
        good = await offer()
        for number in range(60):
            lines = good.splitlines()
            for _ in range(number % 4):
                at = rng.randrange(len(lines))
                lines[at : at + 1] = rng.choice(
                    [[], lines[at : at + 1] * 20, [mutated(rng, lines[at].encode()).decode("latin-1")]]
                )
            peer = webrtc.Peer("127.0.0.1", lambda: None)
            try:
                answer = await peer.answer("\r\n".join(lines) + "\r\n")
                assert " 127.0.0.1 " in answer
                outcomes["answered"] += 1
            except Refusal as error:
                assert error.code == "bad_offer" and "\n" not in str(error)
                outcomes["refused"] += 1
            await peer.close()
            if number == 5:
                before = len(os.listdir("/proc/self/fd"))
        await asyncio.sleep(0.1)
        print(dict(outcomes))
        assert outcomes["answered"] >= 15 and outcomes["refused"] >= 5
        assert len(os.listdir("/proc/self/fd")) <= before
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(throw())


def test_a_recording_is_kept_all_the_same(tmp_path):
    async def script(viewer):
        await viewer.begin()
        await viewer.came("report", fragment=2, recording="on")
        await viewer.tell("bye")

    with serving(record=tmp_path) as server:
        viewing(server, script)
        wait(lambda: not server.hub.busy)
    (made,) = tmp_path.iterdir()
    with av.open(str(made)) as container:
        assert made.suffix == ".mp4" and len(list(container.decode(video=0))) >= 33


def test_addresses_that_an_offer_names_are_not_asked():
    offer = "a=mid:0\r\na=candidate:1 1 udp 2122 10.0.0.1 53 typ host\r\na=end-of-candidates\r\na=rtcp-mux\r\n"
    assert webrtc.OTHERS_ADDRESSES.sub("", offer) == "a=mid:0\r\na=rtcp-mux\r\n"


def test_without_the_extra_it_is_told_what_to_install(server, monkeypatch):
    monkeypatch.delitem(sys.modules, "knotjax.serve.webrtc")
    monkeypatch.delattr("knotjax.serve.webrtc")
    monkeypatch.setitem(sys.modules, "aiortc", None)
    with Client(server) as client:
        client.until("ready")
        client.tell("offer", sdp="v=0")
        told = client.until("error")
        assert told["code"] == "refused" and 'pip install "knotjax[webrtc]"' in told["text"]
        client.tell("start")
        client.more(1)
