"""Memory and speed of a long run of the shipped model:

    python -m experiments.long_run.measure --minutes 10

The bundled recording is repeated without end through `Animator.animate`. Prints resident memory and the median time of
a block, minute of video by minute, and compares the last minute with the second.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from knotjax import drive
from knotjax.bundle import SHIPPED
from knotjax.media import read_sound
from knotjax.pipeline import Animator


def resident_mib() -> float:
    """Main memory that the process holds now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and speed of a long run.")
    parser.add_argument("--minutes", type=int, default=10, help="of video, 3 or more (default: %(default)s)")
    minutes = parser.parse_args().minutes
    animator, wave = Animator.load(), read_sound(SHIPPED.parent / "hello.wav")
    memory = [[] for _ in range(minutes)]

    def sound():
        heard = 0
        for wave_again in itertools.repeat(wave):
            for piece in np.array_split(wave_again, 9):
                memory[min(minutes - 1, heard // (60 * drive.SAMPLE_RATE))].append(resident_mib())
                heard += len(piece)
                yield piece

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = animator.animate(
            SHIPPED.parent / "portrait.png", sound(), Path(folder) / "long.mp4", seconds=60.0 * minutes, progress=True
        )
        size = report.output.stat().st_size
    blocks = np.array_split(np.array(report.block_seconds), minutes)
    for minute in range(minutes):
        middle, time_ms = np.median(memory[minute]), np.median(blocks[minute]) * 1000
        print(f"minute {minute + 1}: {middle:.1f} MiB resident, block p50 {time_ms:.1f} ms")
    growth = np.median(memory[-1]) / np.median(memory[1]) - 1
    slower = np.median(blocks[-1]) / np.median(blocks[1]) - 1
    print(f"{report.frames} frames in {time.perf_counter() - began:.0f} s, {size / 2**20:.1f} MiB")
    print(f"last minute against the second: memory {100 * growth:+.2f} %, block time {100 * slower:+.1f} %")


if __name__ == "__main__":
    main()
