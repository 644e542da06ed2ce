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

    k: jax.Array  # [P, L, B, F, S, N, D]
    v: jax.Array  # [P, L, B, F, S, N, D]

    @property
    def frames(self) -> int:
        return self.k.shape[3]

    def map(self, function, *others: "KeyValues") -> "KeyValues":
        """`function` of the keys, and of the values."""
        return KeyValues(function(self.k, *(o.k for o in others)), function(self.v, *(o.v for o in others)))


def empty(sets: int, frames: int, like: jax.Array) -> KeyValues:
    """Zeros for `frames` frames; `like` [..., L, B, F, S, N, D] gives the other sizes and the dtype."""
    shape = (sets, *like.shape[-6:-4], frames, *like.shape[-3:])
    return KeyValues(jnp.zeros(shape, like.dtype), jnp.zeros(shape, like.dtype))


def capacity(budget: int, unit: int) -> int:
    """Slots of a ring for `budget` frames written `unit` at a time."""
    return -(-budget // unit) * unit if budget else 0


def append(ring: KeyValues, new: KeyValues, written) -> KeyValues:
    """Write the next frames, over the oldest ones.

    Args:
      new: as many frames as every write has.
      written: int32 [], frames written before; a multiple of the unit.
    """
    if not ring.frames:
        return ring

    def write(held, fresh):
        return jax.lax.dynamic_update_slice_in_dim(held, fresh.astype(held.dtype), written % ring.frames, axis=3)

    return ring.map(write, new)


def ages(slots: int, written) -> jax.Array:
    """Frame in every slot, int32 [slots], relative to the next one to be written: the newest is -1."""
    return -1 - (written - 1 - jnp.arange(slots, dtype=jnp.int32)) % slots


def newest(ring: KeyValues, count: int, written) -> KeyValues:
    """The newest `count` frames, in order of time."""
    at = (written - count + jnp.arange(count, dtype=jnp.int32)) % max(ring.frames, 1)
    return ring.map(lambda held: jnp.take(held, at, axis=3))
