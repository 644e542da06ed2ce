"""Where the time goes between a sound and its frame, block by block, for a microphone that gives 20 ms at a time:

    python -m experiments.live.delay --seconds 30

Every block is packed as the server packs it and sent over a WebSocket of this machine, to one who confirms it. Writes
trace.jsonl and delay.png beside this file (or under --out), and says when a click was pushed and shown. The passes and
the commit are one program; by frame-passes the commit is 3 of 19. Needs the extra `serve`.
"""

import argparse
import contextlib
import json
import threading
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from websockets.sync.client import connect
from websockets.sync.server import serve

from experiments.live.common import PORTRAIT, endless, verdict
from knotjax import drive
from knotjax.live import Engine, LiveSession, Overrun
from knotjax.live.clock import SLACK
from knotjax.live.stages import percentiles
from knotjax.pipeline import Animator
from knotjax.serve.output import Output

PIECE = 0.02  # seconds of sound that a microphone gives at a time
EVERY = 3.0  # seconds between two clicks
STAGES = {
    "wait": "until work begins",
    "features": "features",
    "step": "passes and commit",
    "decode": "decode",
    "queue": "until it is taken",
    "encode": "encode",
    "send": "send and confirm",
}


@contextlib.contextmanager
def wire():
    """A WebSocket of this machine: a function that sends bytes and returns the seconds until they were confirmed."""

    def confirm(socket):
        for data in socket:
            socket.send(str(len(data)))

    with serve(confirm, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        with connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) as socket:

            def send(data: bytes) -> float:
                began = time.perf_counter()
                socket.send(data)
                assert int(socket.recv()) == len(data)
                return time.perf_counter() - began

            yield send


def speak(session: LiveSession, output: Output, seconds: float, send) -> tuple[list[float], list[dict]]:
    """Push sound in real time with a click now and then.

    Returns:
      The delays from push to the frame of each click, and the seconds of packing and sending each block.
    """
    began, pushed, delays, clicks, sent = time.monotonic(), 0, [], [], []
    feed = endless(PIECE)
    while time.monotonic() - began < seconds:
        while (pushed + 1) * PIECE <= time.monotonic() - began:
            piece = 0.5 * next(feed)
            if pushed % round(EVERY / PIECE) == 100:
                piece = np.concatenate([piece[:-1], [1.0]]).astype(np.float32)
                clicks.append(time.monotonic())
            try:
                session.push_audio(piece)
            except Overrun:  # the machine is far too slow
                return delays, sent
            pushed += 1
        while (fragment := output.next(0.0)) is not None:
            sent.append({"encode": fragment.encode_ms / 1000, "send": send(fragment.data)})
            shown = fragment.shown
            for at in np.flatnonzero(shown.sound == 1.0):
                delays.append(shown.due + at / drive.SAMPLE_RATE - clicks[len(delays)])
        time.sleep(0.005)
    return delays, sent


def draw(rows: list[dict], path: Path) -> None:
    """Stages of every block, stacked, and the time that is left until its first frame is due."""
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    at = np.array([row["at"] for row in rows])
    at -= at[0]
    below = np.zeros(len(rows))
    for name, label in STAGES.items():
        height = 1000 * np.array([row[name] for row in rows])
        axes.bar(at, height, 0.4, below, label=label)
        below += height
    axes.axhline(1000 * SLACK, color="black", linestyle="--", label="first frame is due")
    axes.set(xlabel="seconds", ylabel="ms after the sound can be there", title="One live stream, block by block")
    axes.legend(ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Delay from sound to frame, by stage.")
    parser.add_argument("--seconds", type=float, default=30.0, help="of real time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for trace.jsonl and delay.png")
    options = parser.parse_args()
    path = options.out / "trace.jsonl"
    with Engine(Animator.load()) as engine, engine.open(PORTRAIT) as session, wire() as send:
        with contextlib.closing(Output(session, engine.size, None)) as output:
            delays, sent = speak(session, output, options.seconds, send)
            report = session.report()
        engine.trace(path)
    rows = [json.loads(line) | later for line, later in zip(path.read_text().splitlines(), sent)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(rows, options.out / "delay.png")
    fixed = report["delay_seconds"]
    print(
        f"play-out delay {1000 * fixed:.0f} ms: look-ahead and one block {1000 * (fixed - SLACK):.0f}, then {SLACK:g} s"
    )
    for name, label in STAGES.items():
        figures = percentiles(row[name] for row in rows) or dict.fromkeys(("p50", "p95", "p99"), "-")
        print(f"{label}: p50 {figures['p50']} ms, p95 {figures['p95']} ms, p99 {figures['p99']} ms")
    if not delays:
        verdict(False, "no click came back: take more seconds")
        return
    most = 1000 * max(delays)
    print("sound pushed to its frame: " + ", ".join(f"{1000 * delay:.0f}" for delay in delays) + " ms")
    limit = 1000 * (fixed + report["stalls"] + 0.1)
    verdict(not report["misses"] and most <= limit, f"sound to frame {most:.0f} ms at most, {report['misses']} misses")


if __name__ == "__main__":
    main()
