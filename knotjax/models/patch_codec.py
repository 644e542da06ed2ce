"""The small codec: a linear patch encoder and a convolutional decoder, behind the streaming interface of the Wan VAE.

Every codec offers the same four functions, with explicit state and fixed shapes:

    state = codec.init_encode(batch)
    state, latents = codec.encode_step(params, state, pixels)  # [B, 4F, H, W, 3] -> [B, F, h, w, z]
    state = codec.init_decode(params, picture)  # the portrait, for codecs that take detail from it
    state, pixels = codec.decode_step(params, state, latents)  # [B, F, h, w, z] -> [B, 4F, H, W, 3]

The first latent of a stream stands for one pixel frame, every later one for four. So that one compiled program serves
every chunk, the first group of four has the same shape as the others: only its last frame counts, on the way in and on
the way out.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from knotjax.drive import STRIDE


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """Size of a patch codec."""

    size: int = 128  # pixels, height and width
    patch: int = 16  # pixels, side of the square behind one latent
    channels: int = 64  # z
    widths: tuple[int, int, int] = (192, 96, 64)  # decoder channels at 1/16, 1/8 and 1/4 of the resolution

    @property
    def grid(self) -> int:
        """Latents per row and per column."""
        return self.size // self.patch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncodeState:
    """What the encoder remembers."""

    first: jax.Array  # bool [B], no latent was made yet


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """What the decoder remembers."""

    first: jax.Array  # bool [B], no latent was decoded yet
    previous: jax.Array  # [B, h, w, z], the latent before
    picture: jax.Array  # [B, H, W, 3], the portrait
    portrait: jax.Array  # [B, h, w, z], its latent


def to_patches(pixels, patch: int):
    """[B, 4F, H, W, 3] -> [B, F, H / patch, W / patch, 4 * patch * patch * 3]."""
    batch, frames, height, width, _ = pixels.shape
    x = pixels.reshape(batch, frames // STRIDE, STRIDE, height // patch, patch, width // patch, patch, 3)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(*x.shape[:4], -1)


def from_patches(patches, patch: int):
    """The inverse of `to_patches`."""
    batch, groups, rows, columns, _ = patches.shape
    x = patches.reshape(batch, groups, rows, columns, STRIDE, patch, patch, 3)
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, groups * STRIDE, rows * patch, columns * patch, 3)


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a skip."""

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = nn.Conv(width, (3, 3), name="in")(nn.silu(x))
        return x + nn.Conv(width, (3, 3), name="out")(nn.silu(y))


def fold(x, side: int):
    """Space to depth: [B, side * h, side * w, C] -> [B, h, w, side * side * C]."""
    batch, rows, columns, depth = x.shape
    x = x.reshape(batch, rows // side, side, columns // side, side, depth)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows // side, columns // side, -1)


def unfold(x, side: int):
    """Depth to space: [B, h, w, side * side * C] -> [B, side * h, side * w, C]."""
    batch, rows, columns, depth = x.shape
    x = x.reshape(batch, rows, columns, side, side, depth // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * side, columns * side, -1)


class Synthesis(nn.Module):
    """What the convolutional decoder makes of the linear reconstruction.

    Neighbouring latents hide the seams between patches, and a soft mask takes from the portrait what has not moved.
    """

    config: CodecConfig

    @nn.compact
    def __call__(self, latent, previous, portrait, picture, linear):
        """latent, previous, portrait [B, h, w, z], picture [B, H, W, 3], linear [B, 4, H, W, 3] -> [B, 4, H, W, 3]."""
        c = self.config
        coarse, middle, fine = c.widths
        rest = c.patch // 4
        x = nn.Conv(coarse, (3, 3), name="input")(jnp.concatenate([latent, previous, portrait], -1))
        x = Residual(name="coarse")(x)
        x = unfold(nn.Dense(4 * middle, name="to_middle")(nn.silu(x)), 2)
        x = Residual(name="middle")(x)
        x = unfold(nn.Dense(4 * fine, name="to_fine")(nn.silu(x)), 2)
        x = x + nn.Dense(fine, name="picture")(fold(picture, rest))
        x = Residual(name="fine")(x)
        x = nn.Dense(rest**2 * STRIDE * 4, name="output", kernel_init=nn.initializers.zeros)(nn.silu(x))
        x = unfold(x, rest)  # [B, H, W, 4 * 4]
        x = x.reshape(*x.shape[:3], STRIDE, 4).transpose(0, 3, 1, 2, 4)
        kept = nn.sigmoid(x[..., 3:])  # [B, 4, H, W, 1]
        return kept * picture[:, None] + (1.0 - kept) * (linear + x[..., :3])


def linear_part(params: Mapping) -> dict:
    """The parameters that decide what latents are: all but the layers of the decoder, which may be trained further."""
    return {name: array for name, array in params.items() if name != "synthesis"}


@dataclasses.dataclass(frozen=True)
class PatchCodec:
    """Pixels are float in -1 .. 1, latents have about unit variance.

    Parameters: {"mean": [P], "basis": [P, z], "scale": [z], "synthesis": {...}} with P = 4 * patch * patch * 3.
    """

    config: CodecConfig

    def init_encode(self, batch: int, *, first: bool = True) -> EncodeState:
        """A fresh encoder; with `first` off, one in the middle of a stream."""
        return EncodeState(jnp.full(batch, first))

    def init_synthesis(self, key):
        """Random parameters of the convolutional decoder."""
        c = self.config
        latent = jnp.zeros((1, c.grid, c.grid, c.channels))
        picture, group = jnp.zeros((1, c.size, c.size, 3)), jnp.zeros((1, STRIDE, c.size, c.size, 3))
        return Synthesis(c).init(key, latent, latent, latent, picture, group)["params"]

    def encode_step(self, params, state: EncodeState, pixels):
        """[B, 4F, H, W, 3] -> next state, [B, F, h, w, z]."""
        lead = jnp.where(state.first[:, None, None, None, None], pixels[:, STRIDE - 1 : STRIDE], pixels[:, :STRIDE])
        pixels = jnp.concatenate([lead, pixels[:, STRIDE:]], 1)
        patches = to_patches(pixels, self.config.patch)
        latents = (patches - params["mean"]) @ params["basis"] / params["scale"]
        return EncodeState(jnp.zeros_like(state.first)), latents

    def encode_picture(self, params, picture):
        """The latent of a still picture, as the first frame of a stream: [B, H, W, 3] -> [B, 1, h, w, z]."""
        group = jnp.broadcast_to(picture[:, None], (picture.shape[0], STRIDE, *picture.shape[1:]))
        return self.encode_step(params, self.init_encode(picture.shape[0]), group)[1]

    def init_decode(self, params, picture) -> DecodeState:
        """A decoder that has decoded nothing yet; picture [B, H, W, 3] is the portrait."""
        portrait = self.encode_picture(params, picture)[:, 0]
        return DecodeState(jnp.ones(len(picture), bool), jnp.zeros_like(portrait), picture, portrait)

    def linear_decode(self, params, latents):
        """The reconstruction without the convolutional decoder: [B, F, h, w, z] -> [B, 4F, H, W, 3]."""
        patches = (latents * params["scale"]) @ params["basis"].T + params["mean"]
        return from_patches(patches, self.config.patch)

    def decode_step(self, params, state: DecodeState, latents):
        """[B, F, h, w, z] -> next state, [B, 4F, H, W, 3]."""
        batch, frames = latents.shape[:2]
        before = jnp.where(state.first[:, None, None, None], latents[:, 0], state.previous)
        previous = jnp.concatenate([before[:, None], latents[:, :-1]], 1)
        linear = self.linear_decode(params, latents)  # [B, 4F, H, W, 3]

        def flat(array):  # [B, F, ...] -> [B * F, ...]
            return array.reshape(batch * frames, *array.shape[2:])

        def repeated(array):  # [B, ...] -> [B * F, ...]
            return jnp.repeat(array, frames, axis=0)

        pixels = Synthesis(self.config).apply(
            {"params": params["synthesis"]},
            flat(latents),
            flat(previous),
            repeated(state.portrait),
            repeated(state.picture),
            flat(linear.reshape(batch, frames, STRIDE, *linear.shape[2:])),
        )
        pixels = jnp.clip(pixels.reshape(linear.shape), -1.0, 1.0)
        return DecodeState(jnp.zeros_like(state.first), latents[:, -1], state.picture, state.portrait), pixels
