"""Where the anchor stands in time.

Keys are kept before rotation, so moving the anchor costs no forward pass. For the reference, which attends only to
itself, that equals encoding it anew where it stands (as long as its words stay the same). A sink taken from the stream
saw other frames: turning its keys is then a choice of the method, the one that it was trained with.
"""

import jax
import jax.numpy as jnp

from knotjax.streaming.plan import AnchorPolicy, StreamPlan

DRAW = 2**20  # keeps draws of positions apart from the passes' noise


def ahead(policy: AnchorPolicy, first, span: int):
    """Position of the reference (Knot Forcing, Algorithm 1, lines 6-9), relative to `first`; at least `span`.

    The smallest start + m * stride, m >= 0, that lies beyond every denoised frame: at or beyond first + span.

    Args:
      first: int32, number of the first denoised frame, counted from the beginning of the stream.
      span: frames denoised together.
    """
    behind = jnp.maximum(first + span - policy.start, 0)
    return policy.start + -(-behind // policy.stride) * policy.stride - first


def positions(plan: StreamPlan, first, context, key=None) -> jax.Array:
    """Temporal positions of the anchor frames relative to `first`, int32 [B, A].

    Args:
      first: int32 [B], number of the window's first frame, from the stream's start; negative while the window fills.
      context: int32 [B], how many frames of ring and memory can be seen.
      key: [B] random keys, for the place "drawn".
    """
    policy = plan.anchor
    each = jnp.arange(policy.frames, dtype=jnp.int32)
    if policy.place == "ahead":
        at = jax.vmap(lambda f: ahead(policy, f, plan.span))(first)
    elif policy.place == "drawn":
        low, high = policy.lead
        drawn = jax.vmap(lambda k: jax.random.randint(k, (), low, high, jnp.int32))(key)
        at = jnp.maximum(policy.start - first, drawn)
    elif policy.place == "behind":
        at = jnp.maximum(-first, 0) - context - policy.frames
    else:
        at = -first
    return at[:, None] + each
