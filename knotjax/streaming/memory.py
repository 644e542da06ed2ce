"""ConvKV memory: compressing the keys and values that leave the ring (SoulX-LiveAct, Sec. 3.3, Eq. 6)."""

import jax.numpy as jnp

from knotjax.streaming.cache import KeyValues
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
    """Every `ratio` neighbours become one frame: [P, L, B, ratio * m, S, N, D] -> [P, L, B, m, S, N, D].

    Args:
      kernel: [L, ratio, N * D], or None for the mean.
    """
    *lead, frames, size, heads, width = x.shape
    ratio = plan.ratio
    if plan.memory.axis == "time":
        groups = x.reshape(*lead, frames // ratio, ratio, size, heads * width)
        groups = jnp.moveaxis(groups, -3, -2)  # [P, L, B, m, S, ratio, N * D]
    else:
        groups = x.reshape(*lead, frames // ratio, size, ratio, heads * width)
    if kernel is None:
        out = jnp.mean(groups, -2)
    else:
        weight = kernel.astype(x.dtype)[None, :, None, None, None]  # [1, L, 1, 1, 1, ratio, N * D]
        out = jnp.sum(groups * weight, -2)
    return out.reshape(*lead, frames // ratio, size, heads, width)


def update(plan: StreamPlan, params, memory: KeyValues, valid, past: KeyValues, past_valid, new: KeyValues, new_valid):
    """The memory after one more block.

    Args:
      memory, valid: m frames, and bool [B, m], which exist.
      past, past_valid: the ring's newest `history` frames in order of time, bool [B, history].
      new, new_valid: the block that is being committed, bool [B, chunk].

    Returns:
      The next memory and which of its frames exist.
    """
    m, c = plan.memory.frames, plan.chunk
    entries = memory.map(lambda *parts: jnp.concatenate(parts, 3), past, new)  # m + history + c frames
    exists = jnp.concatenate([valid, past_valid, new_valid], 1)
    full = jnp.all(valid, 1)  # [B]
    kernel_k, kernel_v = kernels(plan, params)

    def choose(old, kernel):
        packed = compress(plan, old[:, :, :, : m + c], kernel)
        return jnp.where(full[None, None, :, None, None, None, None], packed, old[:, :, :, c : c + m])

    held = KeyValues(choose(entries.k, kernel_k), choose(entries.v, kernel_v))
    return held, full[:, None] | exists[:, c : c + m]
