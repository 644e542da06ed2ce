"""The ring buffer of context keys and values.

Keys are stored before rotation; which frame a slot holds follows from how many frames were written, so the ring
carries no bookkeeping. The physical capacity is the budget rounded up to the write unit: `dynamic_update_slice`
clamps silently, so a write must never straddle the end.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ring:
    """Pre-allocated keys and values of the newest frames."""

    k: jax.Array  # [L, B, R, S, N, D]
    v: jax.Array  # [L, B, R, S, N, D]


def init(budget: int, unit: int, like: jax.Array) -> Ring:
    """An empty ring for `budget` frames written `unit` at a time.

    Args:
      like: any [L, B, F, S, N, D] array of one write; gives the other sizes and the dtype.
    """
    capacity = -(-budget // unit) * unit
    shape = (*like.shape[:2], capacity, *like.shape[3:])
    return Ring(jnp.zeros(shape, like.dtype), jnp.zeros(shape, like.dtype))


def append(ring: Ring, k, v, end) -> Ring:
    """Write the next frames, over the oldest ones.

    Args:
      k, v: [L, B, unit, S, N, D].
      end: int32 [], frames written before; a multiple of the unit.
    """
    capacity = ring.k.shape[2]
    if not capacity:
        return ring

    def write(held, new):
        return jax.lax.dynamic_update_slice_in_dim(held, new.astype(held.dtype), end % capacity, axis=2)

    return Ring(write(ring.k, k), write(ring.v, v))


def frames(capacity: int, end) -> jax.Array:
    """Frame number in every slot, int32 [R], relative to `end`: the newest is -1, unwritten slots lie below -end."""
    slot = jnp.arange(capacity, dtype=jnp.int32)
    return -1 - (end - 1 - slot) % capacity


def valid(capacity: int, budget: int, end) -> jax.Array:
    """Which slots hold one of the newest `budget` frames, bool [R]."""
    age = frames(capacity, end)
    return (age >= -budget) & (age >= -end)
