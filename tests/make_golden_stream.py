"""Remake tests/golden/stream.npz, the fingerprint of the first 100 frames of the shipped model:

    python -m tests.make_golden_stream

To be run whenever the shipped weights change, and only then.
"""

from pathlib import Path

import numpy as np

from knotjax import drive
from knotjax.bundle import SHIPPED
from knotjax.pipeline import Animator

PATH = Path(__file__).parent / "golden" / "stream.npz"
ASSETS = SHIPPED.parent
FRAMES, SIDE = 100, 16  # pixels of a fingerprint's side


def fingerprint(frames: np.ndarray) -> np.ndarray:
    """Means over blocks of pixels: uint8 [T, S, S, 3] -> uint8 [T, 16, 16, 3]."""
    count, size = len(frames), frames.shape[1] // SIDE
    blocks = frames.reshape(count, SIDE, size, SIDE, size, 3)
    return np.rint(blocks.mean(axis=(2, 4), dtype=np.float64)).astype(np.uint8)


def weights_name() -> str:
    """The shipped weights' file, whose name holds a part of its SHA-256."""
    return next(file.name for file in SHIPPED.glob("*.safetensors"))


def first_frames() -> np.ndarray:
    """The first 100 frames of the bundled portrait speaking the bundled recording, uint8 [100, S, S, 3]."""
    stream = Animator.load().stream(ASSETS / "portrait.png", ASSETS / "hello.wav")
    pieces, made = [], 0
    while made < FRAMES:
        pieces.append(next(stream).frames)
        made += len(pieces[-1])
    return np.concatenate(pieces)[:FRAMES]


def main() -> None:
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(PATH, frames=fingerprint(first_frames()), weights=weights_name())
    print(f"{PATH}: {FRAMES} frames ({FRAMES / drive.FPS:g} s), {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
