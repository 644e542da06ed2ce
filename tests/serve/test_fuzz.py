"""Random and mutated messages: the server stays up, and a stream beside them goes on."""

import contextlib
import json
import random

import pytest
from websockets.exceptions import ConnectionClosed

from tests.serve.serving import Client, listening, picture_file, serving, tone, wait
from tests.serve.test_messages import BAD, GOOD

VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    2**63,
    "",
    "x" * 300,
    "\0",
    "../..",
    "%2e%2e",
    [],
    {},
    [[]],
    float("nan"),
    "happy",
    "nod",
]


def mutated(rng, data: bytes) -> bytes:
    data = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randint(0, len(data))]) if rng.random() < 0.3 else bytes(data)


def message(rng, picture: bytes) -> str | bytes:
    kind = rng.randrange(7)
    if kind == 0:
        return json.dumps(rng.choice(GOOD))
    if kind == 1:
        return rng.choice([text for text in BAD if text.isascii()])
    if kind == 2:
        return mutated(rng, json.dumps(rng.choice(GOOD)).encode()).decode("utf-8", "replace")
    if kind == 3:
        fields = {
            rng.choice(["rate", "bytes", "seed", "emotion", "ramp", "token"]): rng.choice(VALUES) for _ in range(3)
        }
        return json.dumps(fields | {"type": rng.choice(["sound", "start", "switch", "portrait", "got", "hello"])})
    if kind == 4:
        return rng.randbytes(rng.choice([0, 1, 2, 3, 640, 6400]))
    if kind == 5:
        return tone(0.1)
    return mutated(rng, picture)


def throw(server, count: int, seed: int, picture: bytes) -> dict:
    """Throw so many messages at a server, from one client after another; returns how often each close code came."""
    rng, sent, codes = random.Random(seed), 0, {}
    while sent < count:
        client = Client(server, hello=rng.random() < 0.97)
        with contextlib.suppress(ConnectionClosed, AssertionError):
            if rng.random() < 0.9:
                client.until("ready", 5.0)
            if rng.random() < 0.8:
                client.tell("start")
            if rng.random() < 0.3:
                client.tell("portrait", bytes=len(picture))
            for _ in range(rng.randint(5, 60)):
                client.socket.send(message(rng, picture))
                sent += 1
                client.hear(0.0)
        if rng.random() < 0.3:
            client.vanish()
        client.hear(0.0)
        client.__exit__()
        codes[client.code] = codes.get(client.code, 0) + 1
    return codes


def fuzz(count: int, seed: int, folder) -> None:
    with serving(sessions=2, idle_seconds=3600.0) as server, Client(server) as calm, listening(calm.begin()):
        codes = throw(server, count, seed, picture_file(folder))
        wait(lambda: server.hub.busy == 1)
        had = len(calm.fragments)
        wait(lambda: len(calm.fragments) > had + 2)
        counts = dict(server.hub.counts)
        print(f"{count} messages, close codes {codes}, {counts}")
        assert calm.code is None and calm.errors == [] and server.started
        assert not counts.get("closed_1011"), "no fault of the server's own"


def test_some_hundred_messages(tmp_path):
    fuzz(300, 0, tmp_path)


@pytest.mark.slow
def test_ten_thousand_messages(tmp_path):
    fuzz(10_000, 1, tmp_path)
