"""The one entry to attention."""

import jax


def attend(q, k, v, valid=None):
    """Softmax attention with scale 1 / sqrt(D); softmax statistics are float32 or wider.

    Args:
      q: [B, Q, N, D].
      k, v: [B, K, N, D].
      valid: bool [B, K], keys that exist; None when all do. At least one key of every row must be valid.

    Returns:
      [B, Q, N, D].
    """
    mask = None if valid is None else valid[:, None, None, :]  # [B, 1, 1, K]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)
