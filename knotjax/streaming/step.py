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


def look(sets: KeyValues, at, position, valid) -> Context:
    """One set of some frames; `position` and `valid` broadcast to [B, F]."""
    shape = sets.k.shape[2:4]
    index = jnp.minimum(at, sets.k.shape[1] - 1)  # the reference has one set for all passes
    position = jnp.broadcast_to(position, shape).astype(jnp.int32)
    return Context(sets.k, sets.v, position, jnp.broadcast_to(valid, shape), index)


def before(plan: StreamPlan, state: StreamState, held, at, step, *, commit: bool = False) -> tuple[Context, ...]:
    """Anchor and memory, with temporal positions relative to the window's first frame.

    Args:
      held: bool [B, R], which slots of the ring are looked at beside them.
      at: int32 [], which set of keys and values.
      step: int32 [B], pass number.
      commit: for a clean pass.
    """
    batch = len(state.block)
    first = plan.first_frame(state.block) - state.since  # [B]
    policy = plan.anchor
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
        found.append(look(state.anchor, at, place, exists[:, None]))
    if state.memory.frames:
        position = jnp.arange(-plan.memory.frames, 0) - plan.history
        found.append(look(state.memory, at, position, state.memory_valid))
    return tuple(found)


def contexts(plan: StreamPlan, state: StreamState, at, step, *, commit: bool = False) -> tuple[Context, ...]:
    """Anchor, memory and ring for one pass; see `before`."""
    budget = plan.commit_history if commit and plan.commit_history is not None else plan.history
    held = ring_valid(plan, state, budget)
    found = before(plan, state, held, at, step, commit=commit)
    if state.ring.frames:
        found += (look(state.ring, at, cache.ages(state.ring.frames, state.written), held),)
    return found


def aging(plan: StreamPlan, state: StreamState, at):
    """Frames that one set's next memory is made of: its memory, and what leaves its ring; nothing without a memory.

    Read a pass before they are overwritten: XLA copies a buffer that is read and written in no order.

    Returns:
      k, v [L, B, m + min(history, chunk), N, S, D], in order of time.
    """
    if not plan.memory.frames:
        return ()
    leaving = cache.leaving(state.ring, at, plan.history, min(plan.history, plan.chunk), state.written)
    held = (jax.lax.dynamic_index_in_dim(a, at, 1, False) for a in (state.memory.k, state.memory.v))
    return tuple(jnp.concatenate(parts, 2) for parts in zip(held, leaving))


def remember(plan: StreamPlan, params, state: StreamState, kv, at, old) -> StreamState:
    """Take the oldest block of a pass into one set of anchor, memory and ring.

    The set is written as soon as its pass has looked at it, so no other copy of the keys and values is kept.

    Args:
      kv: k, v [L, B, F, N, S, D], F >= chunk.
      at: int32 [], the set.
      old: what `aging` found in it.
    """
    first = plan.first_frame(state.block) - state.since  # [B]
    kv = tuple(a[:, :, : plan.chunk] for a in kv)
    changes = {}
    if plan.sink:
        new = (jax.lax.dynamic_index_in_dim(a, at, 1, False) for a in (state.anchor.k, state.anchor.v))
        for late in {0, plan.missing}:  # how far into its block the stream starts
            opens = (first == -late)[None, :, None, None, None, None]
            new = tuple(jnp.where(opens, b[:, :, late : late + plan.sink], a) for a, b in zip(new, kv))
        changes["anchor"] = cache.put(state.anchor, new, at)
    if plan.memory.frames:
        new = memory.update(plan, params, old, state.memory_valid, kv)
        changes["memory"] = cache.put(state.memory, new, at)
    newest = tuple(a[:, :, plan.chunk - plan.ring_unit :] for a in kv)
    return dataclasses.replace(state, ring=cache.append(state.ring, newest, at, state.written), **changes)


def constant(tree, learn: int | None):
    """In training nothing but the pass `learn` gets gradients."""
    return tree if learn is None else jax.lax.stop_gradient(tree)


def denoise(model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions, learn: int | None = None):
    """All denoising passes of one step.

    Args:
      learn: number of the pass, from 0, that gradients flow through; the others and what enters it are constants. None
        outside training.

    Returns:
      The window after its last pass [B, F, H, W, z]; the state, into whose same-step caches every pass has written the
      oldest block; what `aging` finds for a clean pass; the clean estimate of pass `learn` [B, F, H, W, z], else None.
    """
    batch, _, *latent = state.reference.shape
    dtype = state.reference.dtype
    frame = plan.first_frame(state.block)[:, None] + jnp.arange(plan.span)  # [B, F]
    valid = (frame >= state.since[:, None]) & (frame < state.end[:, None] + plan.knot.frames)
    position = jnp.broadcast_to(jnp.arange(plan.span, dtype=jnp.int32), (batch, plan.span))
    opens = plan.first_frame(state.block) <= state.since  # [B], the first block of a stream
    knot_valid = ~opens
    start = jnp.zeros((), jnp.int32)
    varies = plan.commit == "same_step" or plan.anchor.place == "drawn"  # from pass to pass
    still = constant(params, learn)
    steady = () if varies else contexts(plan, constant(state, learn), start, jnp.zeros(batch, jnp.int32))
    later, opening = levels(plan, first=False), levels(plan, first=True)
    extra = len(opening.number) - len(later.number)  # passes that block 0 alone gets, before the others

    def draw(number, frames):
        return block_noise(state.key, state.block, number, (frames, *latent), dtype)

    def one(carry, schedule, learning=False):
        x, kept, old = carry
        now, after, number, index = schedule
        here = dataclasses.replace(state, **kept)
        if learning:
            weights, seen = params, contexts(plan, here, index, number)
        else:
            weights = still
            seen = contexts(plan, constant(here, learn), index, number) if varies else steady
        x0, kv = passes.denoise_pass(
            model, plan, weights, x, now.astype(dtype), state.reference, state.knot, knot_valid, position, drive, seen,
            valid,
        )  # fmt: skip
        moved = renoise(plan.sampler, x0, x, now, after, draw(number, plan.span))
        if kept:
            here = remember(plan, weights, here, constant(kv, learn), index, constant(old, learn))
        kept = {name: getattr(here, name) for name in kept}
        return (moved, kept, aging(plan, here, (index + 1) % plan.caches)), x0 if learning else None

    def table(name):  # [P, B, ...], the passes that every step has
        one, two = (jnp.asarray(getattr(rows, name)) for rows in (later, opening))
        which = opens.reshape(batch, *(1,) * (one.ndim - 1))
        return jnp.where(which, two[extra:, None], one[:, None])

    def open_with(x):
        rows = (jnp.asarray(a[:extra]) for a in (opening.now, opening.after, opening.number))
        rows = tuple(jnp.broadcast_to(a[:, None], (extra, batch, *a.shape[1:])) for a in rows)
        (moved, *_), _ = jax.lax.scan(one, (x, {}, old), (*rows, jnp.zeros(extra, jnp.int32)))
        return jnp.where(opens[:, None, None, None, None], moved, x)

    fresh = draw(jnp.zeros(batch, jnp.int32), plan.chunk + plan.knot.frames)
    x = jnp.concatenate([state.window, fresh], 1)
    old = aging(plan, state, start)
    if extra:
        x = jax.lax.cond(jnp.any(opens), open_with, lambda x: x, x)
    indices = jnp.arange(len(later.number), dtype=jnp.int32)
    names = ("anchor", "memory", "ring") if plan.commit == "same_step" else ()
    kept = {name: getattr(state, name) for name in names}
    rows = (table("now"), table("after"), table("number"), indices)
    carry, estimate = (x, kept, old), None
    if learn is not None:
        if plan.commit == "same_step" and learn + 1 < len(indices):
            raise ValueError(f"learn {learn}: with same-step caches it must be the last pass")
        (x, *carry), _ = jax.lax.scan(one, carry, tuple(a[:learn] for a in rows))
        row = tuple(a[learn] for a in rows)
        (x, *carry), estimate = one((jax.lax.stop_gradient(x), *carry), row, learning=True)
        rows = tuple(a[learn + 1 :] for a in rows)
        carry = (jax.lax.stop_gradient(x) if learn + 1 < len(indices) else x, *carry)
    (x, kept, old), _ = jax.lax.scan(one, carry, rows)
    return x, dataclasses.replace(state, **kept), old, estimate


def commit(model: DiT, plan: StreamPlan, params, state: StreamState, emitted, heard: Conditions, old):
    """The state after the oldest block has joined the context.

    Args:
      state: with the keys and values of the block already in it if they are those of the denoising passes.
      emitted: [B, chunk, H, W, z].
      heard: the conditions of these frames.
      old: for a clean pass, what `aging` found before it.
    """
    batch = len(state.block)
    first = plan.first_frame(state.block)
    frame = first[:, None] + jnp.arange(plan.chunk)  # [B, chunk]
    valid = (frame >= state.since[:, None]) & (frame < state.end[:, None])
    seen = state.since[:, None] + plan.sink  # from here on by ring and memory
    if plan.commit == "none":
        return state
    if plan.commit == "clean":
        start = jnp.zeros((), jnp.int32)
        past = contexts(plan, state, start, jnp.zeros(batch, jnp.int32), commit=True)
        position = jnp.broadcast_to(jnp.arange(plan.chunk, dtype=jnp.int32), (batch, plan.chunk))
        kv = passes.commit_pass(model, plan, params, emitted, state.reference, position, heard, past, valid)
        state = remember(plan, params, state, kv, start, old)
    changes = {}
    if plan.memory.frames:
        past_valid = first[:, None] + jnp.arange(-plan.history, 0) >= seen
        changes["memory_valid"] = memory.exist(plan, state.memory_valid, past_valid, valid & (frame >= seen))
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
    return dataclasses.replace(state, written=state.written + plan.ring_unit, **changes)


def _memory_weights(params):
    """Parameters that get no gradient but for the memory's own weights."""

    def one(path, leaf):
        return leaf if path[-1].key.startswith("memory_") else jax.lax.stop_gradient(leaf)

    return jax.tree_util.tree_map_with_path(one, params)


def stream_step(model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions, learn: int | None = None):
    """Denoise the window, emit its oldest block and commit it (Knot Forcing, Algorithm 1, lines 5-20).

    Args:
      params: parameters of the DiT.
      drive: conditions of exactly the frames `plan.first_frame(step)` .. + `plan.span` - 1; those of frames that do not
        exist are not used. New words take effect from this step on; the reference and the frames in the ring keep the
        words that they were encoded with (see `streaming.switch`).
      learn: in training, number of the denoising pass that gradients flow through, from 0 (see `training.rollout`).
        What the step keeps is then constant, but for the compression of a memory, which its weights learn from.

    Returns:
      The next state and the clean latents of the oldest block, [B, chunk, H, W, z]. Which of them are frames of the
      stream follows from the number of the step (`plan.emitted`): in a first block shorter than the others, its end.
      With `learn` also that pass's clean estimate of the window [B, F, H, W, z].
    """
    x, state, old, estimate = denoise(model, plan, params, state, drive, learn)
    if plan.knot.frames:
        x = fuse(plan.knot, x, state.knot, plan.first_frame(state.block) > state.since)
    emitted, rest = x[:, : plan.chunk], x[:, plan.chunk :]
    audio, motion = (a if a is None else a[:, : plan.chunk] for a in (drive.audio, drive.motion))
    heard = dataclasses.replace(drive, audio=audio, motion=motion)
    known, rest = (emitted, heard, old), constant(rest, learn)
    if learn is not None:
        params, known = _memory_weights(params), jax.lax.stop_gradient(known)
        if plan.commit == "clean":  # else the passes have written the memory already
            state = jax.lax.stop_gradient(state)
    state = commit(model, plan, params, state, *known)
    name = "knot" if plan.blocks == 1 else "window"
    state = dataclasses.replace(state, block=state.block + 1, **{name: rest})
    return (state, emitted) if learn is None else (state, emitted, estimate)


@partial(jax.jit, static_argnums=(0, 1))
def jit_init(model: DiT, plan: StreamPlan, params, reference, text, key) -> StreamState:
    """`init_stream`, compiled."""
    return init_stream(model, plan, params, reference, text, key)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def jit_step(model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions):
    """`stream_step`, compiled, with the state updated in place."""
    return stream_step(model, plan, params, state, drive)
