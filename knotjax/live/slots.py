"""What a fixed number of streams remember on the device, and the few compiled functions that touch it.

Which slots join, leave, wait or are ill is data: nothing here is compiled again for it. All streams of a batch write
the same place of their rings at the same time, so the ring of a stream that waits, or comes from elsewhere, is turned.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from knotjax.models.dit import Conditions, DiT
from knotjax.models.patch_codec import DecodeState, PatchCodec
from knotjax.models.pixels import to_uint8
from knotjax.streaming import recovery
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import StreamState
from knotjax.streaming.step import stream_step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """The states of B streams."""

    stream: StreamState
    pixels: DecodeState
    record: recovery.Record


def _places(tree) -> list[str]:
    """The path of every leaf, in order."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _map(function, *trees):
    """`function(batch axis, frame axis of a ring or None, *leaves)` of every leaf but the count that all share."""
    structure = jax.tree.structure(trees[0])
    out = []
    for place, *leaves in zip(_places(trees[0]), *map(jax.tree.leaves, trees)):
        if place == ".stream.written":
            out.append(jnp.copy(leaves[0]))  # each batch has its own, since it is given away with the batch
            continue
        keys = any(f".stream.{name}." in place for name in ("anchor", "ring", "memory"))
        turns = ".stream.ring." in place or ".stream.past" in place
        out.append(function(2 if keys else 0, (3 if keys else 1) if turns else None, *leaves))
    return jax.tree.unflatten(structure, out)


@jax.jit
def gather(stream: StreamState, pixels: DecodeState) -> Slots:
    """A new stream as a batch of one."""
    return jax.tree.map(jnp.copy, Slots(stream, pixels, recovery.observe(stream.reference)))


@partial(jax.jit, static_argnums=1)
def empty(one: Slots, count: int) -> Slots:
    """`count` slots like one, in which nothing is yet."""
    return _map(lambda axis, _, leaf: jnp.copy(jnp.concatenate([leaf] * count, axis)), one)


@partial(jax.jit, donate_argnums=0)
def put(slots: Slots, one: Slots, slot) -> Slots:
    """Write a stream over one slot, whatever was in it; the others are untouched.

    Args:
      one: a batch of one, from this batch or any other of the same plan.
      slot: int32 [].
    """
    shift = slots.stream.written - one.stream.written

    def write(axis, turns, held, new):
        if turns is not None:
            new = jnp.roll(new, shift, turns)
        return jax.lax.dynamic_update_slice_in_dim(held, new, slot, axis)

    return _map(write, slots, one)


@jax.jit
def take(slots: Slots, slot) -> Slots:
    """A copy of one slot as a batch of one."""
    return _map(lambda axis, _, held: jax.lax.dynamic_slice_in_dim(held, slot, 1, axis), slots)


def _keep(waits, plan: StreamPlan, new: Slots, old: Slots) -> Slots:
    """`new`, but for streams that wait: they stay as they were, with their rings turned as far as the batch wrote."""

    def choose(axis, turns, fresh, held):
        if turns is not None and held.shape[turns] > plan.ring_unit:
            held = jnp.roll(held, plan.ring_unit, turns)
        return jnp.where(waits.reshape(-1, *(1,) * (fresh.ndim - 1 - axis)), held, fresh)

    return _map(choose, new, old)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def turn(model: DiT, plan: StreamPlan, params, slots: Slots, conditions: Conditions, active, limits: recovery.Limits):
    """One step of the streams that are `active`, bool [B]; the others stay where they are.

    A block that is no picture (see `recovery.Limits`) becomes a still of the portrait, and its stream begins anew.

    Returns:
      The slots, emitted latents [B, chunk, H, W, z], and bool [B], the streams that were mended.
    """
    old = slots.stream
    stream, latents = stream_step(model, plan, params, old, conditions)
    frame = plan.first_frame(old.block)[:, None] + jnp.arange(plan.chunk)
    exists = (frame >= old.since[:, None]) & active[:, None]
    record, bad = recovery.check(slots.record, latents, exists, limits)
    latents = recovery.mend(latents, old.reference, bad)
    stream = recovery.reanchor(plan, stream, bad)
    return _keep(~active, plan, Slots(stream, slots.pixels, record), slots), latents, bad


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def render(codec: PatchCodec, params, slots: Slots, latents, start, active):
    """Decode what a turn emitted.

    Args:
      latents: [B, F, h, w, z].
      start: int32 [B], the first of them that is a frame of its stream; 0 but in a first block that is shorter.
      active: bool [B], the streams that emitted; the decoders of the others stay as they are.

    Returns:
      The slots, and frames uint8 [B, 4F, H, W, 3], of which those before 4 * start mean nothing.
    """
    first = jnp.take_along_axis(latents, start[:, None, None, None, None], 1)
    # A decoder looks at the latent before; a first one has none, and looks at itself.
    latents = jnp.where((jnp.arange(latents.shape[1]) < start[:, None])[..., None, None, None], first, latents)
    pixels, frames = codec.decode_step(params, slots.pixels, latents)

    def choose(new, old):
        return jnp.where(active.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    pixels = jax.tree.map(choose, pixels, slots.pixels)
    return dataclasses.replace(slots, pixels=pixels), to_uint8(frames)
