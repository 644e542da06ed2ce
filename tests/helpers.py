"""Tiny models and random inputs for tests."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.models.dit import Conditions, DiT, DiTConfig

TINY = DiTConfig(
    latent_channels=3,
    dim=24,
    ffn_dim=32,
    heads=2,
    layers=2,
    freq_dim=16,
    text_dim=6,
    audio_tokens=2,
    audio_width=10,
    audio_hidden=12,
    audio_window=(3, 5),
    motion_tokens=2,
    motion_window=(2, 4),
    motion_every=1,
)
PIXEL_FRAMES = dict(audio_form="pixel_frames", audio_window=(8, 5))
PACKED = dict(audio_form="added", audio_tokens=1, audio_window=(4, 5), layers=6)
IMAGE = dict(inputs="image", image_tokens=3, image_width=7)
UNDRIVEN = dict(audio_tokens=0, audio_window=(0, 0), motion_tokens=0, motion_window=(0, 0))
GRID = (4, 4)  # latents per column and per row
TEXT_ROWS = 2


@contextlib.contextmanager
def precision(dtype):
    """Inside, arrays may be `dtype` ("float32" or "float64"); the process setting is put back afterwards."""
    with jax.enable_x64(np.dtype(dtype).itemsize == 8):
        yield jnp.dtype(dtype)


def tiny(**changes) -> DiT:
    """A tiny DiT with sound and motion."""
    return DiT(dataclasses.replace(TINY, **changes))


def normal(rng: np.random.Generator, shape, dtype="float32"):
    """Standard normal numbers."""
    return jnp.asarray(rng.standard_normal(shape), dtype)


def random_params(model: DiT, seed: int = 0, dtype="float32"):
    """Parameters of which none is zero, gates and head included, in which attention over frames weighs heavily.

    Norm weights scatter around 1.5, so that attention is far from uniform.
    """
    c = model.config
    rng = np.random.default_rng(seed)
    x = jnp.zeros((1, 1, *GRID, c.latent_channels))
    conditions = random_conditions(c, rng, 1, 1)
    still = jnp.zeros((1, 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, x, still, still, still.astype(jnp.int32), conditions)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape)
        if name == "kernel":
            gain = {"v": 4.0, "o": 4.0, "text_v": 3.0, "text_o": 3.0, "kv": 3.0}.get(path[-2].key, 1.4)
            noise = noise * gain * leaf.shape[-2] ** -0.5
        elif name in ("weight", "scale"):
            noise = 1.5 + 0.4 * noise
        else:  # biases and modulation tables
            noise = 0.5 * noise
        return jnp.asarray(noise, dtype)

    params = jax.tree_util.tree_map_with_path(draw, shapes["params"])
    assert all(np.all(np.asarray(leaf) != 0.0) for leaf in jax.tree.leaves(params))
    return params


def random_conditions(
    config: DiTConfig, rng: np.random.Generator, batch: int, frames: int, dtype="float32", text=None
) -> Conditions:
    """Random text, sound and motion rows; `text` replaces the text rows."""

    def rows(tokens, window):
        return normal(rng, (batch, frames, *window), dtype) if tokens else None

    text = normal(rng, (batch, TEXT_ROWS, config.text_dim), dtype) if text is None else text
    audio = rows(config.audio_tokens, config.audio_window)
    motion = rows(config.motion_tokens, config.motion_window)
    if config.audio_form == "pixel_frames":  # the first latent frame is a stream's first one
        audio = audio.at[..., -1].set(0.0).at[:, 0, :, -1].set(1.0)
    image = normal(rng, (batch, config.image_tokens, config.image_width), dtype) if config.image_tokens else None
    return Conditions(text, audio, motion, image)


def relative(actual, expected) -> float:
    """Largest absolute difference over the largest absolute value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.all(np.isfinite(actual)) and np.all(np.isfinite(expected))
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))
