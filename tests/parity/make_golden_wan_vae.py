"""Writes tests/golden/wan_vae.npz from diffusers' AutoencoderKLWan, with seeded random weights.

python -m tests.parity.make_golden_wan_vae
"""

import dataclasses

import numpy as np

from tests.models.codec_tools import TINY_WAN, wan_state
from tests.models.test_wan_vae import GOLDEN
from tests.parity.torch_wan_vae import TorchWanVAE


def main():
    config = dataclasses.replace(TINY_WAN, height=16, width=8)
    theirs, rng = TorchWanVAE(config, wan_state(config, 20)), np.random.default_rng(21)
    video = rng.uniform(-1, 1, (1, 5, 16, 8, 3)).astype(np.float32)
    latents = rng.standard_normal((1, 3, *config.grid, config.channels)).astype(np.float32)
    arrays = dict(video=video, latents=latents, encoded=theirs.encode(video), decoded=theirs.decode(latents))
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)
    print({name: array.shape for name, array in arrays.items()}, GOLDEN.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
