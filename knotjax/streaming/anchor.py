"""Where the reference frame stands in time."""

import jax.numpy as jnp

from knotjax.streaming.plan import AnchorPolicy


def lead(policy: AnchorPolicy, first, span: int):
    """How far ahead of the first denoised frame the reference stands (Knot Forcing, Algorithm 1, lines 6-9).

    The position n is the smallest start + m * stride, m >= 0, that lies beyond every denoised frame: n >= first +
    span. Keys are kept before rotation and the reference attends only to itself, so moving it costs no forward pass.

    Args:
      first: int32 [], first denoised frame.
      span: frames denoised together.

    Returns:
      int32 [], n - first; at least `span`.
    """
    behind = jnp.maximum(first + span - policy.start, 0)
    return policy.start + -(-behind // policy.stride) * policy.stride - first
