"""The small codec: a convolutional encoder, and a decoder that warps the portrait, behind the Wan VAE's interface.

Every codec offers the same functions, with explicit state and fixed shapes:

    state = codec.init_encode(batch)
    state, latents = codec.encode_step(params, state, pixels)  # [B, 4F, H, W, 3] -> [B, F, h, w, z]
    state = codec.init_decode(params, picture)  # the portrait, for codecs that take detail from it
    state, pixels = codec.decode_step(params, state, latents)  # [B, F, h, w, z] -> [B, 4F, H, W, 3]

The first latent of a stream stands for one pixel frame, every later one for four. So that one compiled program serves
every chunk, the first group of four has the same shape as the others: only its last frame counts, on the way in and on
the way out.

A head that moves is mostly the portrait, moved. The decoder therefore makes a flow field from the latents, warps the
portrait by it, and paints only what the portrait does not show (an open mouth, closed eyes). Latents need to say where
things went and not what they look like, which a small denoiser learns sooner and shows sharper.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from knotjax.drive import STRIDE

FLOW_UNIT = 4.0  # pixels per unit of the flow head


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """Size of a warp codec."""

    size: int = 128  # pixels, height and width
    channels: int = 32  # z
    widths: tuple[int, int, int] = (192, 96, 64)  # channels at 1/16, 1/8 and 1/4 of the resolution

    def __post_init__(self):
        if self.size % 16:
            raise ValueError(f"size {self.size}: must be a multiple of 16")

    @property
    def grid(self) -> int:
        """Latents per row and per column."""
        return self.size // 16


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


def warp(picture, flow):
    """Look up every pixel of new frames in a picture, bilinearly; beyond its edge the edge is repeated.

    Args:
      picture: [B, H, W, 3].
      flow: [B, T, H, W, 2], (down, right) in pixels from a frame's pixel to where the picture shows it.

    Returns:
      [B, T, H, W, 3].
    """
    batch, rows, columns, depth = picture.shape
    y = jnp.clip(flow[..., 0] + jnp.arange(rows, dtype=flow.dtype)[:, None], 0, rows - 1)
    x = jnp.clip(flow[..., 1] + jnp.arange(columns, dtype=flow.dtype), 0, columns - 1)
    top = jnp.clip(jnp.floor(y), 0, rows - 2)
    left = jnp.clip(jnp.floor(x), 0, columns - 2)
    down, right = (y - top)[..., None], (x - left)[..., None]
    corners = [picture[:, i : rows - 1 + i, j : columns - 1 + j] for i in (0, 1) for j in (0, 1)]
    table = jnp.concatenate(corners, -1).reshape(batch, -1, 4 * depth)  # one look-up fetches all four corners
    index = (top * (columns - 1) + left).astype(jnp.int32).reshape(batch, -1, 1)
    found = jnp.take_along_axis(table, index, axis=1).reshape(*flow.shape[:-1], 4, depth)
    upper = (1 - right) * found[..., 0, :] + right * found[..., 1, :]
    lower = (1 - right) * found[..., 2, :] + right * found[..., 3, :]
    return (1 - down) * upper + down * lower


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a skip."""

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = nn.Conv(width, (3, 3), name="in")(nn.silu(x))
        return x + nn.Conv(width, (3, 3), name="out")(nn.silu(y))


class Encoder(nn.Module):
    """Four pixel frames to one latent."""

    config: CodecConfig

    @nn.compact
    def __call__(self, group):  # [B, 4, H, W, 3] -> [B, h, w, z]
        coarse, middle, fine = self.config.widths
        batch, frames, height, width, _ = group.shape
        x = fold(group.transpose(0, 2, 3, 1, 4).reshape(batch, height, width, frames * 3), 4)
        x = Residual(name="fine")(nn.Dense(fine, name="input")(x))
        x = Residual(name="middle")(nn.Dense(middle, name="to_middle")(fold(nn.silu(x), 2)))
        x = Residual(name="coarse")(nn.Dense(coarse, name="to_coarse")(fold(nn.silu(x), 2)))
        return nn.Dense(self.config.channels, name="output")(nn.silu(Residual(name="deep")(x)))


class Decoder(nn.Module):
    """One latent to four pixel frames, by moving the portrait and painting over it."""

    config: CodecConfig

    @nn.compact
    def __call__(self, latent, previous, portrait, picture):
        """latent, previous, portrait [B, h, w, z], picture [B, H, W, 3] -> [B, 4, H, W, 3]."""
        coarse, middle, fine = self.config.widths
        x = nn.Conv(coarse, (3, 3), name="input")(jnp.concatenate([latent, previous, portrait], -1))
        x = Residual(name="coarse")(x)
        x = unfold(nn.Dense(4 * middle, name="to_middle")(nn.silu(x)), 2)
        x = Residual(name="middle")(x)
        x = unfold(nn.Dense(4 * fine, name="to_fine")(nn.silu(x)), 2)
        x = x + nn.Dense(fine, name="picture")(fold(picture, 4))
        x = Residual(name="fine")(x)  # [B, H / 4, W / 4, fine]

        flow = nn.Dense(STRIDE * 2, name="flow", kernel_init=nn.initializers.zeros)(nn.silu(x))
        flow = FLOW_UNIT * jax.image.resize(flow, (*picture.shape[:3], STRIDE * 2), "linear")
        moved = warp(picture, flow.reshape(*picture.shape[:3], STRIDE, 2).transpose(0, 3, 1, 2, 4))

        seen = fold(moved.transpose(0, 2, 3, 1, 4).reshape(*picture.shape[:3], STRIDE * 3), 4)
        x = Residual(name="paint")(x + nn.Dense(fine, name="moved")(seen))
        x = nn.Dense(16 * STRIDE * 4, name="output", kernel_init=nn.initializers.normal(0.02))(nn.silu(x))
        x = unfold(x, 4).reshape(*picture.shape[:3], STRIDE, 4).transpose(0, 3, 1, 2, 4)  # [B, 4, H, W, 4]
        kept = nn.sigmoid(x[..., 3:] + 2.0)  # at first the moved portrait shows
        return kept * moved + (1.0 - kept) * x[..., :3]


@dataclasses.dataclass(frozen=True)
class WarpCodec:
    """Pixels are float in -1 .. 1, every latent channel has mean 0 and variance 1 over the training clips.

    Parameters: {"encoder": {...}, "decoder": {...}, "mean": [z], "scale": [z]}.
    """

    config: CodecConfig

    def init_params(self, key):
        """Random parameters."""
        c = self.config
        one, two = jax.random.split(key)
        latent = jnp.zeros((1, c.grid, c.grid, c.channels))
        picture, group = jnp.zeros((1, c.size, c.size, 3)), jnp.zeros((1, STRIDE, c.size, c.size, 3))
        return {
            "encoder": Encoder(c).init(one, group)["params"],
            "decoder": Decoder(c).init(two, latent, latent, latent, picture)["params"],
            "mean": jnp.zeros(c.channels),
            "scale": jnp.ones(c.channels),
        }

    def init_encode(self, batch: int, *, first: bool = True) -> EncodeState:
        """A fresh encoder; with `first` off, one in the middle of a stream."""
        return EncodeState(jnp.full(batch, first))

    def encode_step(self, params, state: EncodeState, pixels):
        """[B, 4F, H, W, 3] -> next state, [B, F, h, w, z]."""
        lead = jnp.where(state.first[:, None, None, None, None], pixels[:, STRIDE - 1 : STRIDE], pixels[:, :STRIDE])
        pixels = jnp.concatenate([lead, pixels[:, STRIDE:]], 1)
        batch, frames, *picture = pixels.shape
        groups = pixels.reshape(batch * frames // STRIDE, STRIDE, *picture)
        latents = Encoder(self.config).apply({"params": params["encoder"]}, groups)
        latents = (latents - params["mean"]) / params["scale"]
        return EncodeState(jnp.zeros_like(state.first)), latents.reshape(batch, -1, *latents.shape[1:])

    def encode_picture(self, params, picture):
        """The latent of a still picture, as the first frame of a stream: [B, H, W, 3] -> [B, 1, h, w, z]."""
        group = jnp.broadcast_to(picture[:, None], (picture.shape[0], STRIDE, *picture.shape[1:]))
        return self.encode_step(params, self.init_encode(picture.shape[0]), group)[1]

    def init_decode(self, params, picture) -> DecodeState:
        """A decoder that has decoded nothing yet; picture [B, H, W, 3] is the portrait."""
        portrait = self.encode_picture(params, picture)[:, 0]
        return DecodeState(jnp.ones(len(picture), bool), jnp.zeros_like(portrait), picture, portrait)

    def decode_step(self, params, state: DecodeState, latents):
        """[B, F, h, w, z] -> next state, [B, 4F, H, W, 3]."""
        batch, frames = latents.shape[:2]
        before = jnp.where(state.first[:, None, None, None], latents[:, 0], state.previous)
        previous = jnp.concatenate([before[:, None], latents[:, :-1]], 1)

        def flat(array):  # [B, F, ...] -> [B * F, ...]
            return array.reshape(batch * frames, *array.shape[2:])

        def repeated(array):  # [B, ...] -> [B * F, ...]
            return jnp.repeat(array, frames, axis=0)

        pixels = Decoder(self.config).apply(
            {"params": params["decoder"]},
            flat(latents),
            flat(previous),
            repeated(state.portrait),
            repeated(state.picture),
        )
        pixels = jnp.clip(pixels.reshape(batch, frames * STRIDE, *pixels.shape[2:]), -1.0, 1.0)
        return DecodeState(jnp.zeros_like(state.first), latents[:, -1], state.picture, state.portrait), pixels
