"""ConvKV memory: compressing the keys and values that leave the ring (SoulX-LiveAct, Sec. 3.3, Eq. 6)."""

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
    """Every `ratio` neighbours become one frame: [L, B, ratio * m, S, N, D] -> [L, B, m, S, N, D].

    Args:
      kernel: [L, ratio, N * D], or None for the mean.
    """
    *lead, frames, size, heads, width = x.shape
    ratio = plan.ratio
    if plan.memory.axis == "time":
        groups = x.reshape(*lead, frames // ratio, ratio, size, heads * width)
        groups = jnp.moveaxis(groups, -3, -2)  # [L, B, m, S, ratio, N * D]
    else:
        groups = x.reshape(*lead, frames // ratio, size, ratio, heads * width)
    if kernel is None:
        out = jnp.mean(groups, -2)
    else:
        weight = kernel.astype(x.dtype)[:, None, None, None]  # [L, 1, 1, 1, ratio, N * D]
        out = jnp.sum(groups * weight, -2)
    return out.reshape(*lead, frames // ratio, size, heads, width)


def update(plan: StreamPlan, params, old, valid, new):
    """What the memory holds after one more block.

    Args:
      old: k, v [L, B, m + min(history, chunk), S, N, D], the memory and the oldest frames that the ring shows.
      valid: bool [B, m], which frames of the memory exist.
      new: k, v [L, B, chunk, S, N, D], the block that is being committed.

    Returns:
      k, v [L, B, m, S, N, D].
    """
    m, c = plan.memory.frames, plan.chunk
    full = jnp.all(valid, 1)[None, :, None, None, None, None]  # [1, B, 1, 1, 1, 1]

    def choose(held, fresh, kernel):
        entries = jnp.concatenate([held, fresh[:, :, : m + c - held.shape[2]]], 2)  # m + c frames
        return jnp.where(full, compress(plan, entries, kernel), entries[:, :, c:])

    return tuple(map(choose, old, new, kernels(plan, params)))


def exist(plan: StreamPlan, valid, past_valid, new_valid):
    """Which frames of the memory exist after one more block.

    Args:
      valid: bool [B, m].
      past_valid: bool [B, history], which of the ring's newest frames exist, in order of time.
      new_valid: bool [B, chunk].
    """
    m, c = plan.memory.frames, plan.chunk
    return jnp.all(valid, 1, keepdims=True) | jnp.concatenate([valid, past_valid, new_valid], 1)[:, c : c + m]
