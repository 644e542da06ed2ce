"""Drive adapters: how sound, motion, words and the portrait enter the DiT."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from knotjax.models.attention import attend

FIRST_ROWS, LATER_ROWS = 5, 8  # pixel frames that InfiniteTalk's first and later latent frames hear


def pixel_frame_windows(features):
    """Windows for `PixelFrameTokens`: two pixel frames to both sides of every latent frame, repeated at the ends.

    Args:
      features: [B, T, C], a row per pixel frame.

    Returns:
      [B, F, 8, C + 1], F = ceil((T + 3) / 4). The first frame uses 5 rows; its last channel is 1.
    """
    batch, length, width = features.shape
    frames = (length + 6) // 4
    rows = 4 * np.arange(frames)[:, None] - 5 + np.arange(LATER_ROWS)  # [F, 8], latent i ends at pixel frame 4 i
    rows[0] += 3
    x = features[:, np.clip(rows, 0, length - 1)]  # [B, F, 8, C]
    x = x.at[:, 0, FIRST_ROWS:].set(0.0)
    return jnp.concatenate([x, jnp.zeros_like(x[..., :1]).at[:, 0].set(1.0)], -1)


def packed_windows(features):
    """Windows for `PackedSound`: a zero row goes before the features and is all that the first latent frame hears.

    Args:
      features: [B, T, C], a row per pixel frame.

    Returns:
      [B, F, 4, C], F = 1 + ceil(T / 4).
    """
    batch, length, width = features.shape
    x = jnp.pad(features, ((0, 0), (4, -length % 4), (0, 0)))
    return x.reshape(batch, -1, 4, width)


class FrameTokens(nn.Module):
    """Turns the features of one latent frame's window of pixel frames into a few tokens.

    The window is flattened, passed through two linear layers and split into tokens, as in MultiTalk's audio projection
    (SoulX-LiveAct uses the same module). The small model uses it for sound and for motion.
    """

    tokens: int
    width: int
    hidden: int

    @nn.compact
    def __call__(self, window):  # [B, F, P, C] -> [B, F, tokens, width]
        batch, frames = window.shape[:2]
        x = window.reshape(batch, frames, -1)
        x = nn.silu(nn.Dense(self.hidden, name="input", dtype=x.dtype)(x))
        x = nn.silu(nn.Dense(self.hidden, name="middle", dtype=x.dtype)(x))
        x = nn.Dense(self.tokens * self.width, name="output", dtype=x.dtype)(x)
        x = x.reshape(batch, frames, self.tokens, self.width)
        return nn.LayerNorm(name="norm", dtype=x.dtype)(x)


class FrameCrossAttention(nn.Module):
    """Cross-attention in which every latent frame sees only its own tokens (InfiniteTalk, LiveAct)."""

    dim: int
    heads: int

    @nn.compact
    def __call__(self, x, tokens):  # [B, F, S, C], [B, F, A, W] -> [B, F, S, C]
        batch, frames, size, _ = x.shape
        split = (batch * frames, -1, self.heads, self.dim // self.heads)
        x = nn.LayerNorm(name="norm", dtype=x.dtype)(x)
        q = nn.Dense(self.dim, name="q", dtype=x.dtype)(x)
        k, v = jnp.split(nn.Dense(2 * self.dim, name="kv", dtype=x.dtype)(tokens.astype(x.dtype)), 2, -1)
        out = attend(q.reshape(split), k.reshape(split), v.reshape(split))
        out = out.reshape(batch, frames, size, self.dim)
        return nn.Dense(self.dim, name="o", dtype=x.dtype)(out)


class PixelFrameTokens(nn.Module):
    """The sound projection of MultiTalk, InfiniteTalk and LiveAct.

    A stream's first latent frame is one pixel frame and hears 5 rows, every later one is four and hears 8. What
    `pixel_frame_windows` makes goes in: 8 rows a frame, whose last channel is 1 on the first latent frame.
    """

    tokens: int
    width: int
    hidden: int

    @nn.compact
    def __call__(self, window):  # [B, F, 8, C + 1] -> [B, F, tokens, width]
        batch, frames = window.shape[:2]
        rows, opens = window[..., :-1], window[:, :, 0, -1:] > 0.5

        def dense(width, name):
            return nn.Dense(width, name=name, dtype=window.dtype)

        first = dense(self.hidden, "first")(rows[:, :, :FIRST_ROWS].reshape(batch, frames, -1))
        later = dense(self.hidden, "later")(rows.reshape(batch, frames, -1))
        x = nn.relu(jnp.where(opens, first, later))
        x = nn.relu(dense(self.hidden, "middle")(x))
        x = dense(self.tokens * self.width, "output")(x)
        x = x.reshape(batch, frames, self.tokens, self.width)
        return nn.LayerNorm(epsilon=1e-5, name="norm", dtype=x.dtype)(x)


class PackedSound(nn.Module):
    """The sound of a latent frame as one narrow token (OmniAvatar's and AvatarForcing's audio pack)."""

    width: int

    @nn.compact
    def __call__(self, window):  # [B, F, P, C] -> [B, F, 1, width]
        x = nn.Dense(self.width, name="pack", dtype=window.dtype)(window.reshape(*window.shape[:2], 1, -1))
        return nn.LayerNorm(epsilon=1e-5, name="norm", dtype=x.dtype)(x)


class AddedSound(nn.Module):
    """What packed sound adds to every token of its frame before each block: one linear layer per block that has it."""

    dim: int
    layers: int
    at: range  # the blocks that have it

    @nn.compact
    def __call__(self, packed):  # [B, F, W] -> [L, B, F, C], zeros elsewhere
        shape = (len(self.at), packed.shape[-1], self.dim)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape).astype(packed.dtype)
        bias = self.param("bias", nn.initializers.zeros, (len(self.at), self.dim)).astype(packed.dtype)
        rows = jnp.einsum("bfw,lwc->lbfc", packed, kernel) + bias[:, None, None]
        return jnp.pad(rows, ((self.at.start, self.layers - self.at.stop), (0, 0), (0, 0), (0, 0)))


class ImageTokens(nn.Module):
    """CLIP's tokens of the portrait, brought to the width of the DiT (Wan I2V)."""

    dim: int

    @nn.compact
    def __call__(self, image):  # [B, A, W] -> [B, A, C]
        x = nn.LayerNorm(epsilon=1e-5, name="norm_in", dtype=image.dtype)(image)
        x = nn.gelu(nn.Dense(image.shape[-1], name="input", dtype=x.dtype)(x), approximate=False)
        x = nn.Dense(self.dim, name="output", dtype=x.dtype)(x)
        return nn.LayerNorm(epsilon=1e-5, name="norm_out", dtype=x.dtype)(x)
