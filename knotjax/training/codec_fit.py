"""Fitting the patch codec: a principal-component basis first, then the convolutional decoder."""

import dataclasses
import logging
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from knotjax.data.clips import make_clip
from knotjax.drive import STRIDE
from knotjax.models.patch_codec import CodecConfig, EncodeState, PatchCodec, Synthesis, to_patches

log = logging.getLogger("knotjax")


def sample_groups(clips: int, seconds: float, pairs: int, first_seed: int = 0) -> np.ndarray:
    """A portrait and two neighbouring latent groups, from many clips.

    Every fourth pair is a standing picture (one frame repeated), as the first latent of a stream is. The portrait is
    another frame of the same clip.

    Returns:
      uint8 [clips * pairs, 1 + 2 * STRIDE, H, W, 3].
    """
    out, start = [], time.time()
    for seed in range(first_seed, first_seed + clips):
        frames = make_clip(seed, seconds).frames
        rng, other = np.random.default_rng(seed), np.random.default_rng((seed, 1))
        for i in range(pairs):
            at = int(rng.integers(0, len(frames) - 2 * STRIDE + 1))
            pair = frames[at : at + 2 * STRIDE]
            pair = np.repeat(pair[:1], 2 * STRIDE, 0) if i % 4 == 3 else pair
            out.append(np.concatenate([frames[other.integers(0, len(frames))][None], pair]))
        if (seed + 1) % 50 == 0:
            log.info("codec: rendered %d clips in %.0f s", seed + 1 - first_seed, time.time() - start)
    return np.stack(out)


def fit_basis(config: CodecConfig, groups: np.ndarray, *, moving: int, attention: float, whitening: float):
    """Principal components of the patches: some for what stands still in a group of four frames, some for what moves.

    One analysis of whole patches would spend nearly all its components on textures, and a mouth could then change only
    from latent to latent. Textures matter less: the decoder takes them from the portrait.

    Args:
      groups: uint8 [N, 1 + 2 * STRIDE, H, W, 3], from `sample_groups`.
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
    pixels = jnp.asarray(groups[:, 1:], jnp.float32) / 127.5 - 1.0
    return np.asarray(to_patches(pixels, config.patch)).reshape(-1, STRIDE, config.patch**2 * 3)


def _movement(config: CodecConfig, groups: np.ndarray) -> np.ndarray:
    """Variance over time of every patch, float32 [N, patches per pair]."""
    parts = [_patches(config, piece).var(1).sum(-1) for piece in np.array_split(groups, _pieces(groups))]
    return np.concatenate(parts).reshape(len(groups), -1)


def psnr(a, b) -> float:
    """Peak signal-to-noise ratio in dB of pictures in -1 .. 1."""
    return float(10.0 * np.log10(4.0 / np.mean(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)))))


def initial_synthesis(config: CodecConfig, key):
    """Random parameters of the convolutional decoder."""
    latent = jnp.zeros((1, config.grid, config.grid, config.channels))
    picture = jnp.zeros((1, config.size, config.size, 3))
    group = jnp.zeros((1, STRIDE, config.size, config.size, 3))
    return Synthesis(config).init(key, latent, latent, latent, picture, group)["params"]


def fit_synthesis(
    config: CodecConfig, linear: dict, groups: np.ndarray, *, steps: int, batch: int, rate: float, seed: int
):
    """Train the convolutional decoder on pairs of groups; the encoder stays as it is.

    Latents get a little noise, so that the decoder forgives what a generator gets slightly wrong. The loss is a
    smooth L1.

    Returns:
      Codec parameters (see `PatchCodec`).
    """
    codec = PatchCodec(config)
    weights = initial_synthesis(config, jax.random.key(seed))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(100, steps // 10), steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))
    linear = jax.tree.map(jnp.asarray, linear)

    def reconstruct(weights, latents, running, picture):
        state = codec.init_decode(linear, picture)
        state = dataclasses.replace(state, first=~running, previous=latents[:, 0])
        return codec.decode_step({**linear, "synthesis": weights}, state, latents[:, 1:])[1]

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(weights, moments, pairs, key):
        pixels = pairs.astype(jnp.float32) / 127.5 - 1.0
        picture, pixels = pixels[:, 0], pixels[:, 1:]
        _, latents = codec.encode_step(linear, EncodeState(jnp.zeros(len(pixels), bool)), pixels)
        one, two, three = jax.random.split(key, 3)
        level = jax.random.uniform(one, (len(pixels), 1, 1, 1, 1), maxval=0.15)
        noisy = latents + level * jax.random.normal(two, latents.shape)
        running = jax.random.uniform(three, (len(pixels),)) < 0.8

        def loss(weights):
            error = reconstruct(weights, noisy, running, picture) - pixels[:, STRIDE:]
            return jnp.mean(jnp.sqrt(jnp.square(error) + 1e-3))

        value, gradient = jax.value_and_grad(loss)(weights)
        change, moments = optimiser.update(gradient, moments)
        return optax.apply_updates(weights, change), moments, value

    moments = optimiser.init(weights)
    rng, key, start = np.random.default_rng(seed), jax.random.key(seed + 1), time.time()
    for step in range(steps):
        pairs = groups[rng.integers(0, len(groups), batch)]
        if rng.random() < 0.5:
            pairs = pairs[:, :, :, ::-1]  # mirrored
        weights, moments, value = update(weights, moments, pairs, jax.random.fold_in(key, step))
        if (step + 1) % 50 == 0:
            left = (time.time() - start) / (step + 1) * (steps - step - 1)
            log.info("codec: step %d of %d, loss %.4f, %.0f s left", step + 1, steps, value, left)
    return {**linear, "synthesis": weights}


def reconstruction_psnr(codec: PatchCodec, params, groups: np.ndarray) -> tuple[float, float]:
    """PSNR in dB of the second group of each pair: linear part alone, whole decoder."""
    pixels = jnp.asarray(groups, jnp.float32) / 127.5 - 1.0
    picture, pixels = pixels[:, 0], pixels[:, 1:]
    _, latents = codec.encode_step(params, EncodeState(jnp.zeros(len(pixels), bool)), pixels)
    state = codec.init_decode(params, picture)
    state = dataclasses.replace(state, first=~state.first, previous=latents[:, 0])
    _, decoded = codec.decode_step(params, state, latents[:, 1:])
    truth = pixels[:, STRIDE:]
    return psnr(codec.linear_decode(params, latents[:, 1:]), truth), psnr(decoded, truth)
