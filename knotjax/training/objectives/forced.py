"""Training chunk by chunk in the geometry of a stream, with the true video in place of the generated one.

The chunks of a clip are denoised one after the other, each against the caches that a stream of the plan holds then:
ring, anchor, memory, positions and knot are those of `streaming`. So a chunk's keys are dense slices and no mask is
ever made (a chunk of a block-causal mask is a rectangle). Gradients flow through the caches.

  teacher forcing: caches of the clean frames, in a pass at t = 0; one diffusion time per chunk.
  diffusion forcing (arXiv 2407.01392): caches of the noisy chunks themselves; one diffusion time per chunk.
  Neighbor Forcing (SoulX-LiveAct, Sec. 3.2): as diffusion forcing, but one diffusion time for all chunks, so that each
    looks at its neighbours at its own noise level. With the plan's memory: ConvKV in its parallel form (Fig. 3, left).
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.models.dit import Conditions, DiT, wide
from knotjax.streaming import passes
from knotjax.streaming.levels import levels
from knotjax.streaming.noise import add_noise
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import init_stream
from knotjax.streaming.step import aging, commit, contexts, remember
from knotjax.training.clip import text_rows
from knotjax.training.rollout import drive_windows


@dataclasses.dataclass(frozen=True)
class ForcedConfig:
    """Noise levels and weights of `forced_flow`. Shift and bell are those of Self Forcing's trainers."""

    levels: str = "chunk"  # "chunk": one time per chunk; "shared": one per clip; "plan": those that the plan runs at
    shift: float = 5.0
    bell: bool = True  # weigh the flow loss by `bell`
    floor: float = 0.0  # the squared error of x0 is divided by (floor + sigma)^2; 0: the flow loss itself
    history_noise: float = 0.0  # largest noise level hidden in committed frames and knots
    drop_knot: float = 0.2  # share of later chunks that get no knot


def single(plan: StreamPlan, **changes) -> StreamPlan:
    """The plan with one denoising pass per step."""
    first = plan.timesteps[: changes.get("blocks", plan.blocks)]
    return dataclasses.replace(plan, timesteps=first, first_timesteps=None, **changes)


def chunks(plan: StreamPlan, frames: int) -> int:
    """Steps of a clip of `frames` latent frames and the knot's frames after them.

    Raises:
      ValueError: it does not split into whole blocks.
    """
    steps, rest = divmod(frames - plan.knot.frames + plan.missing, plan.chunk)
    if rest or not steps:
        raise ValueError(f"clip of {frames} latent frames: must be whole blocks of {plan.chunk} and the knot's frames")
    return steps + plan.blocks - 1


def windows(plan: StreamPlan, video):
    """The window of every step: [B, F, ...] -> [n, B, span, ...]; frames that do not exist repeat the nearest one."""
    firsts = plan.first_frame(np.arange(chunks(plan, video.shape[1])))
    at = np.clip(firsts[:, None] + np.arange(plan.span), 0, video.shape[1] - 1)
    return jnp.moveaxis(jnp.take(video, at, axis=1), 1, 0)


def existing(plan: StreamPlan, frames: int):
    """bool [n, span], frames of the windows that are frames of the clip (or of the knot after it)."""
    firsts = plan.first_frame(np.arange(chunks(plan, frames)))
    frame = firsts[:, None] + np.arange(plan.span)
    return (frame >= 0) & (frame < frames)


def forced_pass(model: DiT, plan: StreamPlan, params, x, t, clean, reference, drive: Conditions, knot_valid):
    """Denoise the window of every step once, in order.

    Args:
      plan: with one pass per step (`single`).
      params: of the DiT.
      x: [n, B, span, H, W, z], noisy windows.
      t: [n, B, span].
      clean: [n, B, span, H, W, z], what is committed (its first block) and handed over as knot (its first frames).
      reference: [B, 1, H, W, z].
      drive: conditions with the leading axes [n, B, ...].
      knot_valid: bool [n, B], steps that get a knot.

    Returns:
      The clean estimates [n, B, span, H, W, z].
    """
    steps, batch, c, k = len(x), x.shape[1], plan.chunk, plan.knot.frames
    frames = (steps - plan.blocks + 1) * c - plan.missing  # without the last knot
    state = init_stream(model, plan, params, reference, drive.text[0], jax.random.split(jax.random.key(0), batch))
    state = dataclasses.replace(state, end=jnp.full(batch, frames, jnp.int32))
    position = jnp.broadcast_to(jnp.arange(plan.span, dtype=jnp.int32), (batch, plan.span))
    zero = jnp.zeros((), jnp.int32)

    def one(state, row):
        x, t, clean, drive, knotted = row
        frame = plan.first_frame(state.block)[:, None] + jnp.arange(plan.span)
        valid = (frame >= 0) & (frame < state.end[:, None] + k)
        old = aging(plan, state, zero)
        look = contexts(plan, state, zero, jnp.zeros(batch, jnp.int32))
        x0, kv = passes.denoise_pass(
            model, plan, params, x, t, reference, clean[:, :k], knotted, position, drive, look, valid
        )
        if plan.commit == "same_step":
            state = remember(plan, params, state, kv, zero, old)
        audio, motion = (a if a is None else a[:, :c] for a in (drive.audio, drive.motion))
        heard = dataclasses.replace(drive, audio=audio, motion=motion)
        state = commit(model, plan, params, state, clean[:, :c], heard, old)
        return dataclasses.replace(state, block=state.block + 1), x0

    return jax.lax.scan(one, state, (x, t, clean, drive, knot_valid))[1]


def shifted(u, shift: float):
    """Diffusion times of shares u in 0 .. 1 under a timestep shift."""
    return 1000.0 * shift * u / (1.0 + (shift - 1.0) * u)


def draw_times(plan: StreamPlan, config: ForcedConfig, key, steps: int, batch: int):
    """Diffusion times of every window [n, B, span]."""
    shape = (steps, batch)
    if config.levels == "plan":
        own = levels(plan, first=False).now  # [N, span]
        return jnp.asarray(own)[jax.random.randint(key, shape, 0, len(own))]
    if plan.blocks > 1:
        raise ValueError(f"levels {config.levels!r}: a window of {plan.blocks} blocks is trained at 'plan' levels")
    u = 1.0 - jax.random.uniform(key, (1, batch) if config.levels == "shared" else shape)  # 0 excluded
    t = jnp.broadcast_to(shifted(u, config.shift), shape)
    return jnp.broadcast_to(t[..., None], (*shape, plan.span))


def bell(t, shift: float):
    """The weight of Self Forcing's flow trainers: a bell over the shifted grid of 1,000 times, 1 on average there.

    It is 0 at t = 1000, and looked up at the nearest time of the grid.
    """
    grid = shifted(np.linspace(1.0, 0.0, 1001)[:-1], shift)
    weight = np.exp(-2.0 * np.square((grid - 500.0) / 1000.0))
    weight = (weight - weight.min()) * (len(grid) / np.sum(weight - weight.min()))
    u = t / 1000.0
    u = u / (shift - (shift - 1.0) * u)  # back to the unshifted share, in which the grid is even
    near = jnp.round((1.0 - u) * 1000.0).astype(jnp.int32)[..., None] + jnp.arange(-1, 2)
    near = jnp.clip(near, 0, 999)
    table = jnp.asarray(grid, t.dtype)[near]
    best = jnp.argmin(jnp.abs(table - t[..., None]), -1)[..., None]
    return jnp.asarray(weight, t.dtype)[jnp.take_along_axis(near, best, -1)[..., 0]]


def forced_flow(model: DiT, plan: StreamPlan, config: ForcedConfig, params, batch: Mapping, key):
    """The flow-matching loss of a clip, chunk by chunk. The plan's `commit` says what is cached.

    Args:
      params: {"dit": ..., "words": ...}.
      batch: latents [B, F, H, W, z], F whole blocks and the knot's frames; reference [B, 1, H, W, z]; audio and motion
        [B, F, P, C]; words, or text and blank_text.

    Returns:
      The loss and a dict of scalars.
    """
    plan = single(plan) if config.levels != "plan" else plan
    keys = iter(jax.random.split(key, 6))
    latents = batch["latents"]
    size, frames = latents.shape[:2]
    steps = chunks(plan, frames)
    t = draw_times(plan, config, next(keys), steps, size).astype(latents.dtype)
    plan = single(plan)
    level = 1000.0 * config.history_noise * jax.random.uniform(next(keys), (size, 1), latents.dtype)
    hidden = jax.random.normal(next(keys), latents.shape, latents.dtype)
    seen = windows(plan, add_noise(latents, hidden, jnp.broadcast_to(level, (size, frames))))
    target = windows(plan, latents)
    x = add_noise(target, jax.random.normal(next(keys), target.shape, latents.dtype), t)
    knotted = (jax.random.uniform(next(keys), (steps, size)) >= config.drop_knot) & (jnp.arange(steps) > 0)[:, None]
    drive = clip_drive(plan, batch, text_rows(model, params, batch)[0], steps)
    x0 = forced_pass(model, plan, params["dit"], x, t, seen, batch["reference"], drive, knotted)
    square = jnp.square((x0 - target).astype(wide(latents.dtype)))
    weight = 1.0 / jnp.square(config.floor + t / 1000.0)
    if config.bell:
        weight = weight * bell(t, config.shift)
    there = jnp.broadcast_to(existing(plan, frames)[:, None], t.shape)
    each = jnp.mean(square, (3, 4, 5))  # [n, B, span]
    loss = jnp.sum(jnp.where(there, weight * each, 0.0)) / jnp.sum(there)
    return loss, {"loss": loss, "error": jnp.sum(jnp.where(there, each, 0.0)) / jnp.sum(there)}


def clip_drive(plan: StreamPlan, batch: Mapping, text, steps: int) -> Conditions:
    """Conditions of every window of a clip, with the leading axes [n, B]."""
    return drive_windows(batch, text, plan.first_frame(np.arange(steps)), plan.span)


def teacher_forcing(model: DiT, plan: StreamPlan, config: ForcedConfig, params, batch: Mapping, key):
    """`forced_flow` against caches of the clean video (at t = 0), one diffusion time per chunk."""
    plan = single(plan, blocks=1, commit="clean")
    return forced_flow(model, plan, dataclasses.replace(config, levels="chunk"), params, batch, key)


def diffusion_forcing(model: DiT, plan: StreamPlan, config: ForcedConfig, params, batch: Mapping, key):
    """`forced_flow` against caches of the noisy chunks, one diffusion time per chunk."""
    plan = single(plan, blocks=1, commit="same_step")
    return forced_flow(model, plan, dataclasses.replace(config, levels="chunk"), params, batch, key)


def neighbor_forcing(model: DiT, plan: StreamPlan, config: ForcedConfig, params, batch: Mapping, key):
    """`forced_flow` against caches of the noisy chunks, one diffusion time for all of a clip."""
    plan = single(plan, blocks=1, commit="same_step")
    return forced_flow(model, plan, dataclasses.replace(config, levels="shared"), params, batch, key)
