"""Writes tests/golden/taehv.npz from a plain PyTorch TAEHV, with seeded random weights.

python -m tests.parity.make_golden_taehv
"""

import dataclasses

import numpy as np

from tests.models.codec_tools import TINY_TAEHV, taehv_state
from tests.models.test_taehv import GOLDEN
from tests.parity.torch_taehv import TorchTAEHV


def main():
    config = dataclasses.replace(TINY_TAEHV, height=16, width=8)
    theirs, rng = TorchTAEHV(config, taehv_state(config, 20)), np.random.default_rng(21)
    video = rng.uniform(-1, 1, (1, 5, 16, 8, 3)).astype(np.float32)
    latents = rng.standard_normal((1, 3, *config.grid, config.channels)).astype(np.float32)
    arrays = dict(video=video, latents=latents, encoded=theirs.encode(video), decoded=theirs.decode(latents))
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)
    print({name: array.shape for name, array in arrays.items()}, GOLDEN.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
