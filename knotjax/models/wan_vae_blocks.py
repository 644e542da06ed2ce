"""Layers of the Wan 2.1 VAE, for one latent frame's worth of pixel frames at a time.

A group is what belongs to one latent: 1, 2 or 4 frames, by the layer's temporal rate. The first latent of a stream owns
a single frame. Its group has the full number of slots all the same, and only the last slot exists. A slot that does not
exist is zero where a convolution over time reads it, which is what the padding of a whole clip puts there.

Whatever a layer must remember goes in as `past` and comes back as the next `past`; None stands for zeros.
Shapes: B batch, T frames of the group, H, W height and width at the layer, C channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from knotjax.models.attention import attend


class RMSNorm(nn.Module):
    """Every pixel's channels at root mean square 1, times gamma; the arithmetic is float32 or wider."""

    @nn.compact
    def __call__(self, x):  # [..., C] -> [..., C]
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        power = jnp.sum(jnp.square(y), -1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.maximum(power, 1e-24)) * x.shape[-1] ** 0.5
        return (y * gamma).astype(x.dtype)


class CausalConv(nn.Module):
    """Convolution over the frame and the two before it.

    Args of a call:
      x: [B, T, H, W, C].
      exists: bool [B, T], slots that hold a frame.
      past: [B, 2, H, W, C], the two frames before, or None.

    Returns:
      [B, T, H, W, features] and the next past.
    """

    features: int
    side: int = 3  # of the spatial window

    @nn.compact
    def __call__(self, x, exists, past=None):
        if past is None:
            past = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
        x = jnp.concatenate([past, jnp.where(exists[:, :, None, None, None], x, 0)], 1)  # [B, 2 + T, H, W, C]
        edge = self.side // 2
        conv = nn.Conv(
            self.features,
            (3, self.side, self.side),
            padding=((0, 0), (edge, edge), (edge, edge)),
            dtype=x.dtype,
            name="conv",
        )
        return conv(x), x[:, -2:]


class Residual(nn.Module):
    """Two causal convolutions around a skip, which is a 1 x 1 x 1 convolution where the width changes."""

    features: int

    @nn.compact
    def __call__(self, x, exists, past=(None, None)):
        """x [B, T, H, W, C] -> [B, T, H, W, features] and the next past of both convolutions."""
        y, one = CausalConv(self.features, name="conv1")(nn.silu(RMSNorm(name="norm1")(x)), exists, past[0])
        y, two = CausalConv(self.features, name="conv2")(nn.silu(RMSNorm(name="norm2")(y)), exists, past[1])
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1, 1), dtype=x.dtype, name="shortcut")(x)
        return x + y, (one, two)


class Attention(nn.Module):
    """Self-attention with one head over the pixels of each frame."""

    @nn.compact
    def __call__(self, x):  # [B, T, H, W, C] -> [B, T, H, W, C]
        width = x.shape[-1]
        y = nn.Conv(3 * width, (1, 1), dtype=x.dtype, name="to_qkv")(RMSNorm(name="norm")(x))
        q, k, v = jnp.split(y.reshape(-1, x.shape[2] * x.shape[3], 1, 3 * width), 3, axis=-1)  # [B * T, H * W, 1, C]
        return x + nn.Conv(width, (1, 1), dtype=x.dtype, name="proj")(attend(q, k, v).reshape(x.shape))


class Down(nn.Module):
    """Half the height and width, and with `time` half the frames: the first frame of a stream passes as it is."""

    time: bool

    @nn.compact
    def __call__(self, x, first, past=None):
        """Runs the layer.

        Args:
          x: [B, T, H, W, C].
          first: bool [B], the group is the stream's first.
          past: [B, 1, H / 2, W / 2, C], the frame before, if `time`.

        Returns:
          [B, T / 2 or T, H / 2, W / 2, C] and the next past (None without `time`).
        """
        width = x.shape[-1]
        x = nn.Conv(width, (3, 3), 2, padding=((0, 1), (0, 1)), dtype=x.dtype, name="space")(x)
        if not self.time:
            return x, None
        if past is None:
            past = jnp.zeros_like(x[:, :1])
        y = jnp.concatenate([past, x], 1)  # [B, 1 + T, H / 2, W / 2, C]
        y = nn.Conv(width, (3, 1, 1), (2, 1, 1), padding="VALID", dtype=x.dtype, name="time_conv")(y)
        return jnp.where(first[:, None, None, None, None], x[:, -1:], y), x[:, -1:]


class Up(nn.Module):
    """Twice the height and width at half the channels, and with `time` twice the frames.

    The first latent's frame is not doubled and leaves nothing behind: the convolution over time reads zeros in its
    place when the second latent comes.
    """

    time: bool

    @nn.compact
    def __call__(self, x, first, past=None):
        """Runs the layer.

        Args:
          x: [B, T, H, W, C].
          first: bool [B], the group is the stream's first.
          past: [B, 2, H, W, C], the two frames before, if `time`.

        Returns:
          [B, 2T or T, 2H, 2W, C / 2] and the next past (None without `time`).
        """
        if self.time:
            batch, frames, height, width, depth = x.shape
            exists = jnp.broadcast_to(~first[:, None], (batch, frames))
            y, past = CausalConv(2 * depth, side=1, name="time_conv")(x, exists, past)
            y = y.reshape(batch, frames, height, width, 2, depth).transpose(0, 1, 4, 2, 3, 5)
            y = y.reshape(batch, 2 * frames, height, width, depth)
            x = jnp.where(first[:, None, None, None, None], jnp.repeat(x, 2, axis=1), y)
        x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
        x = nn.Conv(x.shape[-1] // 2, (3, 3), dtype=x.dtype, name="space")(x)
        return x, past
