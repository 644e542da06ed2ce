"""How many streams in real time before deadlines are missed, batched in one engine and in an engine each:

python -m experiments.live.capacity --seconds 30 --most 12
"""

import argparse
import contextlib

from experiments.live.common import PORTRAIT, verdict
from experiments.live.deadline import run
from knotjax.live import Engine
from knotjax.pipeline import Animator


def misses(animator: Animator, streams: int, batched: bool, seconds: float) -> tuple[int, float]:
    """Blocks that missed their deadline, stalls among them, and the median time of a block in milliseconds."""
    with contextlib.ExitStack() as stack:
        if batched:
            engines = [stack.enter_context(Engine(animator, slots=streams))] * streams
        else:
            engines = [stack.enter_context(Engine(animator)) for _ in range(streams)]
        sessions = [stack.enter_context(engine.open(PORTRAIT, seed=n)) for n, engine in enumerate(engines)]
        run(sessions, seconds)
        reports = [session.report() for session in sessions]
    missed = sum(r["misses"] + r["stalls"] + (r["made"] == 0) for r in reports)
    return missed, reports[0]["block_ms"]["p50"] if reports[0]["block_ms"] else float("nan")


def capacity(animator: Animator, batched: bool, seconds: float, most: int) -> int:
    """The largest number of streams without a miss, trying one after another."""
    way = "one engine" if batched else "an engine each"
    for streams in range(1, most + 1):
        missed, block = misses(animator, streams, batched, seconds)
        print(f"{way}, {streams} streams: {missed} misses, block p50 {block:.1f} ms", flush=True)
        if missed:
            return streams - 1
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description="Live streams before deadlines are missed.")
    parser.add_argument("--seconds", type=float, default=30.0, help="of real time per try (default: %(default)s)")
    parser.add_argument("--most", type=int, default=12, help="streams tried (default: %(default)s)")
    options = parser.parse_args()
    animator = Animator.load()
    each = capacity(animator, False, options.seconds, options.most)
    batched = capacity(animator, True, options.seconds, options.most)
    text = f"streams without a miss: {batched} batched, {each} in an engine each"
    verdict(batched >= 2 * each, f"{text} (goal: twice as many)")


if __name__ == "__main__":
    main()
