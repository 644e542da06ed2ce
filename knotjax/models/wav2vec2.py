"""wav2vec2 speech encoder: a 16 kHz wave in, the hidden states of all layers out; parameters only.

The published layouts differ in three fields of `Wav2Vec2Config`:
- `BASE`: wav2vec2-base-960h and chinese-wav2vec2-base. The first convolution is normalised over the whole time axis, so
  every feature depends on every sample of the clip.
- `LARGE`: wav2vec2-large-xlsr-53 and its fine-tunes. Every convolution is normalised frame by frame, and the
  transformer normalises before each branch ("stable layer norm").

Shapes: B batch, n samples, T rows (convolution frames of 20 ms, or frames of the wanted rate), C channels, L layers.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from knotjax.models.attention import attend


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
    """Size and layout of a wav2vec2 encoder. The defaults are the base layout."""

    width: int = 768
    ffn_dim: int = 3072
    heads: int = 12
    layers: int = 12
    conv_width: int = 512
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "group"  # "group": over time, in the first convolution only; "layer": over channels, in all
    stable_layer_norm: bool = False  # normalise before each branch of a layer instead of after it
    positions: int = 128  # rows that the positional convolution spans
    position_groups: int = 16
    eps: float = 1e-5

    def __post_init__(self):
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm {self.conv_norm!r}: must be 'group' or 'layer'")
        if len(self.kernels) != len(self.strides):
            raise ValueError(f"kernels {self.kernels}: as many as strides {self.strides}")

    @property
    def hop(self) -> int:
        """Samples from one convolution frame to the next."""
        return math.prod(self.strides)

    @property
    def reach(self) -> int:
        """Samples that one convolution frame looks at, the first of them at `hop` times its number."""
        reach, hop = 1, 1
        for kernel, stride in zip(self.kernels, self.strides):
            reach, hop = reach + (kernel - 1) * hop, hop * stride
        return reach

    def conv_frames(self, samples: int) -> int:
        """How many convolution frames a wave has."""
        return max(0, (samples - self.reach) // self.hop + 1)


BASE = Wav2Vec2Config()
LARGE = Wav2Vec2Config(
    width=1024, ffn_dim=4096, heads=16, layers=24, conv_bias=True, conv_norm="layer", stable_layer_norm=True
)


def interpolate(rows, frames: int):
    """Resamples rows linearly, the first and the last staying in place: [B, T, C] -> [B, frames, C]."""
    last = rows.shape[1] - 1
    at = np.arange(frames) * last / max(frames - 1, 1)  # exact where the steps are whole
    low = np.floor(at).astype(np.int32)
    part = jnp.asarray(at - low, rows.dtype)[:, None]
    return rows[:, low] * (1 - part) + rows[:, np.minimum(low + 1, last)] * part


def _layer_norm(config: Wav2Vec2Config, name: str, dtype):
    return nn.LayerNorm(epsilon=config.eps, name=name, dtype=dtype, use_fast_variance=False)


class ConvFeatures(nn.Module):
    """The strided convolutions: one feature row for every 20 ms."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(self, wave):  # [B, n] -> [B, T, conv_width]
        c, bias = self.config, self.config.conv_bias
        x = wave[..., None]
        for i, (kernel, stride) in enumerate(zip(c.kernels, c.strides)):
            conv = nn.Conv(c.conv_width, (kernel,), stride, "VALID", use_bias=bias, dtype=x.dtype, name=f"conv{i}")
            x = conv(x)
            if c.conv_norm == "layer":
                x = _layer_norm(c, f"norm{i}", x.dtype)(x)
            elif i == 0:  # one group per channel
                x = nn.GroupNorm(c.conv_width, epsilon=c.eps, name="norm0", dtype=x.dtype, use_fast_variance=False)(x)
            x = nn.gelu(x, approximate=False)
        return x


class PositionalConv(nn.Module):
    """Relative positions: a grouped convolution over time whose kernel has one learned length per tap (weight norm)."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(self, x):  # [B, T, C] -> [B, T, C]
        c = self.config
        taps = c.positions
        direction = self.param("direction", nn.initializers.normal(0.02), (taps, c.width // c.position_groups, c.width))
        length = self.param("length", nn.initializers.ones, (taps, 1, 1))
        bias = self.param("bias", nn.initializers.zeros, (c.width,))
        wide = direction.astype(jnp.promote_types(direction.dtype, jnp.float32))
        kernel = length * wide * jax.lax.rsqrt(jnp.sum(jnp.square(wide), (1, 2), keepdims=True))
        y = jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            window_strides=(1,),
            padding=[(taps // 2, (taps - 1) // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=c.position_groups,
        )
        return nn.gelu(y + bias.astype(x.dtype), approximate=False)


class Block(nn.Module):
    """One transformer layer, normalised before (stable) or after each branch."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(self, x, valid):
        """Runs the layer.

        Args:
          x: [B, T, C].
          valid: bool [B, T] or None.

        Returns:
          x [B, T, C] twice: for the next layer, and to be collected by `nn.scan`.
        """
        c = self.config

        def dense(features, name):
            return nn.Dense(features, name=name, dtype=x.dtype)

        def attention(y):
            split = (*y.shape[:2], c.heads, c.width // c.heads)
            q, k, v = (dense(c.width, name)(y).reshape(split) for name in "qkv")
            return dense(c.width, "o")(attend(q, k, v, valid).reshape(y.shape))

        def ffn(y):
            return dense(c.width, "ffn_out")(nn.gelu(dense(c.ffn_dim, "ffn_in")(y), approximate=False))

        norm_attention = _layer_norm(c, "norm_attention", x.dtype)
        norm_ffn = _layer_norm(c, "norm_ffn", x.dtype)
        if c.stable_layer_norm:
            x = x + attention(norm_attention(x))
            x = x + ffn(norm_ffn(x))
        else:
            x = norm_attention(x + attention(x))
            x = norm_ffn(x + ffn(x))
        return x, x


class Wav2Vec2(nn.Module):
    """A wave to the hidden states of all layers."""

    config: Wav2Vec2Config = BASE

    @nn.compact
    def __call__(self, wave, frames: int | None = None, valid=None):
        """Encodes whole clips of one length.

        Args:
          wave: float [B, n], mono, 16 kHz, zero mean and unit variance (see `wav2vec2_live.normalize`); n >= 400.
          frames: rows to interpolate the convolution features to before the transformer (MultiTalk, LiveAct,
            OmniAvatar: the pixel frames of the clip); None keeps one row for every 20 ms.
          valid: bool [B, T], rows that exist; the others take no part in positions and attention. The layer-normalised
            layout is then independent of what the wave holds there; the other one normalises over it.

        Returns:
          [L + 1, B, T, C]: what enters the first layer, then what leaves every layer; in the stable layout the last one
          has passed the final norm.

        Raises:
          ValueError: the wave is shorter than one convolution frame.
        """
        c = self.config
        if wave.shape[1] < c.reach:
            raise ValueError(f"a wave of {wave.shape[1]} samples is too short: one row needs {c.reach}")
        x = ConvFeatures(c, name="features")(wave)
        if frames is not None:
            x = interpolate(x, frames)
        x = _layer_norm(c, "feature_norm", x.dtype)(x)
        x = nn.Dense(c.width, name="projection", dtype=x.dtype)(x)
        if valid is not None:
            x = jnp.where(valid[..., None], x, 0)
        x = x + PositionalConv(c, name="positions")(x)
        norm = _layer_norm(c, "norm", x.dtype)
        if not c.stable_layer_norm:
            x = norm(x)
        scan = nn.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=c.layers
        )
        out, states = scan(c, name="blocks")(x, valid)  # states [L, B, T, C]
        if c.stable_layer_norm:
            states = states.at[-1].set(norm(out))
        return jnp.concatenate([x[None], states])
