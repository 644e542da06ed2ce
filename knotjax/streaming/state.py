"""What a stream remembers."""

import dataclasses

import jax
import jax.numpy as jnp

from knotjax.models.dit import DiT
from knotjax.streaming import cache, passes
from knotjax.streaming.cache import KeyValues
from knotjax.streaming.plan import StreamPlan

ENDLESS = 2**30  # latent frames; more than a year of video


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past:
    """What the frames in the ring were made from, in the ring's slots (only where a plan can encode them again)."""

    latents: jax.Array  # [B, R, H, W, z], clean
    audio: jax.Array | None  # [B, R, P, C]
    motion: jax.Array | None  # [B, R, P, C]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StreamState:
    """Everything that a stream remembers. Shapes never change."""

    key: jax.Array  # [B] random keys, one per stream
    written: jax.Array  # int32 [], frames that every stream of the batch has written to its ring, empty ones included
    block: jax.Array  # int32 [B], steps that each stream made
    since: jax.Array  # int32 [B], first frame that exists: 0, or where `recovery.reanchor` made the stream start anew
    end: jax.Array  # int32 [B], length of each stream in latent frames; `ENDLESS` while unknown
    reference: jax.Array  # [B, 1, H, W, z]
    anchor: KeyValues  # of the anchor frames
    ring: KeyValues  # of the newest committed frames
    memory: KeyValues  # of the compressed frames
    memory_valid: jax.Array  # bool [B, m]
    knot: jax.Array  # [B, k, H, W, z], prediction of the next block's first frames
    window: jax.Array  # [B, (W - 1) c, H, W, z], blocks that are half denoised
    past: Past | None


def init_stream(model: DiT, plan: StreamPlan, params, reference, text, key) -> StreamState:
    """Start a stream from a reference.

    Args:
      reference: [B, 1, H, W, z], the latent of the portrait.
      text: [B, T, text_dim], text rows.
      key: [B] random keys.
    """
    c, a = model.config, plan.anchor
    batch, _, *latent = reference.shape
    tokens = latent[0] * latent[1] // c.patch**2
    like = jnp.zeros((1, c.layers, batch, 1, c.heads, tokens, c.head_dim), reference.dtype)
    if a.source == "reference":
        k, v = passes.anchor_pass(model, params, reference, text)
        anchor = KeyValues(k[:, None], v[:, None])
    else:
        anchor = cache.empty(plan.caches, a.frames if a.source == "stream" else 0, like)
    slots = cache.capacity(plan.ring_budget, plan.ring_unit)

    def nothing(*shape):
        return jnp.zeros((batch, *shape), reference.dtype)

    past = None
    if plan.recache:
        past = Past(
            nothing(slots, *latent),
            nothing(slots, *c.audio_window) if c.audio_tokens else None,
            nothing(slots, *c.motion_window) if c.motion_tokens else None,
        )
    return StreamState(
        key=key,
        written=jnp.zeros((), jnp.int32),
        block=jnp.zeros(batch, jnp.int32),
        since=jnp.zeros(batch, jnp.int32),
        end=jnp.full(batch, ENDLESS, jnp.int32),
        reference=reference,
        anchor=anchor,
        ring=cache.empty(plan.caches, slots, like),
        memory=cache.empty(plan.caches, plan.memory.frames, like),
        memory_valid=jnp.zeros((batch, plan.memory.frames), bool),
        knot=nothing(plan.knot.frames, *latent),
        window=nothing((plan.blocks - 1) * plan.chunk, *latent),
        past=past,
    )


def ring_valid(plan: StreamPlan, state: StreamState, budget: int) -> jax.Array:
    """Which slots of the ring hold one of the newest `budget` frames, bool [B, R].

    Frames below `since` do not exist, and what the anchor took from the stream is not shown twice.
    """
    age = cache.ages(state.ring.frames, state.written)  # [R]
    frame = plan.first_frame(state.block)[:, None] + age  # [B, R]
    return (age >= -budget) & (frame >= state.since[:, None] + plan.sink) & (frame < state.end[:, None])
