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


def fit_basis(config: CodecConfig, groups: np.ndarray, whitening: float) -> dict[str, np.ndarray]:
    """Principal components of the patches of the given groups.

    Args:
      groups: uint8 [N, 1 + 2 * STRIDE, H, W, 3], from `sample_groups`.
      whitening: latents are divided by (standard deviation ** whitening), then by one number so that their mean
        square is 1.
        0 keeps the pixel metric, 1 makes every channel equally strong.

    Returns:
      mean [P], basis [P, z], scale [z], float32.
    """
    size = STRIDE * config.patch**2 * 3
    total, square, count = np.zeros(size), np.zeros((size, size)), 0
    for piece in np.array_split(groups, -(-len(groups) // 64)):
        pixels = jnp.asarray(piece[:, 1:], jnp.float32) / 127.5 - 1.0
        patches = np.asarray(to_patches(pixels, config.patch)).reshape(-1, size)
        total += patches.sum(0)
        square += patches.T @ patches
        count += len(patches)
    mean = total / count
    values, vectors = np.linalg.eigh(square / count - np.outer(mean, mean))
    spread = np.sqrt(np.maximum(values[::-1][: config.channels], 1e-12))
    scale = spread**whitening
    scale *= np.sqrt(np.mean((spread / scale) ** 2))
    basis = vectors[:, ::-1][:, : config.channels]
    arrays = {"mean": mean, "basis": basis, "scale": scale}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


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
            return jnp.mean(jnp.sqrt(jnp.square(error) + 1e-4))

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
