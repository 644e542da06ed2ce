"""Tiny sizes, random weights and cutting into pieces, for tests of the public codecs."""

import jax
import numpy as np

from knotjax.convert import taehv, wan_vae
from knotjax.convert.keymap import places
from knotjax.models.taehv import TAEHVConfig
from knotjax.models.wan_vae import MEAN, STD, WanVAEConfig

TINY_WAN = WanVAEConfig(24, 40, widths=(4, 8, 16, 16), blocks=1, mean=MEAN[:5], std=STD[:5])  # 3 x 5 latents
TINY_TAEHV = TAEHVConfig(24, 40, channels=5, encoder_width=6, decoder_widths=(10, 8, 6, 4))  # 3 x 5 latents


def random_state(table, shapes, seed: int, dtype="float32") -> dict[str, np.ndarray]:
    """Tensors under a checkpoint's names, none of them zero, drawn in the order of the names.

    Windows of convolutions are scaled to keep the variance, more or less; biases and norms scatter around 0 and 1.
    """
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in sorted(row for rows in places(table, shapes).values() for row in rows):
        noise = rng.standard_normal(shape)
        if name.endswith("weight"):
            noise = noise * np.prod(shape[1:]) ** -0.5
        elif name.endswith("gamma"):
            noise = 1.0 + 0.3 * noise
        else:
            noise = 0.2 * noise
        state[name] = noise.astype(dtype)
    assert all(np.all(tensor != 0.0) for tensor in state.values())
    return state


def pieces(step, params, state, whole, split, stride):
    """Run `step` over `whole` in pieces of so many latents each; returns the last state and all that came out."""
    out, at = [], 0
    for count in split:
        state, piece = step(params, state, whole[:, at * stride : (at + count) * stride])
        out.append(np.asarray(piece))
        at += count
    assert at * stride == whole.shape[1]
    return state, np.concatenate(out, 1)


def stack(*states):
    """States of several streams as one state of a batch."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *states)


def wan_state(config: WanVAEConfig, seed: int = 0, dtype="float32") -> dict[str, np.ndarray]:
    """Random weights of a Wan VAE by their original names, with which few pixels are clipped."""
    state = random_state(wan_vae.table(config, 0), wan_vae.shapes(config), seed, dtype)
    state["decoder.head.2.weight"] *= 0.3
    return state


def taehv_state(config: TAEHVConfig, seed: int = 0, dtype="float32") -> dict[str, np.ndarray]:
    """Random weights of a TAEHV by their original names, with which few pixels are clipped."""
    state = random_state(taehv.table(config), taehv.shapes(config), seed, dtype)
    state["decoder.22.weight"] *= 0.5
    state["decoder.22.bias"] = 0.5 + 0.2 * state["decoder.22.bias"]
    return state
