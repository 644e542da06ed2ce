"""Self-rollout: the student streams on its own output, and gradients flow through one forward per block.

A rollout calls `stream_step`, so every `StreamPlan` can be trained as it will run (Self Forcing, arXiv 2506.08009,
Sec. 3.2; Knot Forcing, Sec. 3). What enters the forward with gradient is constant: the noisy latents, the caches, the
knot of the block before. The block's own keys and values are not. One exit is shared by all blocks, samples and
processes:

  blocks = 1: the pass list is cut behind the exit pass. Its clean estimate is what the block emits, commits and hands
    over as its knot. The extra passes of `first_timesteps` are always run.
  blocks > 1 (Rolling Forcing, AvatarForcing): the windows of every W-th step carry gradients, through one of their
    passes. They tile the clip, and the video is stitched from their clean estimates, each block at its own noise level.

The weights of a ConvKV memory learn through the memory that a block looks at: the keys and values that were compressed
last, and the memory before them, are constants.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from knotjax import sharding
from knotjax.models.dit import Conditions, DiT
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import StreamState, init_stream
from knotjax.streaming.step import stream_step


@dataclasses.dataclass(frozen=True)
class Exit:
    """The forwards of a rollout that carry gradients."""

    step: int  # denoising pass, from 0
    window: int = 0  # r: the steps r, r + W, r + 2 W, ...


def exits(plan: StreamPlan) -> tuple[Exit, ...]:
    """All exits of a plan; training draws one of them for every rollout, all with the same chance."""
    return tuple(Exit(step, window) for step in range(plan.passes) for window in range(plan.blocks))


def exit_plan(plan: StreamPlan, exit: Exit) -> StreamPlan:
    """The plan that a rollout with this exit runs."""
    if plan.blocks > 1:
        return plan
    return dataclasses.replace(plan, timesteps=plan.timesteps[: exit.step + 1])


def begin(model: DiT, plan: StreamPlan, params, reference, text, key, frames: int, exit: Exit = Exit(0)) -> StreamState:
    """The state before the first block of a rollout of `frames` latent frames; constant.

    Args:
      reference: [B, 1, H, W, z].
      text: [B, T, text_dim].
      key: one random key; every sample gets its own from it.
    """
    keys = jax.random.split(key, reference.shape[0])
    state = init_stream(model, exit_plan(plan, exit), params, reference, text, keys)
    end = jnp.full(reference.shape[0], frames, jnp.int32)
    return jax.lax.stop_gradient(spread(dataclasses.replace(state, end=end)))


def spread(state: StreamState) -> StreamState:
    """The same, spread over the mesh that is set: caches by sample and head, all else by sample."""
    caches = {name: getattr(state, name).map(sharding.split_caches) for name in ("anchor", "ring", "memory")}
    names = ("reference", "knot", "window", "past")
    return dataclasses.replace(state, **caches, **{name: sharding.split_batch(getattr(state, name)) for name in names})


def drive_windows(drive: Mapping, text, firsts, span: int) -> Conditions:
    """Conditions of several windows of one clip.

    Args:
      drive: audio and motion [B, T, P, C] (either may be missing), rows of frame 0 onwards. Rows below 0 or beyond T
        belong to frames that do not exist; some other row stands for them.
      firsts: int [n], first frame of every window.

    Returns:
      Conditions with a leading axis of n.
    """

    def cut(rows):  # [B, T, P, C] -> [n, B, span, P, C]
        if rows is None:
            return None
        at = jnp.clip(jnp.asarray(firsts)[:, None] + jnp.arange(span), 0, rows.shape[1] - 1)
        return jnp.moveaxis(jnp.take(rows, at, axis=1), 1, 0)

    text = jnp.broadcast_to(text, (len(firsts), *text.shape))
    return Conditions(text, cut(drive.get("audio")), cut(drive.get("motion")))


def rollout(
    model: DiT, plan: StreamPlan, params, state: StreamState, drive: Mapping, text, frames: int, exit: Exit, block=0
):
    """Stream `frames` further latent frames, with gradients through the exit forwards.

    Args:
      state: from `begin`, with the same exit, or from an earlier rollout (blocks = 1 only; same-step caches need the
        exit of that rollout again). Raise its `end` first when the stream is to go on.
      drive: audio and motion [B, T, P, C] of these frames and of the knot's frames after them: T >= frames + k.
      text: [B, T, text_dim].
      frames: a whole number of blocks; block 0 may be shorter than the others.
      exit: where gradients enter.
      block: number of the first block, 0 for a new stream.

    Returns:
      Latents [B, frames, H, W, z] and the next state, which is constant but for a memory.

    Raises:
      ValueError: `frames` is no whole number of blocks, or the drive is too short.
    """
    plan = exit_plan(plan, exit)
    c, blocks, missing = plan.chunk, plan.blocks, 0 if block else plan.missing
    count, rest = divmod(frames + missing, c)
    if rest or not count:
        raise ValueError(f"frames {frames}: a rollout emits whole blocks of {c} latent frames")
    if block and blocks > 1:
        raise ValueError(f"block {block}: a window of {blocks} blocks cannot be rolled on, start it anew")
    rows = min((a.shape[1] for a in drive.values() if a is not None), default=frames + plan.knot.frames)
    if rows < frames + plan.knot.frames:
        raise ValueError(f"drive of {rows} frames: {frames} and {plan.knot.frames} of the knot after them are needed")

    def windows(start, stop):  # conditions of the steps start .. stop - 1
        firsts = [(step - blocks + 1) * c - missing for step in range(start, stop)]
        return drive_windows(drive, text, firsts, plan.span)

    still = jax.lax.stop_gradient(params)

    def plain(state, drive):
        return spread(stream_step(model, plan, still, state, drive)[0]), None

    def leg(state, drives):
        """Some steps without gradient, and one with it."""
        before, last = drives
        if before is not None:
            state, _ = jax.lax.scan(plain, state, before)
        state, emitted, estimate = stream_step(model, plan, params, state, last, learn=exit.step)
        return spread(state), estimate if blocks > 1 else emitted

    if blocks == 1:
        state, parts = jax.lax.scan(lambda s, d: leg(s, (None, d)), state, windows(0, count))
        first = -missing
    else:
        r = exit.window
        state, opening = leg(state, (windows(0, r) if r else None, jax.tree.map(lambda a: a[0], windows(r, r + 1))))
        parts, first = opening[None], (r - blocks + 1) * c - missing
        legs = -(-(count - 1 - r) // blocks)
        if legs:
            later = windows(r + 1, r + 1 + legs * blocks)
            later = jax.tree.map(lambda a: a.reshape(legs, blocks, *a.shape[1:]), later)
            split = (jax.tree.map(lambda a: a[:, :-1], later), jax.tree.map(lambda a: a[:, -1], later))
            state, following = jax.lax.scan(leg, state, split)
            parts = jnp.concatenate([parts, following])
    video = jnp.moveaxis(parts, 0, 1)  # [B, n, span, H, W, z]
    video = video.reshape(video.shape[0], -1, *video.shape[3:])
    return video[:, -first : frames - first], state
