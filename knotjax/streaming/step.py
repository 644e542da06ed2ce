"""The streaming step: one pure function from state and drive to the next state and one emitted block.

All shapes are constant and the phase of the stream (first block, part-filled ring) is data, so a stream of any length
runs one compiled program. Jit `stream_step` with `model` and `plan` static and the state donated (`jit_step` does).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from knotjax.models.dit import Conditions, Context, DiT
from knotjax.streaming import anchor, cache, passes
from knotjax.streaming.knot import fuse
from knotjax.streaming.noise import add_noise, block_noise
from knotjax.streaming.plan import StreamPlan


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StreamState:
    """Everything that a stream remembers. Shapes never change."""

    key: jax.Array  # [B] random keys, one per stream
    block: jax.Array  # int32 [], blocks emitted so far
    reference: jax.Array  # [B, 1, H, W, z]
    anchor: cache.Ring  # k, v [L, B, 1, S, N, D] of the reference
    ring: cache.Ring  # k, v [L, B, R, S, N, D] of the newest emitted frames
    knot: jax.Array  # [B, k, H, W, z], prediction of the next block's first frames


def init_stream(model: DiT, plan: StreamPlan, params, reference, text, key) -> StreamState:
    """Start a stream from a reference.

    Args:
      reference: [B, 1, H, W, z], the latent of the portrait.
      text: [B, T, text_dim], text rows.
      key: [B] random keys.
    """
    k, v = passes.anchor_pass(model, params, reference, text)
    return StreamState(
        key=key,
        block=jnp.zeros((), jnp.int32),
        reference=reference,
        anchor=cache.Ring(k, v),
        ring=cache.init(plan.history, plan.chunk, k),
        knot=jnp.zeros((reference.shape[0], plan.knot.frames, *reference.shape[2:]), reference.dtype),
    )


def _contexts(plan: StreamPlan, state: StreamState) -> tuple[Context, ...]:
    """The reference and the ring, with temporal positions relative to the first denoised frame."""
    batch = state.reference.shape[0]
    first = state.block * plan.chunk
    capacity = state.ring.k.shape[2]

    def rows(values):
        return jnp.broadcast_to(values, (batch, values.shape[-1]))

    ahead = anchor.lead(plan.anchor, first, plan.span)[None]
    reference = Context(state.anchor.k, state.anchor.v, rows(ahead), jnp.ones((batch, 1), bool))
    if not capacity:
        return (reference,)
    held = cache.valid(capacity, plan.history, first)
    past = Context(state.ring.k, state.ring.v, rows(cache.frames(capacity, first)), rows(held))
    return (reference, past)


def stream_step(model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions):
    """Emit one block (Knot Forcing, Algorithm 1, lines 5-20).

    Args:
      params: parameters of the DiT.
      drive: conditions of exactly the chunk + knot frames that this block denoises. New words take effect from this
        block on; the reference and the frames in the ring keep the words that they were encoded with.

    Returns:
      The next state and the clean latents of the block, [B, chunk, H, W, z].
    """
    batch, _, *latent = state.reference.shape
    dtype = state.reference.dtype
    contexts = _contexts(plan, state)
    position = jnp.broadcast_to(jnp.arange(plan.span, dtype=jnp.int32), (batch, plan.span))
    knot_valid = jnp.broadcast_to(state.block > 0, (batch,))

    def draw(step):
        return block_noise(state.key, state.block, step, (plan.span, *latent), dtype)

    def denoise(x, schedule):
        now, then, step = schedule
        t = jnp.full((batch, plan.span), now, dtype)
        x0 = passes.denoise_pass(
            model, plan, params, x, t, state.reference, state.knot, knot_valid, position, drive, contexts
        )
        return add_noise(x0, draw(step), jnp.full((batch, plan.span), then, dtype)), None  # t = 0 adds nothing

    times = jnp.asarray((*plan.timesteps, 0.0), dtype)
    steps = jnp.arange(1, len(times), dtype=jnp.int32)
    x0, _ = jax.lax.scan(denoise, draw(0), (times[:-1], times[1:], steps))

    x0 = fuse(plan.knot, x0, state.knot, knot_valid)
    emitted, knot = x0[:, : plan.chunk], x0[:, plan.chunk :]
    heard = Conditions(drive.text, *(a if a is None else a[:, : plan.chunk] for a in (drive.audio, drive.motion)))
    k, v = passes.commit_pass(model, plan, params, emitted, state.reference, position[:, : plan.chunk], heard, contexts)
    ring = cache.append(state.ring, k, v, state.block * plan.chunk)
    return dataclasses.replace(state, block=state.block + 1, ring=ring, knot=knot), emitted


@partial(jax.jit, static_argnums=(0, 1))
def jit_init(model: DiT, plan: StreamPlan, params, reference, text, key) -> StreamState:
    """`init_stream`, compiled."""
    return init_stream(model, plan, params, reference, text, key)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def jit_step(model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions):
    """`stream_step`, compiled, with the state updated in place."""
    return stream_step(model, plan, params, state, drive)
