"""What clients do wrong: each is told by name, nobody else notices, nothing is left behind."""

import asyncio
import contextlib
import gc
import io
import json
import os
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed

from knotjax.serve import client as conversation
from knotjax.serve import limits
from knotjax.serve.monitor import resident_bytes
from tests.serve.fake import Engine
from tests.serve.serving import Client, listening, picture_file, raw_client, serving, tone, wait


@pytest.fixture(scope="module")
def server():
    with serving(sessions=2) as server:
        yield server
    assert server.engine.closed and not server.engine.sessions


@pytest.fixture
def client(server):
    with Client(server) as client:
        yield client.begin()
    wait(lambda: not server.hub.busy and not server.engine.sessions, 3.0)


def bomb(width=20_000, height=20_000) -> bytes:
    """A small PNG file that claims and holds many black pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(b"\0" * (1 + width // 8)) for _ in range(height)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_who_is_sent_away_while_it_starts_frees_its_place():
    with serving(Engine(patient=True)) as server:
        for _ in range(12):
            with Client(server) as client:
                client.until("ready", 3.0)
                client.tell("start")
                with contextlib.suppress(ConnectionClosed):
                    for _ in range(limits.MISTAKES):
                        client.socket.send("{}")
                assert client.closed() == limits.TOO_MANY_MISTAKES
            wait(lambda: not server.hub.busy and not server.engine.sessions, 2.0)


def noisy() -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(data, "PNG")
    return data.getvalue()


def upload(client, data, told=None):
    client.tell("portrait", bytes=len(data) if told is None else told)
    for start in range(0, len(data), 2**19):
        client.send(data[start : start + 2**19])


BAD_PICTURES = {
    "a bomb": bomb,
    "text": lambda: b"hello, I am no picture",
    "an animation": lambda: b"GIF89a" + bytes(100),
    "a cut PNG": lambda: noisy()[:3000],
    "a tiny one": lambda: bomb(8, 8),
    "a vector file": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_portrait_that_cannot_be_used(client, kind):
    before, began = resident_bytes(), time.monotonic()
    upload(client, BAD_PICTURES[kind]())
    told = client.until("error")
    assert (
        told["code"] == "bad_picture"
        and "/" not in told["text"].replace("20000x20000", "")
        and "tmp" not in told["text"]
    )
    assert resident_bytes() - before < 300e6 and time.monotonic() - began < 5.0
    client.more(2)


def test_more_bytes_than_were_told(client):
    upload(client, picture := bytes(1000), told=len(picture) - 1)
    assert client.until("error")["code"] == "bad_picture"
    client.more(1)


def test_a_portrait_beyond_20_mib_is_refused_before_it_comes(client):
    client.tell("portrait", bytes=20 * 2**20 + 1)
    assert client.until("error")["code"] == "bad_message"
    client.more(1)


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 1001], ids=len)
def test_sound_of_no_whole_samples(client, data):
    client.tell("sound", rate=16_000)
    client.send(data)
    assert client.until("error")["code"] == "bad_sound"
    client.more(1)


def test_sound_without_a_rate(client):
    client.send(tone(0.1))
    assert client.until("error")["code"] == "out_of_order"
    client.more(1)


@pytest.mark.parametrize(
    "rate", [0, -16_000, 7_999, 192_001, 16_000.5, "16000", None, float("nan"), float("inf"), 1e300]
)
def test_sound_at_a_rate_that_is_none(client, rate):
    client.socket.send(json.dumps({"type": "sound", "rate": rate}))
    told = client.until("error")
    assert told["code"] == "bad_message" and ("rate" in told["text"] or "message" in told["text"])
    client.more(1)


def test_floats_taken_for_whole_numbers_stay_finite(client):
    """NaN, infinity and the like cannot be said in 16-bit samples: their bits are just loud noise."""
    wild = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30] * 500, "<f4").tobytes()
    client.tell("sound", rate=16_000)
    client.send(wild)
    client.more(3)
    assert client.errors == []


def test_more_sound_than_the_queue_holds():
    with serving(Engine(), sessions=1) as server, Client(server) as client:
        client.begin()
        client.tell("sound", rate=16_000)
        for _ in range(6):
            client.send(tone(5.0))
        assert client.until("error")["code"] == "audio_overrun"
        client.more(2)
        assert client.errors.count("audio_overrun") == 1, "told once a second, not for every piece"


ORDERS = {
    "hello twice": lambda c: c.tell("hello"),
    "start twice": lambda c: c.tell("start"),
    "a fragment never sent": lambda c: c.tell("got", fragment=10**6),
    "a fragment twice": lambda c: c.tell("got", fragment=0),
}


@pytest.mark.parametrize("kind", ORDERS)
def test_control_out_of_order_while_live(client, kind):
    client.more(1)
    ORDERS[kind](client)
    assert client.until("error")["code"] in ("out_of_order", "bad_message")
    client.more(2)


@pytest.mark.parametrize("kind", ["end", "interrupt", "switch", "got", "sound"])
def test_control_out_of_order_before_the_start(server, kind):
    fields = {"got": {"fragment": 0}, "sound": {"rate": 16_000}}.get(kind, {})
    with Client(server) as client:
        client.until("ready")
        client.tell(kind, **fields)
        told = client.until("error")
        assert told["code"] == "out_of_order" and kind in told["text"]
        client.send(tone(0.1))
        assert client.until("error")["code"] == "out_of_order"
        client.tell("start")
        client.more(1)


def test_too_many_mistakes(client):
    with contextlib.suppress(ConnectionClosed):
        for _ in range(limits.MISTAKES):
            client.socket.send("{}")
    assert client.closed() == limits.TOO_MANY_MISTAKES


@pytest.mark.parametrize("message", ["text", b"data"], ids=["text", "binary"])
def test_a_message_beyond_1_mib(client, message):
    with contextlib.suppress(ConnectionClosed):
        client.socket.send(message * (2**20 // len(message) + 1))
    assert client.closed() in (1009, 1006)


def test_a_flood_ends_only_who_floods(server, client):
    with Client(server) as other:
        other.begin()
        with contextlib.suppress(ConnectionClosed):
            for _ in range(5_000):
                other.socket.send('{"type": "end"}')
        assert other.closed() == limits.FLOOD
    client.more(3)


def test_portraits_in_a_row_count_as_a_flood(client):
    with contextlib.suppress(ConnectionClosed):
        for _ in range(20):
            client.tell("portrait", bytes=100)
    assert client.closed() == limits.FLOOD


def test_garbage_that_is_no_websocket(server, client):
    for garbage in (
        b"\0" * 5000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /live HTTP/1.1\r\n" + b"a: b\r\n" * 9999,
    ):
        with socket.create_connection(("127.0.0.1", server.port), 5) as raw, contextlib.suppress(OSError):
            raw.sendall(garbage)
            raw.settimeout(5)
            raw.recv(1000)
    client.more(2)


def test_frames_of_websocket_that_make_no_sense(server, client):
    for frame in (
        b"\x83\x80abcd",
        b"\xf1\x80abcd",
        b"\x81\x05hello",
        b"\x82\xff" + b"\xff" * 8 + b"abcd",
        b"\x80\x80abcd",
    ):
        with Client(server) as other:
            other.until("ready")
            other.socket.socket.sendall(frame)
            assert other.closed() is not None
            wait(lambda: server.hub.busy == 1, 3.0)
    client.more(2)


def test_half_a_message_and_gone(server, client):
    with Client(server) as other:
        other.begin()
        other.socket.socket.sendall(b"\x82\xfe\xff\xffabcd" + b"half of it")
        other.vanish()
        assert wait(lambda: server.hub.busy == 1, 3.0) < 2.0
    client.more(2)


def goes_on(client):
    """More fragments come to a client that is listening."""
    had = len(client.fragments)
    wait(lambda: len(client.fragments) > had + 2)


def test_who_confirms_nothing_is_closed_within_the_timeout():
    engine = Engine(slots=2, speed=8.0)
    with serving(engine, sessions=2, send_seconds=1.0) as server, Client(server) as good, listening(good.begin()):
        with Client(server, confirm=False) as stalled:
            stalled.begin()
            began = time.monotonic()
            assert stalled.closed() == limits.AGAIN
            assert time.monotonic() - began < 5.0 and len(stalled.fragments) == limits.UNCONFIRMED
        assert server.hub.counts["stalled"] == 1
        goes_on(good)


def test_a_reader_that_does_not_read_is_left_within_the_timeout():
    engine = Engine(slots=2, speed=8.0)
    with serving(engine, sessions=2, send_seconds=1.0) as server, Client(server) as good, listening(good.begin()):
        with raw_client(server, b'{"type": "start"}'):
            wait(lambda: len(engine.sessions) == 2)
            took = wait(lambda: server.hub.busy == 1)
            print(f"left after {took:.2f} s")
            assert took < 5.0
        goes_on(good)


def test_a_send_that_takes_too_long_ends_the_client(monkeypatch):
    """With the confirmations out of the way, the timeout of the send itself is what ends it."""
    monkeypatch.setattr(limits, "UNCONFIRMED", 10**9)
    with serving(Engine(size=320, speed=40.0), send_seconds=0.5) as server, raw_client(server, b'{"type": "start"}'):
        wait(lambda: server.hub.counts["stalled"] == 1, 60.0)
        wait(lambda: not server.hub.busy, 3.0)
        print(f"{server.hub.counts['bytes'] / 1e6:.1f} MB were on their way")
        assert server.hub.counts["bytes"] < 8e6


def test_a_client_whose_line_is_dead_is_found(monkeypatch):
    assert limits.PING_SECONDS + limits.PONG_SECONDS <= 15.0
    monkeypatch.setattr(limits, "PING_SECONDS", 0.3)
    monkeypatch.setattr(limits, "PONG_SECONDS", 0.4)
    with serving() as server, raw_client(server):
        wait(lambda: server.hub.busy == 1)
        assert wait(lambda: not server.hub.busy) < 3.0, "it answers no ping"


@pytest.mark.parametrize("sound", [False, True], ids=["silence", "sound"])
def test_the_stream_of_a_calm_client_is_the_same_whatever_others_do(sound):
    engine = Engine(slots=2, speed=4.0, patient=True)

    def stream(server, disturb):
        with Client(server) as calm:
            calm.until("ready")
            calm.tell("start", seed=11)
            wait(lambda: engine.sessions)
            calm.tell("sound", rate=16_000)
            calm.send(tone(8.0) if sound else bytes(2000))
            with listening(calm):
                disturb()
                wait(lambda: len(calm.fragments) >= 12, 30.0)
            return [calm.head, *calm.fragments[:12]]

    def disturb():
        with Client(server) as other:
            other.until("ready")
            upload(other, bomb())
            other.until("error")
            other.tell("start")
            with contextlib.suppress(ConnectionClosed):
                for _ in range(limits.MISTAKES):
                    other.socket.send('{"type": "nothing"}')
            other.closed()
        for _ in range(3):
            other = Client(server)
            other.until("ready")
            other.tell("start")
            other.tell("sound", rate=8_000)
            other.send(tone(1.0, 8_000))
            other.more(1)
            other.vanish()

    with serving(engine, sessions=2) as server:
        assert stream(server, lambda: None) == stream(server, disturb), "the same to the bit"


def test_nothing_leaks_over_many_clients(server, tmp_path):
    def gone():
        gc.collect()
        wait(lambda: not server.hub.busy and not server.hub.clients and not server.engine.sessions, 5.0)
        wait(lambda: not server.server_state.connections and not server.server_state.tasks, 15.0)
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(conversations())

    def conversations():
        return [thing for thing in gc.get_objects() if type(thing) is conversation.Client]

    def cycle(number):
        client = Client(server).begin()
        client.tell("sound", rate=16_000)
        client.send(tone(0.3))
        upload(client, picture_file(tmp_path))
        client.more(1)
        if number % 3 == 0:
            client.vanish()
        elif number % 3 == 1:
            client.tell("bye")
            assert client.closed() == 1000
        client.__exit__()

    # All of its worker threads, of which there is a fixed number, before counting.
    workers = [server.hub._threads.submit(time.sleep, 0.2) for _ in range(2 * server.hub.settings.sessions + 2)]
    assert all(worker.result() is None for worker in workers)
    for number in range(4):
        cycle(number)
    before = gone()
    memory = resident_bytes()
    for number in range(20):
        cycle(number)
    after = gone()
    print(f"descriptors, threads, clients: {before} then {after}; {(resident_bytes() - memory) / 1e6:+.1f} MB")
    assert all(now <= then for now, then in zip(after, before)) and after[2] == 0
    tasks = asyncio.all_tasks(server.hub.loop)
    assert len(tasks) <= 2, f"only the server's own tasks are left: {tasks}"


def test_a_picture_with_an_evil_name_inside_is_only_a_picture(client):
    data = io.BytesIO()
    image = Image.new("RGB", (64, 64), (9, 9, 9))
    info = {"comment": b"../../etc/passwd"}
    image.save(data, "JPEG", **info)
    upload(client, data.getvalue())
    client.until("portrait")
