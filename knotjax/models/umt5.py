"""UMT5 text encoder, which turns token numbers into the text rows of the Wan 2.1 family: parameters only.

The defaults are UMT5-XXL (5.68 billion parameters). A prompt is encoded once, before the stream starts, and the encoder
need not stay on the accelerator.

Shapes: B batch, T tokens, C channels, N heads, D head width.
"""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from knotjax.models.attention import attend
from knotjax.models.dit import RMSNorm


@dataclasses.dataclass(frozen=True)
class UMT5Config:
    """Size of a UMT5 encoder. The defaults are UMT5-XXL."""

    vocabulary: int = 256_384
    width: int = 4096
    heads: int = 64
    head_dim: int = 64
    ffn_dim: int = 10_240
    layers: int = 24
    buckets: int = 32  # groups of distances with one learned bias each; half of them for keys before the query
    max_distance: int = 128  # tokens; all larger distances share a group
    eps: float = 1e-6


XXL = UMT5Config()


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The group of every key's distance from every query, as int32 [query, key] in 0 .. buckets - 1.

    On either side the first buckets / 4 distances have a group of their own; the groups beyond widen logarithmically up
    to `max_distance`. Keys after the query use the upper half.
    """
    side = buckets // 2
    exact = side // 2
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    distance = np.abs(offset)
    # float32 as in the published model: its rounding decides which group a border distance falls in
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(max_distance / exact)) * np.float32(side - exact)
    wide = np.minimum(exact + growth.astype(np.int32), side - 1)
    return np.where(distance < exact, distance, wide).astype(np.int32) + side * (offset > 0).astype(np.int32)


class Block(nn.Module):
    """One encoder layer: self-attention with its own position bias and no scaling, then a gated feed-forward."""

    config: UMT5Config

    @nn.compact
    def __call__(self, x, bucket, valid):
        """Runs the layer.

        Args:
          x: [B, T, C].
          bucket: int32 [T, T], see `distance_buckets`.
          valid: bool [B, T].

        Returns:
          x [B, T, C], and None for `nn.scan`.
        """
        c = self.config
        batch, length, _ = x.shape

        def dense(features, name):
            return nn.Dense(features, name=name, use_bias=False, dtype=x.dtype)

        def split(y):
            return y.reshape(batch, length, c.heads, c.head_dim)

        table = self.param("position_bias", nn.initializers.normal(0.02), (c.buckets, c.heads))
        y = RMSNorm(c.eps, name="norm_attention")(x)
        q, k, v = (split(dense(c.heads * c.head_dim, name)(y)) for name in "qkv")
        y = attend(q, k, v, valid, bias=table[bucket].transpose(2, 0, 1), scale=1.0)
        x = x + dense(c.width, "o")(y.reshape(batch, length, -1))

        y = RMSNorm(c.eps, name="norm_ffn")(x)
        y = nn.gelu(dense(c.ffn_dim, "gate")(y), approximate=True) * dense(c.ffn_dim, "ffn_in")(y)
        return x + dense(c.width, "ffn_out")(y), None


class UMT5Encoder(nn.Module):
    """Token numbers to text rows."""

    config: UMT5Config = XXL

    @nn.compact
    def __call__(self, ids, valid):
        """Encodes prompts.

        Args:
          ids: int32 [B, T], SentencePiece numbers; Wan ends a prompt with the end token and pads it to 512.
          valid: bool [B, T], the prompt's tokens, the end token included; at least one in every row.

        Returns:
          [B, T, C] in the parameters' dtype. Rows that are not valid are zero, as Wan's cross-attention wants them.
        """
        c = self.config
        valid = valid.astype(bool)
        x = nn.Embed(c.vocabulary, c.width, name="tokens")(ids)
        bucket = jnp.asarray(distance_buckets(ids.shape[1], c.buckets, c.max_distance))
        scan = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.layers,
        )
        x, _ = scan(c, name="blocks")(x, bucket, valid)
        return RMSNorm(c.eps, name="norm")(x) * valid[..., None].astype(x.dtype)
