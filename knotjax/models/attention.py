"""The one entry to attention."""

import jax
import jax.numpy as jnp


def attend(q, k, v, valid=None, bias=None, scale=None):
    """Softmax attention; softmax statistics are float32 or wider.

    Written out because it trains 1.7 times faster on a CPU than `jax.nn.dot_product_attention`: the division by the
    sum comes after the product with the values, where it touches D numbers per query instead of K.

    Args:
      q: [B, Q, N, D].
      k, v: [B, K, N, D].
      valid: bool [B, K], keys that exist; None when all do. At least one key of every row must be valid.
      bias: broadcasts to [B, N, Q, K], added to the scores before the softmax.
      scale: what the products of queries and keys are multiplied with; None: 1 / sqrt(D).

    Returns:
      [B, Q, N, D].
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))  # [B, N, length, D]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.einsum("bnqd,bnkd->bnqk", q * scale, k, preferred_element_type=dtype)
    if bias is not None:
        scores = scores + bias.astype(dtype)
    if valid is not None:
        scores = scores + jnp.where(valid, 0.0, -1e30).astype(dtype)[:, None, None, :]
    weight = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True)))
    out = jnp.einsum("bnqk,bnkd->bnqd", weight.astype(v.dtype), v, preferred_element_type=dtype)
    return (out / jnp.sum(weight, -1, keepdims=True)).astype(v.dtype).transpose(0, 2, 1, 3)
