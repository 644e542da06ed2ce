"""Sizes and inputs of the DiT.

Shapes: B batch, F latent frames, S tokens per frame, N heads, D head width, L layers, C channels.
"""

import dataclasses

import jax
import jax.numpy as jnp

MASKS = 4  # equal mask channels of the "image" input, one per pixel frame of a latent


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Size and inputs of a DiT. The defaults are Wan 2.1 1.3B with the 2z + 1 channel inpainting input."""

    latent_channels: int = 16  # z
    inputs: str = "inpaint"  # channels of a latent: "inpaint" [noise z | given z | mask 1], "plain" [noise z], or
    # "image" [noise z | mask 4 | given z], whose weights were trained with mask 1 = given (Wan I2V)
    dim: int = 1536
    ffn_dim: int = 8960
    heads: int = 12
    layers: int = 30
    patch: int = 2  # side of the square of latents behind one token
    freq_dim: int = 256  # width of the sinusoidal timestep features
    text_dim: int = 4096  # width of the text rows that are given
    audio_form: str = "window"  # "window": any window, cross-attention; "pixel_frames": InfiniteTalk's and LiveAct's
    # windows, cross-attention; "added": one packed token, added to all tokens before some blocks (OmniAvatar)
    audio_tokens: int = 0  # sound tokens per latent frame; 0: no sound branch
    audio_width: int = 768
    audio_hidden: int = 512
    audio_window: tuple[int, int] = (0, 0)  # pixel frames and features of one latent frame's sound
    image_tokens: int = 0  # CLIP tokens of the portrait; 0: no image branch
    image_width: int = 1280
    motion_tokens: int = 0  # motion tokens per latent frame; 0: no motion branch
    motion_window: tuple[int, int] = (0, 0)  # pixel frames and features of one latent frame's motion
    motion_every: int = 1  # the first of every so many blocks carries the motion cross-attention
    prediction: str = "v"  # what the head outputs: "v" (noise - x0) or "x0"
    memory_ratio: int = 0  # frames that ConvKV memory joins into one; 0: no trained memory
    given_residual: bool = False  # add the given latents, gated per channel and timestep, to the output
    eps: float = 1e-6
    remat: str = "none"  # what the backward pass computes again: "none", "dots" (all but products), "full"

    def __post_init__(self):
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"heads {self.heads}: dim {self.dim} must split into heads of an even width")
        if self.layers % self.motion_every:
            raise ValueError(f"motion_every {self.motion_every}: must divide layers {self.layers}")
        if self.prediction not in ("v", "x0"):
            raise ValueError(f"prediction {self.prediction!r}: must be 'v' or 'x0'")
        if self.remat not in ("none", "full", "dots"):
            raise ValueError(f"remat {self.remat!r}: must be 'none', 'full' or 'dots'")
        if self.inputs not in ("inpaint", "plain", "image"):
            raise ValueError(f"inputs {self.inputs!r}: must be 'inpaint', 'plain' or 'image'")
        if self.audio_form not in ("window", "pixel_frames", "added"):
            raise ValueError(f"audio_form {self.audio_form!r}: must be 'window', 'pixel_frames' or 'added'")
        if self.audio_form == "added" and self.audio_tokens != 1:
            raise ValueError(f"audio_tokens {self.audio_tokens}: the form 'added' packs a frame's sound into 1 token")

    @property
    def in_channels(self) -> int:
        """Channels that enter the patch embedding, see `inputs`."""
        z = self.latent_channels
        return {"inpaint": 2 * z + 1, "plain": z, "image": 2 * z + MASKS}[self.inputs]

    @property
    def added_layers(self) -> range:
        """Blocks before which packed sound is added (OmniAvatar: 2 .. 15 of 30)."""
        return range(2, self.layers // 2 + 1) if self.audio_form == "added" else range(0)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Keys and values of frames that the network may look at but does not compute."""

    k: jax.Array  # [L, B, F, N, S, D], after the key norm and before rotation
    v: jax.Array  # [L, B, F, N, S, D]
    position: jax.Array  # int32 [B, F], temporal positions, on the same origin as the queries' positions
    valid: jax.Array  # bool [B, F], frames that exist
    which: jax.Array | None = None  # int32 []: k and v are P sets, [L, P, B, F, N, S, D], and this one is read in place


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditions:
    """What steers the frames of one forward."""

    text: jax.Array  # [B, T, text_dim]
    audio: jax.Array | None = None  # [B, F, P, C], per latent frame a window of pixel-frame features
    motion: jax.Array | None = None  # [B, F, P, C], per latent frame the motion channels and their presence masks
    image: jax.Array | None = None  # [B, image_tokens, image_width], CLIP's tokens of the portrait


def undriven(config: DiTConfig, text, frames: int) -> Conditions:
    """Conditions of frames that hear and follow nothing (the reference): zeros in every driven row and image token.

    Args:
      text: [B, T, text_dim].
      frames: how many latent frames.
    """
    batch = text.shape[0]
    audio = jnp.zeros((batch, frames, *config.audio_window), text.dtype) if config.audio_tokens else None
    motion = jnp.zeros((batch, frames, *config.motion_window), text.dtype) if config.motion_tokens else None
    image = jnp.zeros((batch, config.image_tokens, config.image_width), text.dtype) if config.image_tokens else None
    return Conditions(text, audio, motion, image)
