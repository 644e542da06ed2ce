"""The ring buffer of context keys and values.

Keys are stored before rotation; which frame a slot holds follows from how many frames were written, so the ring
carries no bookkeeping. The physical capacity is the budget rounded up to the write unit: `dynamic_update_slice`
clamps silently, so a write must never straddle the end.

All streams of a batch write the same slot at the same time, whatever their phase: slots count the writes of the batch.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValues:
    """Keys (before rotation) and values of some frames, in P sets: one, or one per denoising pass."""

    k: jax.Array  # [L, P, B, F, N, S, D]
    v: jax.Array  # [L, P, B, F, N, S, D]

    @property
    def frames(self) -> int:
        return self.k.shape[3]

    def map(self, function, *others: "KeyValues") -> "KeyValues":
        """`function` of the keys, and of the values."""
        return KeyValues(function(self.k, *(o.k for o in others)), function(self.v, *(o.v for o in others)))


def empty(sets: int, frames: int, like: jax.Array) -> KeyValues:
    """Zeros for `frames` frames; `like` [..., L, B, F, N, S, D] gives the other sizes and the dtype."""
    layers, batch = like.shape[-6:-4]
    shape = (layers, sets, batch, frames, *like.shape[-3:])
    return KeyValues(jnp.zeros(shape, like.dtype), jnp.zeros(shape, like.dtype))


def capacity(budget: int, unit: int) -> int:
    """Slots of a ring for `budget` frames written `unit` at a time."""
    return -(-budget // unit) * unit if budget else 0


def _start(at, slot):
    """Where one set's frames from a slot on begin."""
    return tuple(jnp.asarray(i, jnp.int32) for i in (0, at, 0, slot, 0, 0, 0))


def put(held: KeyValues, new, at, slot=0) -> KeyValues:
    """Write frames into one set.

    Args:
      new: k, v [L, B, n, N, S, D].
      at: int32 [], the set.
      slot: where the first of the frames goes.
    """

    def write(old, fresh):
        return jax.lax.dynamic_update_slice(old, fresh[:, None].astype(old.dtype), _start(at, slot))

    return held.map(write, KeyValues(*new))


def append(ring: KeyValues, new, at, written) -> KeyValues:
    """Write the next frames of one set, over its oldest ones.

    Args:
      new: k, v [L, B, n, N, S, D], as many frames as every write has.
      at: int32 [], the set.
      written: int32 [], frames written before; a multiple of the unit.
    """
    return put(ring, new, at, written % ring.frames) if ring.frames else ring


def ages(slots: int, written) -> jax.Array:
    """Frame in every slot, int32 [slots], relative to the next one to be written: the newest is -1."""
    return -1 - (written - 1 - jnp.arange(slots, dtype=jnp.int32)) % slots


def leaving(ring: KeyValues, at, budget: int, count: int, written):
    """The first `count` of one set's newest `budget` frames, in order of time: k, v [L, B, count, N, S, D]."""
    if not count:
        return tuple(held[:, 0, :, :0] for held in (ring.k, ring.v))
    slots = [(written - budget + i) % ring.frames for i in range(count)]

    def read(held):
        sizes = (held.shape[0], 1, held.shape[2], 1, *held.shape[4:])
        parts = (jax.lax.dynamic_slice(held, _start(at, slot), sizes) for slot in slots)
        return jnp.concatenate([part[:, 0] for part in parts], 2)

    return read(ring.k), read(ring.v)
