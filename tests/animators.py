"""A tiny animator with random weights, for tests of everything around the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import bundle, drive
from knotjax.models import motion, speech
from knotjax.models.dit import DiTConfig
from knotjax.models.patch_codec import CodecConfig, PatchCodec
from knotjax.pipeline import Animator
from knotjax.training.trainer import initial_params

DIT = DiTConfig(
    latent_channels=8, dim=24, ffn_dim=32, heads=2, layers=2, freq_dim=16, text_dim=8,
    audio_tokens=2, audio_width=8, audio_hidden=16, audio_window=(speech.WINDOW_FRAMES, speech.WIDTH),
    motion_tokens=2, motion_window=(motion.WINDOW_FRAMES, motion.WIDTH), motion_every=2, prediction="x0",
)  # fmt: skip
CODEC = CodecConfig(size=64, patch=16, channels=8, widths=(8, 8, 8))


@functools.cache
def tiny() -> Animator:
    rng = np.random.default_rng(0)
    params = initial_params(bundle.DiT(DIT), CODEC.grid, jax.random.key(0))
    patch = 4 * CODEC.patch**2 * 3
    params["codec"] = {
        "mean": np.zeros(patch),
        "basis": np.linalg.qr(rng.normal(size=(patch, CODEC.channels)))[0],
        "scale": np.ones(CODEC.channels),
        "synthesis": PatchCodec(CODEC).init_synthesis(jax.random.key(1)),
    }
    params = jax.tree.map(lambda a: jnp.asarray(a + 0.05 * rng.normal(size=a.shape), jnp.float32), params)
    plan = {"chunk": 3, "window": 6, "knot": 1, "steps": (1000, 500), "shift": 3.0}
    return Animator(bundle.Bundle(DIT, CODEC, "knot_forcing", plan, params))


def portrait(seed=0, size=CODEC.size):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def voice(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * drive.SAMPLE_RATE)).astype(np.float32)
