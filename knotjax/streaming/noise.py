"""Noise levels, the flow-matching conversions and the keyed noise of a stream.

Flow matching: x_t = (1 - sigma) x0 + sigma eps, v = eps - x0, sigma = t / 1000.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def warp(steps: Sequence[int], shift: float) -> tuple[float, ...]:
    """Diffusion times of a step list under a timestep shift: sigma = S s / (1 + (S - 1) s), s = step / 1000."""
    return tuple(1000.0 * shift * n / (1000.0 + (shift - 1.0) * n) for n in steps)


def add_noise(x0, noise, t):
    """x_t for diffusion times t [B, F] in 0 .. 1000."""
    sigma = jnp.asarray(t, x0.dtype)[..., None, None, None] / 1000.0
    return (1.0 - sigma) * x0 + sigma * noise


def to_x0(prediction, x, t, kind: str):
    """The clean estimate behind a prediction of kind "v" or "x0"; t is [B, F] in 0 .. 1000."""
    if kind == "x0":
        return prediction
    return x - jnp.asarray(t, x.dtype)[..., None, None, None] / 1000.0 * prediction


def block_noise(key, block, step, shape: tuple[int, ...], dtype):
    """Noise of one pass, from fold_in(fold_in(stream key, block), pass) and nothing else.

    Args:
      key: keys [B], one per stream, so that a stream's noise does not depend on its neighbours in the batch.
      block: int32 [B], number of the step in its stream.
      step: int32 [B], pass number; 0 is the noise that a block starts from.
      shape: shape of one stream's noise, without the batch axis.
    """

    def draw(key, block, step):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, block), step), shape, dtype)

    return jax.vmap(draw)(key, block, step)


def renoise(sampler: str, x0, x, t, after, noise):
    """Move from time t to a lower one: [B, F, H, W, z] -> same; t, after [B, F] in 0 .. 1000.

    "renoise" mixes the clean estimate with fresh noise (Self Forcing and most few-step systems), "euler" follows the
    straight line through x and the clean estimate.
    """
    if sampler == "renoise":
        return add_noise(x0, noise, after)
    return x0 + (jnp.asarray(after, x.dtype) / jnp.asarray(t, x.dtype))[..., None, None, None] * (x - x0)
