"""The Wan 2.1 VAE as a streaming codec, behind the interface of `knotjax.models.patch_codec`.

    state = codec.init_encode(batch)
    state, latents = codec.encode_step(params, state, pixels)  # [B, 4F, H, W, 3] -> [B, F, H / 8, W / 8, z]
    state = codec.init_decode(params, picture)
    state, pixels = codec.decode_step(params, state, latents)  # [B, F, H / 8, W / 8, z] -> [B, 4F, H, W, 3]

Pixels are in -1 .. 1. The first latent of a stream stands for one pixel frame, every later one for four; of the first
four frames, only the last counts, on the way in and on the way out. Where a stream stands is data, so one compiled
program serves every chunk, and streams of one batch may stand at different points. A stream cut anywhere equals the
whole clip. The dtype follows pixels and latents.

Latents are worked off one by one inside a step, so that its memory does not grow with F.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from knotjax.drive import STRIDE
from knotjax.models.wan_vae_blocks import Attention, CausalConv, Down, Residual, RMSNorm, Up

# per channel, over the clips that the published weights were trained on
MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508)
MEAN += (0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743)
STD += (3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


@dataclasses.dataclass(frozen=True)
class WanVAEConfig:
    """Size of a Wan VAE. The defaults are the published weights, at 480 x 832 pixels."""

    height: int = 480  # pixels, a multiple of 8
    width: int = 832  # pixels, a multiple of 8
    widths: tuple[int, int, int, int] = (96, 192, 384, 384)  # channels at 1, 1/2, 1/4 and 1/8 of the resolution
    blocks: int = 2  # residual blocks per level of the encoder; the decoder has one more
    mean: tuple[float, ...] = MEAN  # of every latent channel
    std: tuple[float, ...] = STD

    def __post_init__(self):
        if self.height % 8 or self.width % 8:
            raise ValueError(f"size {self.height} x {self.width}: both must be multiples of 8")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std {len(self.std)}: both must have one per latent")
        if any(width % 2 for width in self.widths):
            raise ValueError(f"widths {self.widths}: must be even")

    @property
    def channels(self) -> int:
        """z."""
        return len(self.mean)

    @property
    def grid(self) -> tuple[int, int]:
        """Latents per column and per row."""
        return self.height // 8, self.width // 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodecState:
    """What an encoder or a decoder remembers."""

    first: jax.Array  # bool [B], no latent was made or decoded yet
    past: dict  # layer name -> the last frames that its convolutions over time read


def existing(first, frames: int):
    """Slots of a group that hold a frame: first bool [B] -> bool [B, frames]."""
    return ~first[:, None] | (jnp.arange(frames) == frames - 1)


def remembering(past: dict | None):
    """A function that runs a layer on what it remembers, and the dict where it puts what it will remember next."""
    new = {}

    def run(layer, x, phase):
        y, new[layer.name] = layer(x, phase, *([] if past is None else [past[layer.name]]))
        return y

    return run, new


class Encoder(nn.Module):
    """Four pixel frames to the mean and the logarithm of the variance of one latent."""

    config: WanVAEConfig

    @nn.compact
    def __call__(self, x, first, past=None):
        """x [B, 4, H, W, 3], first bool [B] -> [B, 1, h, w, 2z] and the next past."""
        c = self.config
        run, new = remembering(past)
        x = run(CausalConv(c.widths[0], name="conv_in"), x, existing(first, x.shape[1]))
        for level, width in enumerate(c.widths):
            for block in range(c.blocks):
                x = run(Residual(width, name=f"down{level}_block{block}"), x, existing(first, x.shape[1]))
            if level < 3:
                x = run(Down(time=level > 0, name=f"down{level}_sample"), x, first)
        exists = existing(first, x.shape[1])
        x = run(Residual(c.widths[-1], name="middle_block0"), x, exists)
        x = Attention(name="middle_attention")(x)
        x = run(Residual(c.widths[-1], name="middle_block1"), x, exists)
        x = run(CausalConv(2 * c.channels, name="conv_out"), nn.silu(RMSNorm(name="norm_out")(x)), exists)
        return nn.Conv(2 * c.channels, (1, 1, 1), dtype=x.dtype, name="quant")(x), new


class Decoder(nn.Module):
    """One latent to four pixel frames."""

    config: WanVAEConfig

    @nn.compact
    def __call__(self, x, first, past=None):
        """x [B, 1, h, w, z], first bool [B] -> [B, 4, H, W, 3] and the next past."""
        c = self.config
        run, new = remembering(past)
        exists = existing(first, x.shape[1])
        x = nn.Conv(c.channels, (1, 1, 1), dtype=x.dtype, name="post_quant")(x)
        x = run(CausalConv(c.widths[-1], name="conv_in"), x, exists)
        x = run(Residual(c.widths[-1], name="middle_block0"), x, exists)
        x = Attention(name="middle_attention")(x)
        x = run(Residual(c.widths[-1], name="middle_block1"), x, exists)
        for level, width in enumerate(c.widths[::-1]):
            for block in range(c.blocks + 1):
                x = run(Residual(width, name=f"up{level}_block{block}"), x, existing(first, x.shape[1]))
            if level < 3:
                x = run(Up(time=level < 2, name=f"up{level}_sample"), x, first)
        x = nn.silu(RMSNorm(name="norm_out")(x))
        return run(CausalConv(3, name="conv_out"), x, existing(first, x.shape[1])), new


@functools.lru_cache(maxsize=64)
def _past_shapes(module: nn.Module, shape: tuple[int, ...], dtype):
    """Shapes and dtypes of what `module` remembers after a group of this shape."""
    group, first = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(shape[:1], bool)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), group, first)[0][1]


def _fresh(module: nn.Module, shape: tuple[int, ...], dtype) -> CodecState:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _past_shapes(module, shape, jnp.dtype(dtype)))
    return CodecState(jnp.ones(shape[0], bool), zeros)


def _run(module: nn.Module, params, state: CodecState, groups):
    """One group after the other: [F, B, T, ...] -> next state, [F, B, T', ...]."""
    past = jax.tree.map(lambda leaf: leaf.astype(groups.dtype), state.past)

    def step(carry, group):
        first, past = carry
        out, past = module.apply({"params": params}, group, first, past)
        return (jnp.zeros_like(first), past), out

    (first, past), out = jax.lax.scan(step, (state.first, past), groups)
    return CodecState(first, past), out


@dataclasses.dataclass(frozen=True)
class WanVAE:
    """Parameters: {"encoder": {...}, "decoder": {...}}; `knotjax.convert.wan_vae` makes them of published weights."""

    config: WanVAEConfig = WanVAEConfig()

    def init_params(self, key):
        """Random parameters."""
        c = self.config
        one, two = jax.random.split(key)
        group, latent = jnp.zeros((1, STRIDE, 8, 8, 3)), jnp.zeros((1, 1, 1, 1, c.channels))
        first = jnp.ones(1, bool)
        return {
            "encoder": Encoder(c).init(one, group, first)["params"],
            "decoder": Decoder(c).init(two, latent, first)["params"],
        }

    def init_encode(self, batch: int, dtype=jnp.float32) -> CodecState:
        """An encoder that has seen nothing yet, for pixels of `dtype`."""
        return _fresh(Encoder(self.config), (batch, STRIDE, self.config.height, self.config.width, 3), dtype)

    def encode_step(self, params, state: CodecState, pixels):
        """[B, 4F, H, W, 3] -> next state, [B, F, h, w, z]."""
        batch, frames, *picture = pixels.shape
        groups = pixels.reshape(batch, frames // STRIDE, STRIDE, *picture).swapaxes(0, 1)
        state, out = _run(Encoder(self.config), params["encoder"], state, groups)
        mean, std = self._scale(pixels.dtype)
        latents = out[:, :, 0, ..., : self.config.channels].swapaxes(0, 1)  # the mean of the posterior, not a sample
        return state, (latents - mean) / std

    def encode_picture(self, params, picture):
        """The latent of a still picture, as the first frame of a stream: [B, H, W, 3] -> [B, 1, h, w, z]."""
        group = jnp.broadcast_to(picture[:, None], (picture.shape[0], STRIDE, *picture.shape[1:]))
        return self.encode_step(params, self.init_encode(picture.shape[0], picture.dtype), group)[1]

    def init_decode(self, params, picture) -> CodecState:
        """A decoder that has decoded nothing yet. It takes no detail from the portrait [B, H, W, 3], only its dtype."""
        latent = (picture.shape[0], 1, *self.config.grid, self.config.channels)
        return _fresh(Decoder(self.config), latent, picture.dtype)

    def decode_step(self, params, state: CodecState, latents):
        """[B, F, h, w, z] -> next state, [B, 4F, H, W, 3]."""
        mean, std = self._scale(latents.dtype)
        groups = (latents * std + mean)[:, :, None].swapaxes(0, 1)  # [F, B, 1, h, w, z]
        state, out = _run(Decoder(self.config), params["decoder"], state, groups)
        frames, batch, slots, *picture = out.shape
        return state, jnp.clip(out.swapaxes(0, 1).reshape(batch, frames * slots, *picture), -1.0, 1.0)

    def _scale(self, dtype):
        return jnp.asarray(self.config.mean, dtype), jnp.asarray(self.config.std, dtype)
