"""Tiny DiTs that diffusers can build too, random inputs for them, and the stored outputs of their PyTorch twins."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from knotjax.models.dit import Conditions, DiT, DiTConfig

GOLDEN = Path(__file__).parent.parent / "golden" / "dit.npz"
TEXT_ROWS = 512  # diffusers tells image tokens from text rows by this number

PLAIN = DiTConfig(latent_channels=3, inputs="plain", dim=24, ffn_dim=32, heads=2, layers=2, freq_dim=16, text_dim=6)
TINY = {
    "plain": PLAIN,
    "inpaint": dataclasses.replace(PLAIN, inputs="inpaint"),
    "image": dataclasses.replace(PLAIN, inputs="image", image_tokens=5, image_width=10),
}


def random_inputs(config: DiTConfig, seed: int, frames: int = 3, grid=(4, 6), batch: int = 2) -> dict[str, np.ndarray]:
    """Arguments of one forward; images come with one time for the whole clip, as diffusers wants it."""
    rng = np.random.default_rng(seed + 100)
    shape = (batch, frames, *grid, config.latent_channels)
    arrays = dict(x=rng.standard_normal(shape), given=rng.standard_normal(shape))
    arrays["mask"] = rng.integers(0, 2, (batch, frames))
    arrays["t"] = rng.uniform(0, 1000, (batch, 1 if config.image_tokens else frames)) * np.ones((1, frames))
    arrays["text"] = rng.standard_normal((batch, TEXT_ROWS, config.text_dim))
    if config.image_tokens:
        arrays["image"] = rng.standard_normal((batch, config.image_tokens, config.image_width))
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def forward(config: DiTConfig):
    """A compiled forward: (params, arrays of `random_inputs`) -> the prediction."""

    @jax.jit
    def run(params, arrays):
        x = arrays["x"]
        position = jax.numpy.broadcast_to(jax.numpy.arange(x.shape[1], dtype="int32"), x.shape[:2])
        conditions = Conditions(arrays["text"], image=arrays.get("image"))
        inputs = (x, arrays["given"], arrays["mask"], arrays["t"], position, conditions)
        return DiT(config).apply({"params": params}, *inputs)[0]

    return run
