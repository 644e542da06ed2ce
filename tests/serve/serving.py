"""A server on a loopback port inside the tests' own process, and a plain client for it."""

import contextlib
import json
import socket
import threading
import time
from pathlib import Path

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from knotjax.serve.app import Server, listen
from knotjax.serve.hub import Hub
from knotjax.serve.limits import Settings
from tests.serve.fake import Engine


@contextlib.contextmanager
def listening(client):
    """Let a client hear and confirm what comes in the background."""
    stop = threading.Event()

    def hear():
        while not stop.is_set() and client.code is None:
            client.hear(0.05)

    thread = threading.Thread(target=hear)
    thread.start()
    try:
        yield client
    finally:
        stop.set()
        thread.join()


def raw_client(server, *messages) -> socket.socket:
    """A connection that says hello, waits until it is ready, says more, and then neither reads nor answers anything."""
    raw = socket.create_connection(("127.0.0.1", server.port), 5)
    raw.sendall(
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b" 101 " in raw.recv(1000)
    for message in (b'{"type": "hello"}', *messages):
        raw.sendall(b"\x81" + bytes([0x80 | len(message)]) + bytes(4) + message)
        heard = b""
        while message == b'{"type": "hello"}' and b'"ready"' not in heard:
            heard += raw.recv(1000)
    return raw


@contextlib.contextmanager
def serving(engine=None, **settings):
    """Runs a server; yields it with `port` and `engine`."""
    settings = Settings(**settings)
    engine = engine or Engine(slots=settings.sessions, speed=8.0)
    picture = np.full((engine.size, engine.size, 3), 120, np.uint8)
    listener = listen("127.0.0.1", 0)
    server = Server(Hub(lambda: engine, picture, "knot_forcing", settings))
    server.port, server.engine = listener.getsockname()[1], engine
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait(lambda: server.started and server.hub.ready, 60.0)
        yield server
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive(), "the server ends"


def wait(condition, seconds=10.0):
    """Wait until something holds; returns after how many seconds it did."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it takes too long"
        time.sleep(0.01)
    return time.monotonic() - began


class Client:
    """Speaks the protocol; everything that came is kept in `told` and `fragments`."""

    def __init__(self, server, *, token="", hello=True, confirm=True, **options):
        options = {"max_size": 2**24, "compression": None, "proxy": None} | options
        self._connection = connect(f"ws://127.0.0.1:{server.port}/live", **options)
        self.socket = self._connection.__enter__()
        self.told, self.fragments, self.head, self.confirm, self.code = [], [], None, confirm, None
        if hello:
            self.tell("hello", **({"token": token} if token else {}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.__exit__(None, None, None)

    def vanish(self):
        """Cut the connection without a word, where the server has not done so."""
        with contextlib.suppress(OSError):
            self.socket.socket.shutdown(socket.SHUT_RDWR)

    def tell(self, kind, **fields):
        self.socket.send(json.dumps({"type": kind, **fields}))

    def send(self, data):
        self.socket.send(data)

    def hear(self, timeout=5.0):
        """One message, or None when there is none in time or the server closed (then `code` is set)."""
        try:
            message = self.socket.recv(timeout)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else 1006
            return None
        if isinstance(message, str):
            message = json.loads(message)
            self.told.append(message)
        elif self.head is None:
            self.head = message
        else:
            self.fragments.append(message)
            if self.confirm:
                with contextlib.suppress(ConnectionClosed):
                    self.tell("got", fragment=self.told[-1]["fragment"])
        return message

    def until(self, kind, seconds=10.0, **fields):
        """Hear until a message of a kind comes; returns it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.code is None:
            message = self.hear(end - time.monotonic())
            if isinstance(message, dict) and {"type": kind, **fields}.items() <= message.items():
                return message
        raise AssertionError(f"no {kind} {fields} came: {self.told[-3:]}, code {self.code}")

    def closed(self, seconds=10.0):
        """Hear until the server closes; returns its code."""
        end = time.monotonic() + seconds
        while self.code is None and time.monotonic() < end:
            self.hear(max(0.01, end - time.monotonic()))
        return self.code

    def begin(self, **fields):
        """Up to the first fragment."""
        self.until("ready")
        self.tell("start", **fields)
        self.more(1)
        return self

    def more(self, count, seconds=10.0):
        """Hear until so many more fragments came; returns them."""
        wanted, end = len(self.fragments) + count, time.monotonic() + seconds
        while len(self.fragments) < wanted and self.code is None:
            assert time.monotonic() < end, f"{len(self.fragments)} of {wanted} fragments came"
            self.hear(0.5)
        return self.fragments[wanted - count :]

    @property
    def errors(self):
        return [message["code"] for message in self.told if message["type"] == "error"]


def tone(seconds=1.0, rate=16_000, level=0.4):
    """A tone as 16-bit little-endian samples."""
    times = np.arange(round(seconds * rate)) / rate
    return (level * 32767 * np.sin(2 * np.pi * 440 * times)).astype("<i2").tobytes()


def picture_file(folder: Path, size=(80, 100), kind="PNG", colour=(200, 40, 40)) -> bytes:
    from PIL import Image

    path = folder / f"picture.{kind.lower()}"
    Image.new("RGB", size, colour).save(path, kind)
    return path.read_bytes()
