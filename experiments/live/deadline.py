"""Does the machine keep up? One stream of the shipped model in real time, speaking the bundled recording:

    python -m experiments.live.deadline --minutes 5

A deadline is missed when a block comes out after its first frame is due.
"""

import argparse
import json
import time

from experiments.live.common import PORTRAIT, endless, verdict
from knotjax.live import Engine, LiveSession
from knotjax.pipeline import Animator


def run(sessions: list[LiveSession], seconds: float) -> None:
    """Let streams speak and take their frames for a while, in real time."""
    until, feeds = time.monotonic() + seconds, [endless(0.1) for _ in sessions]
    while time.monotonic() < until:
        for n, session in enumerate(sessions):
            while session.queue_seconds < 2.0:
                session.push_audio(next(feeds[n]))
            while session.take() is not None:
                pass
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description="Deadline misses of one live stream.")
    parser.add_argument("--minutes", type=float, default=5.0, help="of real time (default: %(default)s)")
    minutes = parser.parse_args().minutes
    with Engine(Animator.load()) as engine, engine.open(PORTRAIT) as session:
        run([session], 60.0 * minutes)
        report = session.report()
    print(json.dumps(report, indent=1))
    counted = {name: report[name] for name in ("misses", "late", "dropped", "stalls")}
    block, delay = report["block_ms"] or dict.fromkeys(("p50", "p95", "p99"), "-"), 1000 * report["delay_seconds"]
    verdict(
        report["made"] > 0 and not any(counted.values()),
        f"{minutes:g} min at 25 fps, {report['made']} frames, delay {delay:.0f} ms: {counted}, "
        f"block p50 {block['p50']} ms p95 {block['p95']} ms p99 {block['p99']} ms",
    )


if __name__ == "__main__":
    main()
