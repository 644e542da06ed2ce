"""Fitting the patch codec: a principal-component basis first, then the convolutional decoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.drive import STRIDE
from knotjax.models.patch_codec import CodecConfig, PatchCodec, to_patches
from knotjax.models.pixels import to_float


def fit_basis(config: CodecConfig, groups: np.ndarray, *, moving: int, attention: float, whitening: float):
    """Principal components of the patches: some for what stands still in a group of four frames, some for what moves.

    One analysis of whole patches would spend nearly all its components on textures, and a mouth could then change only
    from latent to latent. Textures matter less: the decoder takes them from the portrait.

    Args:
      groups: uint8 [N, 1 + 2 * STRIDE, H, W, 3], pictures of `corpus.Pairs`.
      moving: components of z for the movement inside a group; the others are for its mean frame.
      attention: 0 counts every patch alike, 1 counts it by how much it moves.
      whitening: latents are divided by (standard deviation ** whitening), then by one number so that their mean square
        is 1. 0 keeps the pixel metric, 1 makes every channel equally strong.

    Returns:
      mean [P], basis [P, z] with orthonormal columns, scale [z], float32.
    """
    frame = config.patch**2 * 3
    shapes = {"still": frame, "moving": STRIDE * frame}
    sums = {name: np.zeros(size) for name, size in shapes.items()}
    squares = {name: np.zeros((size, size)) for name, size in shapes.items()}
    energy, weights = _movement(config, groups), 0.0
    for piece, amount in zip(np.array_split(groups, _pieces(groups)), np.array_split(energy, _pieces(groups))):
        patches = _patches(config, piece)  # [n, STRIDE, frame]
        weight = (1.0 - attention + attention * amount.reshape(-1) / energy.mean())[:, None]
        still = patches.mean(1)
        parts = {"still": still, "moving": (patches - still[:, None]).reshape(len(patches), -1)}
        weights += weight.sum()
        for name, part in parts.items():
            sums[name] += (weight * part).sum(0)
            squares[name] += part.T @ (weight * part)
    mean = np.tile(sums["still"], STRIDE) / weights + sums["moving"] / weights
    spreads, columns = [], []
    for name, count in (("still", config.channels - moving), ("moving", moving)):
        centre = sums[name] / weights
        values, vectors = np.linalg.eigh(squares[name] / weights - np.outer(centre, centre))
        vectors = vectors[:, ::-1][:, :count]
        longer = STRIDE if name == "still" else 1  # a still component is repeated in every frame of the group
        columns.append(np.tile(vectors, (longer, 1)) / np.sqrt(longer))
        spreads.append(np.sqrt(longer * np.maximum(values[::-1][:count], 1e-12)))
    spread = np.concatenate(spreads)
    scale = spread**whitening
    scale *= np.sqrt(np.mean((spread / scale) ** 2))
    arrays = {"mean": mean, "basis": np.concatenate(columns, 1), "scale": scale}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _pieces(groups: np.ndarray) -> int:
    return -(-len(groups) // 64)


def _patches(config: CodecConfig, groups: np.ndarray) -> np.ndarray:
    """float32 [patches, STRIDE, patch * patch * 3] of the groups, without their portraits."""
    pixels = to_float(groups[:, 1:])
    return np.asarray(to_patches(pixels, config.patch)).reshape(-1, STRIDE, config.patch**2 * 3)


def _movement(config: CodecConfig, groups: np.ndarray) -> np.ndarray:
    """Variance over time of every patch, float32 [N, patches per pair]."""
    parts = [_patches(config, piece).var(1).sum(-1) for piece in np.array_split(groups, _pieces(groups))]
    return np.concatenate(parts).reshape(len(groups), -1)


def in_boxes(boxes, size: int):
    """Which pixels lie in a box x0 y0 x1 y1: [..., 4] -> [..., size, size]."""
    at = jnp.arange(size) + 0.5
    x0, y0, x1, y1 = (boxes[..., i, None] for i in range(4))
    return ((at > y0) & (at < y1))[..., :, None] & ((at > x0) & (at < x1))[..., None, :]


def decoding_error(
    codec: PatchCodec, params, picture, latents, first, truth, boxes, *, mouth: float, smooth: float = 1e-3
):
    """How far decoded pixels are from the truth: a smooth L1 in which pixels of the mouth's box weigh `mouth` more.

    Args:
      picture: [B, H, W, 3], the portraits.
      latents: [B, 2, h, w, z], the latent before and the one to decode.
      first: bool [B], whether there is none before.
      truth: [B, STRIDE, H, W, 3].
      boxes: [B, STRIDE, 4], x0 y0 x1 y1 in pixels.
      smooth: squared errors below this count squared, above it by their root.
    """
    state = dataclasses.replace(codec.init_decode(params, picture), first=first, previous=latents[:, 0])
    _, decoded = codec.decode_step(params, state, latents[:, 1:])
    inside = in_boxes(boxes, codec.config.size)[..., None]  # [B, STRIDE, H, W, 1]
    error = jnp.square(decoded - truth)
    value = jnp.mean((1.0 + mouth * inside) * jnp.sqrt(error + smooth))
    return value, {"loss": value, "mse": jnp.mean(error)}


def synthesis_loss(codec: PatchCodec, linear: dict, noise: float, mouth: float):
    """A loss of the convolutional decoder over batches of `corpus.Pairs`; the linear part stays as it is.

    Latents get noise of a level drawn from 0 .. `noise`, so that the decoder forgives what a generator gets slightly
    wrong.
    """
    linear = jax.tree.map(jnp.asarray, linear)

    def loss(weights, batch, key):
        pixels = to_float(batch["pictures"])
        picture, pixels = pixels[:, 0], pixels[:, 1:]
        size = len(pixels)
        _, latents = codec.encode_step(linear, codec.init_encode(size, first=False), pixels)
        one, two, three = jax.random.split(key, 3)
        level = jax.random.uniform(one, (size, 1, 1, 1, 1), maxval=noise)
        noisy = latents + level * jax.random.normal(two, latents.shape)
        first = jax.random.uniform(three, (size,)) < 0.2
        params = {**linear, "synthesis": weights}
        return decoding_error(codec, params, picture, noisy, first, pixels[:, STRIDE:], batch["mouth"], mouth=mouth)

    return loss


def reconstruction_psnr(codec: PatchCodec, params, pairs: np.ndarray) -> float:
    """PSNR in dB of the second group of each pair uint8 [1 + 2 * STRIDE, H, W, 3], in pictures of -1 .. 1."""

    @jax.jit
    def error(pair):
        pixels = to_float(pair)
        _, latents = codec.encode_step(params, codec.init_encode(1, first=False), pixels[None, 1:])
        _, decoded = codec.decode_step(params, codec.init_decode(params, pixels[:1]), latents)
        return jnp.mean(jnp.square(decoded[:, STRIDE:] - pixels[None, 1 + STRIDE :]))

    return float(10.0 * np.log10(4.0 / np.mean([error(pair) for pair in pairs])))
