"""TAEHV for Wan 2.1 (`taew2_1`): a tiny convolutional codec for real-time use, as a streaming codec.

It reads and writes the same normalised latents as the Wan VAE (`knotjax.models.wan_vae`), at a small part of the cost,
and offers the same functions (see `knotjax.models.patch_codec`). Pixels are in -1 .. 1 at the interface.

The decoder makes four frames of every latent. Of those of the first latent only the last counts, which the interface
asks for anyway. The encoder joins four frames to a latent; the first frame of a stream stands in all four places, as a
still picture does in the published program.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from knotjax.drive import STRIDE


@dataclasses.dataclass(frozen=True)
class TAEHVConfig:
    """Size of a TAEHV. The defaults are the published weights, at 480 x 832 pixels."""

    height: int = 480  # pixels, a multiple of 8
    width: int = 832  # pixels, a multiple of 8
    channels: int = 16  # z
    encoder_width: int = 64
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 64)  # at 1/8, 1/4, 1/2 and 1 of the resolution
    blocks: int = 3  # memory blocks per stage

    def __post_init__(self):
        if self.height % 8 or self.width % 8:
            raise ValueError(f"size {self.height} x {self.width}: both must be multiples of 8")

    @property
    def grid(self) -> tuple[int, int]:
        """Latents per column and per row."""
        return self.height // 8, self.width // 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncodeState:
    """What the encoder remembers."""

    first: jax.Array  # bool [B], no latent was made yet
    past: dict  # memory block -> the frame before, at its depth


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """What the decoder remembers."""

    past: dict  # memory block -> the frame before, at its depth


def conv(x, features: int, name: str, side: int = 3, stride: int = 1, bias: bool = True):
    """A spatial convolution with padding on all sides: [..., H, W, C] -> [..., H / stride, W / stride, features]."""
    edge = ((side // 2, side // 2),) * 2
    return nn.Conv(features, (side, side), stride, padding=edge, use_bias=bias, dtype=x.dtype, name=name)(x)


class MemoryBlock(nn.Module):
    """A residual block that also sees the frame before."""

    @nn.compact
    def __call__(self, x, past):
        """x [B, T, H, W, C], past [B, H, W, C] -> [B, T, H, W, C] and the next past."""
        before = jnp.concatenate([past[:, None].astype(x.dtype), x[:, :-1]], 1)
        y = jnp.concatenate([x, before], -1)
        for i in range(2):
            y = nn.relu(conv(y, x.shape[-1], f"conv{i}"))
        return nn.relu(conv(y, x.shape[-1], "conv2") + x), x[:, -1]


class Encoder(nn.Module):
    """Frames to latents, four to one."""

    config: TAEHVConfig

    @nn.compact
    def __call__(self, x, past):
        """x [B, 4F, H, W, 3] in 0 .. 1 -> [B, F, h, w, z] and the next past."""
        width, new = self.config.encoder_width, {}
        x = nn.relu(conv(x, width, "conv_in"))
        for stage, joined in enumerate((2, 2, 1)):  # frames that become one
            batch, frames, rows, columns, _ = x.shape
            x = x.reshape(batch, frames // joined, joined, rows, columns, width).transpose(0, 1, 3, 4, 2, 5)
            x = x.reshape(batch, frames // joined, rows, columns, joined * width)
            x = conv(x, width, f"stage{stage}_pool", side=1, bias=False)
            x = conv(x, width, f"stage{stage}_conv", stride=2, bias=False)
            for block in range(self.config.blocks):
                name = f"stage{stage}_block{block}"
                x, new[name] = MemoryBlock(name=name)(x, past[name])
        return conv(x, self.config.channels, "conv_out"), new


class Decoder(nn.Module):
    """Latents to frames, one to four."""

    config: TAEHVConfig

    @nn.compact
    def __call__(self, x, past):
        """x [B, F, h, w, z] -> [B, 4F, H, W, 3] in 0 .. 1, more or less, and the next past."""
        widths, new = self.config.decoder_widths, {}
        x = nn.relu(conv(3 * jnp.tanh(x / 3), widths[0], "conv_in"))
        for stage, made in enumerate((1, 2, 2)):  # frames that one becomes
            for block in range(self.config.blocks):
                name = f"stage{stage}_block{block}"
                x, new[name] = MemoryBlock(name=name)(x, past[name])
            x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
            batch, frames, rows, columns, width = x.shape
            x = conv(x, made * width, f"stage{stage}_grow", side=1, bias=False)
            x = x.reshape(batch, frames, rows, columns, made, width).transpose(0, 1, 4, 2, 3, 5)
            x = x.reshape(batch, frames * made, rows, columns, width)
            x = conv(x, widths[stage + 1], f"stage{stage}_conv", bias=False)
        return conv(nn.relu(x), 3, "conv_out"), new


@dataclasses.dataclass(frozen=True)
class TAEHV:
    """Parameters: {"encoder": {...}, "decoder": {...}}; `knotjax.convert.taehv` makes them of published weights."""

    config: TAEHVConfig = TAEHVConfig()

    def init_params(self, key):
        """Random parameters."""
        c = dataclasses.replace(self.config, height=8, width=8)
        small = TAEHV(c)
        one, two = jax.random.split(key)
        pixels, latent = jnp.zeros((1, STRIDE, 8, 8, 3)), jnp.zeros((1, 1, 1, 1, c.channels))
        return {
            "encoder": Encoder(c).init(one, pixels, small.init_encode(1).past)["params"],
            "decoder": Decoder(c).init(two, latent, small.init_decode(None, pixels[:, 0]).past)["params"],
        }

    def init_encode(self, batch: int, dtype=jnp.float32) -> EncodeState:
        """An encoder that has seen nothing yet, for pixels of `dtype`."""
        widths = (self.config.encoder_width,) * 3
        return EncodeState(jnp.ones(batch, bool), self._past(batch, widths, (4, 2, 1), dtype))

    def encode_step(self, params, state: EncodeState, pixels):
        """[B, 4F, H, W, 3] -> next state, [B, F, h, w, z]."""
        lead = jnp.where(state.first[:, None, None, None, None], pixels[:, STRIDE - 1 : STRIDE], pixels[:, :STRIDE])
        pixels = jnp.concatenate([lead, pixels[:, STRIDE:]], 1)
        latents, past = Encoder(self.config).apply({"params": params["encoder"]}, 0.5 + 0.5 * pixels, state.past)
        return EncodeState(jnp.zeros_like(state.first), past), latents

    def encode_picture(self, params, picture):
        """The latent of a still picture, as the first frame of a stream: [B, H, W, 3] -> [B, 1, h, w, z]."""
        group = jnp.broadcast_to(picture[:, None], (picture.shape[0], STRIDE, *picture.shape[1:]))
        return self.encode_step(params, self.init_encode(picture.shape[0], picture.dtype), group)[1]

    def init_decode(self, params, picture) -> DecodeState:
        """A decoder that has decoded nothing yet. It takes no detail from the portrait [B, H, W, 3], only its dtype."""
        return DecodeState(self._past(picture.shape[0], self.config.decoder_widths, (1, 2, 4), picture.dtype))

    def decode_step(self, params, state: DecodeState, latents):
        """[B, F, h, w, z] -> next state, [B, 4F, H, W, 3]."""
        pixels, past = Decoder(self.config).apply({"params": params["decoder"]}, latents, state.past)
        return DecodeState(past), 2 * jnp.clip(pixels, 0.0, 1.0) - 1

    def _past(self, batch: int, widths, scales, dtype) -> dict:
        """Zeros for every memory block; a stage works at `scale` times the latents' resolution."""
        rows, columns = self.config.grid
        return {
            f"stage{stage}_block{block}": jnp.zeros((batch, scale * rows, scale * columns, width), dtype)
            for stage, (width, scale) in enumerate(zip(widths, scales))
            for block in range(self.config.blocks)
        }
