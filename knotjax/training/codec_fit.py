"""Fitting the small codec: encoder and decoder together, with noise on the latents.

The noise makes the latents a code of limited rate: what the decoder can take from the portrait is not worth encoding,
and neighbouring latents mean neighbouring pictures, so the decoder forgives what a denoiser gets slightly wrong.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.drive import STRIDE
from knotjax.models.pixels import to_float
from knotjax.models.warp_codec import WarpCodec


def moments(latents):
    """Mean and standard deviation of every channel: [..., z] -> [z], [z]."""
    axes = tuple(range(latents.ndim - 1))
    return jnp.mean(latents, axes), jnp.std(latents, axes) + 1e-4


def in_boxes(boxes, size: int):
    """Which pixels lie in a box x0 y0 x1 y1: [..., 4] -> [..., size, size]."""
    at = jnp.arange(size) + 0.5
    x0, y0, x1, y1 = (boxes[..., i, None] for i in range(4))
    return ((at > y0) & (at < y1))[..., :, None] & ((at > x0) & (at < x1))[..., None, :]


def codec_loss(codec: WarpCodec, noise: float, attention: float, mouth: float):
    """A loss over batches of `corpus.Pairs`: a portrait and two neighbouring groups, of which the second is decoded.

    A smooth L1 in which pixels that differ from the portrait weigh up to `attention` more, and those of the mouth's box
    `mouth` more; latents are normalised by the batch's own moments and get noise of a level drawn from 0 .. `noise`.
    """

    def loss(params, batch, key):
        pixels = to_float(batch["pictures"])
        portrait, pixels = pixels[:, 0], pixels[:, 1:]
        size = len(pixels)
        plain = {**params, "mean": jnp.zeros(()), "scale": jnp.ones(())}
        running = codec.init_encode(size, first=False)
        _, raw = codec.encode_step(plain, running, pixels[:, STRIDE:])
        mean, scale = moments(raw)
        fixed = jax.lax.stop_gradient({**params, "mean": mean, "scale": scale})  # halves the cost of the backward pass
        _, before = codec.encode_step(fixed, running, pixels[:, :STRIDE])
        latents = jnp.concatenate([before, (raw - mean) / scale], 1)
        one, two, three = jax.random.split(key, 3)
        level = jax.random.uniform(one, (size, 1, 1, 1, 1), maxval=noise)
        noisy = latents + level * jax.random.normal(two, latents.shape)
        first = jax.random.uniform(three, (size,)) < 0.2
        state = dataclasses.replace(codec.init_decode(fixed, portrait), first=first, previous=noisy[:, 0])
        _, decoded = codec.decode_step(params, state, noisy[:, 1:])
        target = pixels[:, STRIDE:]
        moved = jnp.mean(jnp.abs(target - portrait[:, None]), -1, keepdims=True)
        inside = in_boxes(batch["mouth"], codec.config.size)[..., None]  # [B, STRIDE, H, W, 1]
        weight = 1.0 + attention * jnp.clip(4.0 * moved, 0.0, 1.0) + mouth * inside
        error = decoded - target
        value = jnp.mean(weight * jnp.sqrt(jnp.square(error) + 1e-3))
        return value, {"loss": value, "mse": jnp.mean(jnp.square(error))}

    return loss


def normalised(codec: WarpCodec, params, pairs: np.ndarray):
    """Parameters whose latents have mean 0 and variance 1 over the pairs."""
    plain = {**params, "mean": jnp.zeros(codec.config.channels), "scale": jnp.ones(codec.config.channels)}
    encode = jax.jit(codec.encode_step)
    state = codec.init_encode(1, first=False)
    mean, scale = moments(jnp.concatenate([encode(plain, state, to_float(pair[None, 1:]))[1] for pair in pairs]))
    return {**params, "mean": mean, "scale": scale}


def reconstruction_psnr(codec: WarpCodec, params, pairs: np.ndarray) -> float:
    """PSNR in dB of the second group of each pair, in pictures of -1 .. 1."""

    @jax.jit
    def errors(pair):
        pixels = to_float(pair)
        _, latents = codec.encode_step(params, codec.init_encode(1, first=False), pixels[None, 1:])
        _, decoded = codec.decode_step(params, codec.init_decode(params, pixels[:1]), latents)
        return jnp.mean(jnp.square(decoded[:, STRIDE:] - pixels[None, 1 + STRIDE :]))

    return float(10.0 * np.log10(4.0 / np.mean([errors(pair) for pair in pairs])))
