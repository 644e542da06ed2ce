"""Drive adapters: how sound, motion and words enter the DiT."""

import flax.linen as nn
import jax.numpy as jnp

from knotjax.models.attention import attend


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
