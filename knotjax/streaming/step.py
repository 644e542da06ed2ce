"""The streaming step: one pure function from state and drive to the next state and one emitted block.

All shapes are constant and the phase of a stream (first block, filling window, part-filled ring, flush) is data, so a
stream of any length runs one compiled program, and streams at different phases share a batch. Jit `stream_step` with
`model` and `plan` static and the state donated (`jit_step` does).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from knotjax.models.dit import Conditions, Context, DiT
from knotjax.streaming import anchor, cache, memory, passes
from knotjax.streaming.cache import KeyValues
from knotjax.streaming.knot import fuse
from knotjax.streaming.levels import levels
from knotjax.streaming.noise import block_noise, renoise
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import Past, StreamState, init_stream, ring_valid


def contexts(plan: StreamPlan, state: StreamState, at, step, *, commit: bool = False) -> tuple[Context, ...]:
    """Anchor, memory and ring, with temporal positions relative to the window's first frame.

    Args:
      at: int32 [], which set of keys and values.
      step: int32 [B], pass number.
      commit: for the clean pass.
    """
    batch = len(state.block)
    first = plan.first_frame(state.block)  # [B]
    policy = plan.anchor

    def one(sets: KeyValues, position, valid):
        index = jnp.minimum(at, sets.k.shape[0] - 1)  # the reference has one set for all passes
        k, v = (jax.lax.dynamic_index_in_dim(a, index, keepdims=False) for a in (sets.k, sets.v))
        position = jnp.broadcast_to(position, (batch, sets.frames)).astype(jnp.int32)
        return Context(k, v, position, jnp.broadcast_to(valid, (batch, sets.frames)))

    budget = plan.commit_history if commit and plan.commit_history is not None else plan.history
    held = ring_valid(plan, state, budget)
    seen = jnp.sum(held, 1, dtype=jnp.int32) + jnp.sum(state.memory_valid, 1, dtype=jnp.int32)
    key = None
    if policy.place == "drawn":
        key = jax.vmap(lambda k, b, s: jax.random.fold_in(jax.random.fold_in(k, b), anchor.DRAW + s))(
            state.key, state.block, step
        )
    exists = jnp.ones(batch, bool) if policy.source == "reference" else first > 0
    if commit and policy.commit_absolute:
        absolute = dataclasses.replace(policy, place="absolute")
        place = anchor.positions(dataclasses.replace(plan, anchor=absolute), first, seen)
        exists = exists & (first + plan.chunk <= policy.commit_absolute)
    else:
        place = anchor.positions(plan, first, seen, key)
    found = []
    if state.anchor.frames:
        found.append(one(state.anchor, place, exists[:, None]))
    if state.memory.frames:
        before = jnp.arange(-plan.memory.frames, 0) - plan.history
        found.append(one(state.memory, before, state.memory_valid))
    if state.ring.frames:
        found.append(one(state.ring, cache.ages(state.ring.frames, state.written), held))
    return tuple(found)


def denoise(model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions):
    """All denoising passes of one step.

    Returns:
      The window after its last pass [B, F, H, W, z], and with same-step caches every pass's keys and values of the
      oldest block, else None.
    """
    batch, _, *latent = state.reference.shape
    dtype = state.reference.dtype
    frame = plan.first_frame(state.block)[:, None] + jnp.arange(plan.span)  # [B, F]
    valid = (frame >= 0) & (frame < state.end[:, None] + plan.knot.frames)
    position = jnp.broadcast_to(jnp.arange(plan.span, dtype=jnp.int32), (batch, plan.span))
    knot_valid = state.block > 0
    start = jnp.zeros((), jnp.int32)
    varies = plan.commit == "same_step" or plan.anchor.place == "drawn"  # from pass to pass
    steady = () if varies else contexts(plan, state, start, jnp.zeros(batch, jnp.int32))
    later, opening = levels(plan, first=False), levels(plan, first=True)
    extra = len(opening.number) - len(later.number)  # passes that block 0 alone gets, before the others
    opens = state.block == 0  # [B]

    def draw(number, frames):
        return block_noise(state.key, state.block, number, (frames, *latent), dtype)

    def one(x, schedule):
        now, after, number, index = schedule
        x0, kv = passes.denoise_pass(
            model, plan, params, x, now.astype(dtype), state.reference, state.knot, knot_valid, position, drive,
            contexts(plan, state, index, number) if varies else steady, valid,
        )  # fmt: skip
        moved = renoise(plan.sampler, x0, x, now, after, draw(number, plan.span))
        return moved, tuple(a[:, :, : plan.chunk] for a in kv) if plan.commit == "same_step" else None

    def table(name):  # [P, B, ...], the passes that every step has
        one, two = (jnp.asarray(getattr(rows, name)) for rows in (later, opening))
        which = opens.reshape(batch, *(1,) * (one.ndim - 1))
        return jnp.where(which, two[extra:, None], one[:, None])

    def before(x):
        rows = (jnp.asarray(a[:extra]) for a in (opening.now, opening.after, opening.number))
        rows = tuple(jnp.broadcast_to(a[:, None], (extra, batch, *a.shape[1:])) for a in rows)
        moved, _ = jax.lax.scan(one, x, (*rows, jnp.zeros(extra, jnp.int32)))
        return jnp.where(opens[:, None, None, None, None], moved, x)

    fresh = draw(jnp.zeros(batch, jnp.int32), plan.chunk + plan.knot.frames)
    x = jnp.concatenate([state.window, fresh], 1)
    if extra:
        x = jax.lax.cond(jnp.any(opens), before, lambda x: x, x)
    indices = jnp.arange(len(later.number), dtype=jnp.int32)
    x, kv = jax.lax.scan(one, x, (table("now"), table("after"), table("number"), indices))
    return x, None if kv is None else KeyValues(*kv)


def commit(model: DiT, plan: StreamPlan, params, state: StreamState, emitted, heard: Conditions, kv) -> StreamState:
    """The state after the oldest block has joined the context.

    Args:
      emitted: [B, chunk, H, W, z].
      heard: the conditions of these frames.
      kv: keys and values of same-step caches, or None.
    """
    batch = len(state.block)
    first = plan.first_frame(state.block)
    frame = first[:, None] + jnp.arange(plan.chunk)  # [B, chunk]
    valid = (frame >= 0) & (frame < state.end[:, None])
    if plan.commit == "none":
        return state
    if kv is None:
        number = jnp.zeros(batch, jnp.int32)
        past = contexts(plan, state, jnp.zeros((), jnp.int32), number, commit=True)
        position = jnp.broadcast_to(jnp.arange(plan.chunk, dtype=jnp.int32), (batch, plan.chunk))
        k, v = passes.commit_pass(model, plan, params, emitted, state.reference, position, heard, past, valid)
        kv = KeyValues(k[None], v[None])
    changes = {}
    if plan.sink:
        opens = (frame[:, -1] == plan.chunk - 1 - plan.missing)[None, None, :, None, None, None, None]
        own = slice(plan.missing, plan.missing + plan.sink)
        changes["anchor"] = state.anchor.map(lambda old, new: jnp.where(opens, new[:, :, :, own], old), kv)
    if plan.memory.frames:
        past = cache.newest(state.ring, plan.history, state.written)
        age = jnp.arange(-plan.history, 0)
        past_valid = first[:, None] + age >= plan.sink
        changes["memory"], changes["memory_valid"] = memory.update(
            plan, params, state.memory, state.memory_valid, past, past_valid, kv, valid & (frame >= plan.sink)
        )
    if plan.recache and state.ring.frames:
        at = state.written % state.ring.frames

        def store(held, new):
            if held is None:
                return None
            return jax.lax.dynamic_update_slice_in_dim(held, new[:, -plan.ring_unit :], at, axis=1)

        changes["past"] = Past(
            store(state.past.latents, emitted),
            store(state.past.audio, heard.audio),
            store(state.past.motion, heard.motion),
        )
    newest = kv.map(lambda new: new[:, :, :, plan.chunk - plan.ring_unit :])
    ring = cache.append(state.ring, newest, state.written)
    return dataclasses.replace(state, ring=ring, written=state.written + plan.ring_unit, **changes)


def stream_step(model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions):
    """Denoise the window, emit its oldest block and commit it (Knot Forcing, Algorithm 1, lines 5-20).

    Args:
      params: parameters of the DiT.
      drive: conditions of exactly the frames `plan.first_frame(step)` .. + `plan.span` - 1; those of frames that do not
        exist are not used. New words take effect from this step on; the reference and the frames in the ring keep the
        words that they were encoded with (see `streaming.switch`).

    Returns:
      The next state and the clean latents of the oldest block, [B, chunk, H, W, z]. Which of them are frames of the
      stream follows from the number of the step (`plan.emitted`): in a first block shorter than the others, its end.
    """
    x, kv = denoise(model, plan, params, state, drive)
    if plan.knot.frames:
        x = fuse(plan.knot, x, state.knot, state.block > 0)
    emitted, rest = x[:, : plan.chunk], x[:, plan.chunk :]
    audio, motion = (a if a is None else a[:, : plan.chunk] for a in (drive.audio, drive.motion))
    heard = dataclasses.replace(drive, audio=audio, motion=motion)
    state = commit(model, plan, params, state, emitted, heard, kv)
    name = "knot" if plan.blocks == 1 else "window"
    return dataclasses.replace(state, block=state.block + 1, **{name: rest}), emitted


@partial(jax.jit, static_argnums=(0, 1))
def jit_init(model: DiT, plan: StreamPlan, params, reference, text, key) -> StreamState:
    """`init_stream`, compiled."""
    return init_stream(model, plan, params, reference, text, key)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def jit_step(model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions):
    """`stream_step`, compiled, with the state updated in place."""
    return stream_step(model, plan, params, state, drive)
