"""CLIP vision tower, which turns a portrait into the image tokens of Wan 2.1 image-to-video: parameters only.

The defaults are ViT-H/14. The image branch of the DiT takes the tokens that leave the last layer but one.

Shapes: B batch, T tokens (one class token, then patches row by row), C channels.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from knotjax.models.attention import attend

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green, blue in 0 .. 1
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """Size of a CLIP vision tower. The defaults are ViT-H/14."""

    image: int = 224  # side of the square picture
    patch: int = 14
    width: int = 1280
    ffn_dim: int = 5120
    heads: int = 16
    layers: int = 32
    eps: float = 1e-5

    def __post_init__(self):
        if self.image % self.patch:
            raise ValueError(f"patch {self.patch}: must divide image {self.image}")

    @property
    def tokens(self) -> int:
        return 1 + (self.image // self.patch) ** 2


VIT_H = CLIPVisionConfig()


def normalize(picture):
    """Red, green, blue in 0 .. 1 to what the tower was trained on: [..., 3] -> [..., 3]."""
    return (picture - jnp.asarray(MEAN, picture.dtype)) / jnp.asarray(DEVIATION, picture.dtype)


def _layer_norm(config: CLIPVisionConfig, name: str, dtype):
    return nn.LayerNorm(epsilon=config.eps, name=name, dtype=dtype, use_fast_variance=False)


class Block(nn.Module):
    """One transformer layer. It carries its input along, so that the last layer's input is at hand after the scan."""

    config: CLIPVisionConfig

    @nn.compact
    def __call__(self, carry, _):  # (x [B, T, C], the layer before's input) -> (output, x), None
        c = self.config
        x, _ = carry
        split = (*x.shape[:2], c.heads, c.width // c.heads)

        def dense(features, name):
            return nn.Dense(features, name=name, dtype=x.dtype)

        y = _layer_norm(c, "norm_attention", x.dtype)(x)
        q, k, v = (dense(c.width, name)(y).reshape(split) for name in "qkv")
        h = x + dense(c.width, "o")(attend(q, k, v).reshape(x.shape))
        y = _layer_norm(c, "norm_ffn", x.dtype)(h)
        y = dense(c.width, "ffn_out")(nn.gelu(dense(c.ffn_dim, "ffn_in")(y), approximate=False))
        return (h + y, x), None


class CLIPVision(nn.Module):
    """Pictures to image tokens."""

    config: CLIPVisionConfig = VIT_H

    @nn.compact
    def __call__(self, pixels):
        """Encodes pictures.

        Args:
          pixels: [B, image, image, 3], normalised (see `normalize`).

        Returns:
          tokens [B, T, C] that leave the last layer but one (257 x 1280 in ViT-H/14: the DiT's image branch), and the
          normed class token [B, C] that leaves the last layer.

        Raises:
          ValueError: the pictures have another size.
        """
        c = self.config
        if pixels.shape[1:] != (c.image, c.image, 3):
            raise ValueError(f"pictures of shape {pixels.shape[1:]}: must be {(c.image, c.image, 3)}")
        patch = (c.patch, c.patch)
        x = nn.Conv(c.width, patch, patch, "VALID", use_bias=False, dtype=pixels.dtype, name="patches")(pixels)
        x = x.reshape(x.shape[0], -1, c.width)
        first = self.param("class_token", nn.initializers.normal(c.width**-0.5), (c.width,)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, c.width)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (c.tokens, c.width)).astype(x.dtype)
        x = _layer_norm(c, "norm_in", x.dtype)(x)
        scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.layers)
        (last, tokens), _ = scan(c, name="blocks")((x, jnp.zeros_like(x)), None)
        return tokens, _layer_norm(c, "norm_out", x.dtype)(last[:, 0])
