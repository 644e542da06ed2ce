"""How long every block took, stage by stage."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from knotjax.files import commit

STAGES = ("wait", "features", "step", "decode", "queue")
KEPT = 4096  # newest blocks that are remembered


@dataclasses.dataclass(slots=True)
class Block:
    """One block of one stream; times in seconds."""

    at: float  # on the monotonic clock, when work on it began
    slot: int
    streams: int  # that shared the work
    number: int  # of the step in its stream
    wait: float = 0.0  # from the moment it could begin
    features: float = 0.0  # sound, words and motion, and changes of words or portrait
    step: float = 0.0  # denoising passes and commit
    decode: float = 0.0  # to pixels in main memory
    queue: float | None = None  # until it was taken
    slack: float | None = None  # from its end to the moment its first frame is due; negative: too late

    @property
    def work(self) -> float:
        """Time of computing."""
        return self.features + self.step + self.decode


def percentiles(seconds: Iterable[float]) -> dict[str, float] | None:
    """p50, p95 and p99 in milliseconds; None of nothing."""
    values = [value for value in seconds if value is not None]
    if not values:
        return None
    return {f"p{q}": round(1000.0 * float(v), 2) for q, v in zip((50, 95, 99), np.percentile(values, (50, 95, 99)))}


def write(path, blocks: Iterable[Block]) -> None:
    """Blocks as JSON lines; the file is replaced as a whole."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(dataclasses.asdict(block)) + "\n" for block in blocks))
    commit(part, path)
