"""Fusing the knot."""

import jax.numpy as jnp

from knotjax.streaming.plan import KnotPolicy


def fuse(policy: KnotPolicy, x0, knot, knot_valid):
    """Average the frames that two blocks predicted (Knot Forcing, Eq. 5 and Algorithm 1, line 15).

    Args:
      x0: [B, F, H, W, z], this block's prediction.
      knot: [B, k, H, W, z], the previous block's prediction of the first k frames.
      knot_valid: bool [B].

    Returns:
      [B, F, H, W, z].
    """
    k = policy.frames
    fused = policy.weight * knot + (1.0 - policy.weight) * x0[:, :k]
    head = jnp.where(knot_valid[:, None, None, None, None], fused, x0[:, :k])
    return jnp.concatenate([head.astype(x0.dtype), x0[:, k:]], 1)
