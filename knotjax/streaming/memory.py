"""ConvKV memory: compressing the keys and values that leave the ring (SoulX-LiveAct, Sec. 3.3, Eq. 6)."""

import jax
import jax.numpy as jnp

from knotjax.streaming.plan import StreamPlan


def kernels(plan: StreamPlan, params):
    """Weights for keys and values, each [L, ratio, N * D] (depthwise); without trained ones, None: the mean."""
    stacked = params["blocks"]
    names = sorted(stacked, key=lambda name: int(name.removeprefix("block")))
    if "memory_k" not in stacked[names[0]]:
        return None, None

    def joined(name):  # scanned groups of blocks -> layers
        parts = jnp.stack([stacked[block][name] for block in names], 1)  # [groups, blocks, ratio, N * D]
        return parts.reshape(-1, *parts.shape[2:])

    keys = joined("memory_k")
    return keys, keys if plan.memory.key_weights_for_values else joined("memory_v")


def compress(plan: StreamPlan, x, kernel):
    """Every `ratio` neighbours become one frame: [B, ratio * m, N, S, D] -> [B, m, N, S, D].

    Args:
      kernel: [ratio, N * D], or None for the mean.
    """
    batch, frames, heads, size, width = x.shape
    ratio = plan.ratio
    if plan.memory.axis == "time":
        groups = x.reshape(batch, -1, ratio, heads, size, width)
        groups = jnp.moveaxis(groups, 2, 0)
    else:  # neighbours in the order (frame, token)
        groups = x.swapaxes(2, 3).reshape(batch, -1, size, ratio, heads, width)
        groups = jnp.moveaxis(groups, 3, 0).swapaxes(3, 4)
    # [ratio, B, m, N, S, D]
    if kernel is None:
        return jnp.mean(groups, 0)
    weight = kernel.astype(x.dtype).reshape(ratio, 1, 1, heads, 1, width)
    return jnp.sum(groups * weight, 0)


def update(plan: StreamPlan, params, old, valid, new):
    """What the memory holds after one more block.

    Args:
      old: k, v [L, B, m + min(history, chunk), N, S, D], the memory and the oldest frames that the ring shows.
      valid: bool [B, m], which frames of the memory exist.
      new: k, v [L, B, chunk, N, S, D], the block that is being committed.

    Returns:
      k, v [L, B, m, N, S, D].
    """
    m, c = plan.memory.frames, plan.chunk
    full = jnp.all(valid, 1)[:, None, None, None, None]  # [B, 1, 1, 1, 1]

    def choose(held, fresh, kernel):
        entries = jnp.concatenate([held, fresh[:, : m + c - held.shape[1]]], 1)  # m + c frames
        return jnp.where(full, compress(plan, entries, kernel), entries[:, c:])

    def one(layer):
        return tuple(map(choose, *layer))

    # Layer by layer: done at once, this would keep several copies of all that is read.
    return jax.lax.map(one, (old, new, kernels(plan, params)))


def exist(plan: StreamPlan, valid, past_valid, new_valid):
    """Which frames of the memory exist after one more block.

    Args:
      valid: bool [B, m].
      past_valid: bool [B, history], which of the ring's newest frames exist, in order of time.
      new_valid: bool [B, chunk].
    """
    m, c = plan.memory.frames, plan.chunk
    return jnp.all(valid, 1, keepdims=True) | jnp.concatenate([valid, past_valid, new_valid], 1)[:, c : c + m]
