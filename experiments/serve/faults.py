"""Clients of every bad kind beside a calm one, with the shipped model on this machine:

    python -m experiments.serve.faults

The calm client's stream is made twice for every fault, alone and beside it, and compared byte by byte. It runs without
pace, so that nothing is left out on a slow machine. Prints one line for each fault and writes `faults.json`.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path

import numpy as np
from websockets.exceptions import ConnectionClosed

from knotjax.bundle import SHIPPED
from knotjax.live import Engine
from knotjax.media import read_picture, read_sound
from knotjax.pipeline import Animator
from knotjax.serve import limits
from knotjax.serve.monitor import resident_bytes
from tests.serve import test_faults as faults
from tests.serve.serving import Client, listening, raw_client, serving, tone, wait
from tests.serve.test_fuzz import throw

SECONDS = 8.0  # of the calm client's sound


class Unpaced(Engine):
    """Opens streams that make a block as soon as its sound is there."""

    def open(self, image, **options):
        return super().open(image, **(options | {"pace": False}))


def alive(server) -> Client:
    """Another client that streams."""
    other = Client(server)
    other.until("ready", 60.0)
    other.tell("start")
    other.tell("sound", rate=16_000)
    other.send(tone(2.0))
    other.more(1, 60.0)
    return other


def vanishes(server):
    alive(server).vanish()
    return f"its place was free after {wait(lambda: server.hub.busy == 1, 60.0):.2f} s"


def stalls(server):
    with raw_client(server, b'{"type": "start"}', b'{"type": "sound", "rate": 16000}') as raw:
        sound = tone(5.0)
        raw.sendall(b"\x82\xff" + len(sound).to_bytes(8, "big") + bytes(4) + sound)
        took = wait(lambda: server.hub.counts["stalled"] > 0, 120.0)
        wait(lambda: server.hub.busy == 1, 60.0)
        return f"sent away {took:.1f} s after its sound"


def floods(server):
    with alive(server) as other:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(5_000):
                other.socket.send('{"type": "end"}')
        return f"closed with {other.closed(60.0)}"


def refused(*messages):
    """A fault that is told by name and does not end the session."""

    def disturb(server):
        with alive(server) as other:
            codes = []
            for message in messages:
                before = len(other.errors)
                if message == "bomb":
                    faults.upload(other, faults.bomb())
                else:
                    other.socket.send(message)
                while len(other.errors) == before and other.code is None:
                    other.hear(1.0)
                codes.append(other.errors[-1] if other.errors else other.code)
            return f"told {', '.join(dict.fromkeys(codes))}"

    return disturb


def oversized(server):
    with alive(server) as other:
        with contextlib.suppress(ConnectionClosed):
            other.socket.send(bytes(2**20 + 1))
        return f"closed with {other.closed(60.0)}"


def fuzzed(server, count):
    codes = throw(server, count, 1, faults.noisy())
    return f"{count} messages; the server's own faults: {server.hub.counts['closed_1011']}; closed with {codes}"


FAULTS = {
    "nobody": lambda server: "",
    "vanishes": vanishes,
    "stalls": stalls,
    "floods": floods,
    "malformed": refused("{", '{"type": "no such"}', '{"type": "switch", "ramp": NaN}'),
    "oversized": oversized,
    "wrong rate": refused('{"type": "sound", "rate": 4000}', '{"type": "sound", "rate": NaN}'),
    "no whole samples": refused(b"odd"),
    "bomb": refused("bomb"),
    "out of order": refused('{"type": "start"}', '{"type": "hello"}', '{"type": "got", "fragment": 99}'),
}


def calm_stream(server, sound: bytes, disturb) -> tuple[list[bytes], str]:
    with Client(server) as calm:
        calm.until("ready", 60.0)
        calm.tell("start", seed=11)
        calm.tell("sound", rate=16_000)
        calm.send(sound)
        with listening(calm):
            told = disturb(server)
            wanted = int((SECONDS - 1.5) / 0.48)
            wait(lambda: len(calm.fragments) >= wanted, 120.0)
        assert calm.code is None and calm.errors == [], (calm.code, calm.errors)
        return [calm.head, *calm.fragments[:wanted]], told


def main() -> None:
    parser = argparse.ArgumentParser(description="Clients of every bad kind beside a calm one.")
    parser.add_argument("--messages", type=int, default=10_000, help="of the fuzz (default: %(default)s)")
    count = parser.parse_args().messages
    kinds = FAULTS | {"fuzz": lambda server: fuzzed(server, count)}
    voice = np.resize(read_sound(SHIPPED.parent / "hello.wav"), round(SECONDS * 16_000))
    sound = (32767 * voice).astype("<i2").tobytes()
    rows, alone = [], None
    patient = dict(sessions=2, idle_seconds=3600.0)  # the calm client only listens
    with Unpaced(Animator.load(), slots=2) as engine, serving(engine, **patient) as server:
        picture = read_picture(SHIPPED.parent / "portrait.png", engine.size)
        assert picture.shape[0] == server.hub.size
        for name, disturb in kinds.items():
            server.hub.counts.clear()
            memory, began = resident_bytes(), time.monotonic()
            stream, told = calm_stream(server, sound, disturb)
            alone = alone or stream
            wait(lambda: not server.hub.busy, 60.0)
            same = sum(a == b for a, b in zip(alone, stream))
            row = {
                "fault": name,
                "told": told,
                "calm_fragments": len(stream),
                "same_bytes": same,
                "seconds": round(time.monotonic() - began, 1),
                "memory_mb": round((resident_bytes() - memory) / 1e6, 1),
            }
            rows.append(row)
            print(f"{name}: {told}; calm client {same} of {len(stream)} parts the same to the bit; {row['seconds']} s")
    assert limits.PING_SECONDS + limits.PONG_SECONDS <= 15.0
    Path(__file__).with_name("faults.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
