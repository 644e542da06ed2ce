"""Rotary position embedding over (time, height, width), computed on the fly from integer positions.

There is no table, so a stream has no length limit. Positions are relative to the window: a rotary score depends only on
differences, so a common offset may be subtracted from queries and keys before the angles are formed.
"""

import jax.numpy as jnp
import numpy as np

THETA = 10_000.0


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """How many of the head_dim/2 channel pairs turn with time, height and width (Wan: 22, 21, 21 of 64)."""
    side = head_dim // 6
    return head_dim // 2 - 2 * side, side, side


def angles(times, grid: tuple[int, int], head_dim: int, dtype=jnp.float32):
    """Rotation angles of every token of every frame.

    Args:
      times: int32 [B, F], temporal positions relative to the window.
      grid: tokens per frame as (rows, columns).
      head_dim: channels per head, even.
      dtype: at least float32.

    Returns:
      [B, F, rows * columns, head_dim / 2] in radians.
    """
    rows, columns = grid
    steps = [THETA ** (-np.arange(n) / n) for n in axis_pairs(head_dim)]
    steps = [jnp.asarray(step, dtype) for step in steps]
    batch, frames = times.shape
    shape = (batch, frames, rows, columns)
    t = times.astype(dtype)[:, :, None, None, None] * steps[0]  # [B, F, 1, 1, pairs]
    h = jnp.arange(rows, dtype=dtype)[:, None, None] * steps[1]  # [rows, 1, pairs]
    w = jnp.arange(columns, dtype=dtype)[:, None] * steps[2]  # [columns, pairs]
    parts = [jnp.broadcast_to(part, (*shape, part.shape[-1])) for part in (t, h, w)]
    return jnp.concatenate(parts, -1).reshape(batch, frames, rows * columns, head_dim // 2)


def rotate(x, angle):
    """Turn the interleaved channel pairs (2i, 2i+1) of x by the given angles.

    Args:
      x: [B, F, N, S, D].
      angle: [B, F, S, D / 2].
    """
    cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]  # [B, F, 1, S, D / 2]
    wide = x.astype(angle.dtype)
    even, odd = wide[..., 0::2], wide[..., 1::2]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return turned.reshape(x.shape).astype(x.dtype)
