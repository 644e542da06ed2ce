"""The causal diffusion transformer of the Wan 2.1 family: parameters only.

One network serves every streaming system. It takes the keys and values of context frames and returns those of its own
frames; who keeps them, and for how long, is decided in `knotjax.streaming`. The small model and the 1.3B model differ
in `DiTConfig`.

Shapes: B batch, F latent frames, S tokens per frame, N heads, D head width, L layers, C channels.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from knotjax import sharding
from knotjax.models import rope
from knotjax.models.attention import attend
from knotjax.models.conditioning import FrameCrossAttention, FrameTokens


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Size and inputs of a DiT. The defaults are Wan 2.1 1.3B with the 2z + 1 channel inpainting input."""

    latent_channels: int = 16  # z
    dim: int = 1536
    ffn_dim: int = 8960
    heads: int = 12
    layers: int = 30
    patch: int = 2  # side of the square of latents behind one token
    freq_dim: int = 256  # width of the sinusoidal timestep features
    text_dim: int = 4096  # width of the text rows that are given
    audio_tokens: int = 0  # sound tokens per latent frame; 0: no sound branch
    audio_width: int = 768
    audio_hidden: int = 512
    audio_window: tuple[int, int] = (0, 0)  # pixel frames and features of one latent frame's sound
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

    @property
    def in_channels(self) -> int:
        """[noise z | given z | mask 1]."""
        return 2 * self.latent_channels + 1

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Keys and values of frames that the network may look at but does not compute."""

    k: jax.Array  # [L, B, F, S, N, D], after the key norm and before rotation
    v: jax.Array  # [L, B, F, S, N, D]
    position: jax.Array  # int32 [B, F], temporal positions, on the same origin as the queries' positions
    valid: jax.Array  # bool [B, F], frames that exist
    which: jax.Array | None = None  # int32 []: k and v are P sets, [L, P, B, F, S, N, D], and this one is read in place


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditions:
    """What steers the frames of one forward."""

    text: jax.Array  # [B, T, text_dim]
    audio: jax.Array | None = None  # [B, F, P, C], per latent frame a window of pixel-frame features
    motion: jax.Array | None = None  # [B, F, P, C], per latent frame the motion channels and their presence masks


def undriven(config: DiTConfig, text, frames: int) -> Conditions:
    """Conditions of frames that hear and follow nothing (the reference): zeros in every driven row.

    Args:
      text: [B, T, text_dim].
      frames: how many latent frames.
    """
    batch = text.shape[0]
    audio = jnp.zeros((batch, frames, *config.audio_window), text.dtype) if config.audio_tokens else None
    motion = jnp.zeros((batch, frames, *config.motion_window), text.dtype) if config.motion_tokens else None
    return Conditions(text, audio, motion)


def wide(dtype):
    """The dtype of norms, modulation, angles and softmax statistics."""
    return jnp.promote_types(dtype, jnp.float32)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width, before the split into heads."""

    eps: float

    @nn.compact
    def __call__(self, x):
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(wide(x.dtype))
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * weight.astype(x.dtype)


def layer_norm(x, eps):
    """Layer norm without parameters."""
    y = x.astype(wide(x.dtype))
    y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + eps)
    return y.astype(x.dtype)


def timestep_features(t, width: int):
    """[cos | sin] features of diffusion times: [B, F] in 0 .. 1000 -> [B, F, width]."""
    dtype = wide(t.dtype)
    half = width // 2
    angle = t.astype(dtype)[..., None] * 10_000.0 ** (-jnp.arange(half, dtype=dtype) / half)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


class Block(nn.Module):
    """One transformer block: self-attention with context, text, sound and motion cross-attention, feed-forward."""

    config: DiTConfig
    has_motion: bool

    @nn.compact
    def __call__(self, x, e, angle, own_valid, contexts, text, audio, motion):
        """Runs the block.

        Args:
          x: [B, F, S, C].
          e: [B, F, 6, C], timestep modulation shared by all blocks.
          angle: [B, F, S, D / 2], rotation of the own tokens.
          own_valid: bool [B, F], frames that exist, or None when all do.
          contexts: tuple of (k [B, Fc, S, N, D], v, angle [B, Fc, S, D / 2], valid [B, Fc]).
          text: [B, T, C].
          audio, motion: [B, F, tokens, width] or None.

        Returns:
          x [B, F, S, C] and this layer's own (k, v), each [B, F, S, N, D].
        """
        c = self.config
        batch, frames, size, _ = x.shape
        heads = (batch, frames, size, c.heads, c.head_dim)

        def dense(features, name):
            return nn.Dense(features, name=name, dtype=x.dtype, kernel_init=nn.initializers.xavier_uniform())

        table = self.param("modulation", nn.initializers.normal(c.dim**-0.5), (6, c.dim))
        m = (table + e)[:, :, :, None]  # [B, F, 6, 1, C]
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (m[:, :, i] for i in range(6))

        y = (layer_norm(x, c.eps) * (1 + scale_sa) + shift_sa).astype(x.dtype)
        q = RMSNorm(c.eps, name="norm_q")(dense(c.dim, "q")(y)).reshape(heads)
        k = RMSNorm(c.eps, name="norm_k")(dense(c.dim, "k")(y)).reshape(heads)
        v = dense(c.dim, "v")(y).reshape(heads)
        k, v = sharding.join_tokens(k), sharding.join_tokens(v)
        keys, values = [rope.rotate(k, angle)], [v]
        valid = [jnp.ones((batch, frames), bool) if own_valid is None else own_valid]
        for context_k, context_v, context_angle, context_valid in contexts:
            keys.append(rope.rotate(context_k.astype(k.dtype), context_angle))
            values.append(context_v.astype(v.dtype))
            valid.append(context_valid)
        flat = (batch, -1, c.heads, c.head_dim)
        out = attend(
            rope.rotate(q, angle).reshape(flat),
            jnp.concatenate(keys, 1).reshape(flat),
            jnp.concatenate(values, 1).reshape(flat),
            None if own_valid is None and not contexts else jnp.repeat(jnp.concatenate(valid, 1), size, axis=1),
        )
        x = x + (gate_sa * dense(c.dim, "o")(out.reshape(x.shape))).astype(x.dtype)
        if c.memory_ratio:  # used between steps, by `streaming.memory`
            for name in ("memory_k", "memory_v"):
                self.param(name, nn.initializers.constant(1.0 / c.memory_ratio), (c.memory_ratio, c.dim))

        y = nn.LayerNorm(epsilon=c.eps, name="norm_text", dtype=x.dtype)(x).reshape(batch, -1, c.dim)
        q = RMSNorm(c.eps, name="text_norm_q")(dense(c.dim, "text_q")(y)).reshape(flat)
        text_k = RMSNorm(c.eps, name="text_norm_k")(dense(c.dim, "text_k")(text)).reshape(flat)
        text_v = dense(c.dim, "text_v")(text).reshape(flat)
        x = x + dense(c.dim, "text_o")(attend(q, text_k, text_v).reshape(x.shape))
        if audio is not None:
            x = x + FrameCrossAttention(c.dim, c.heads, name="audio")(x, audio)
        if motion is not None and self.has_motion:
            x = x + FrameCrossAttention(c.dim, c.heads, name="motion")(x, motion)

        y = (layer_norm(x, c.eps) * (1 + scale_ff) + shift_ff).astype(x.dtype)
        y = dense(c.dim, "ffn_out")(nn.gelu(dense(c.ffn_dim, "ffn_in")(y), approximate=True))
        return x + (gate_ff * y).astype(x.dtype), (k, v)


class BlockGroup(nn.Module):
    """The scanned unit: `motion_every` blocks, of which the first carries the motion cross-attention."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x, layers, shared):
        group, contexts = layers
        e, angle, own_valid, context_angles, context_valids, stored, text, audio, motion = shared

        def read(kv, sets, i):
            if sets is None:
                return tuple(a[i] for a in kv)
            *sets, which = sets
            return tuple(a[group * self.config.motion_every + i, which] for a in sets)

        own_k, own_v = [], []
        for i in range(self.config.motion_every):
            kvs = (read(kv, sets, i) for kv, sets in zip(contexts, stored))
            layer = tuple((*kv, a, ok) for kv, a, ok in zip(kvs, context_angles, context_valids))
            block = Block(self.config, has_motion=i == 0, name=f"block{i}")
            x, (k, v) = block(sharding.split_tokens(x), e, angle, own_valid, layer, text, audio, motion)
            own_k.append(k)
            own_v.append(v)
        return x, (jnp.stack(own_k), jnp.stack(own_v))


class DiT(nn.Module):
    """Causal Wan DiT: one forward over F latent frames that may look at context frames."""

    config: DiTConfig

    @nn.compact
    def __call__(
        self, x, given, mask, t, position, conditions: Conditions, contexts: tuple[Context, ...] = (), valid=None
    ):
        """One forward.

        Args:
          x: [B, F, H, W, z], noisy latents.
          given: [B, F, H, W, z], latents that are known (reference, knot), else what the plan puts there.
          mask: [B, F], 1 = to generate, 0 = given.
          t: [B, F], diffusion time per frame, 0 .. 1000.
          position: int32 [B, F], temporal positions relative to the window.
          conditions: text, sound and motion of exactly these frames.
          contexts: groups of context frames, for example the reference and the ring.
          valid: bool [B, F], frames that exist (nothing looks at the others), or None when all do.

        Returns:
          The prediction [B, F, H, W, z] (see `DiTConfig.prediction`) and own keys and values, each
          [L, B, F, S, N, D]: keys after the norm and before rotation.
        """
        c = self.config
        batch, frames, height, width, z = x.shape
        rows, columns = height // c.patch, width // c.patch

        def dense(features, name, scale=None):
            init = nn.initializers.xavier_uniform() if scale is None else nn.initializers.normal(scale)
            return nn.Dense(features, name=name, dtype=x.dtype, kernel_init=init)

        channel = jnp.broadcast_to(mask[:, :, None, None, None].astype(x.dtype), (*x.shape[:4], 1))
        tokens = jnp.concatenate([x, given.astype(x.dtype), channel], -1)  # [B, F, H, W, 2z + 1]
        tokens = tokens.reshape(batch, frames, rows, c.patch, columns, c.patch, c.in_channels)
        tokens = tokens.transpose(0, 1, 2, 4, 3, 5, 6).reshape(batch, frames, rows * columns, -1)
        h = dense(c.dim, "patch_embedding")(tokens)  # [B, F, S, C]

        e = timestep_features(t, c.freq_dim)  # modulation stays in float32 or wider throughout
        e = nn.Dense(c.dim, name="time_in", dtype=e.dtype, kernel_init=nn.initializers.normal(0.02))(e)
        e = nn.Dense(c.dim, name="time_out", dtype=e.dtype, kernel_init=nn.initializers.normal(0.02))(nn.silu(e))
        e6 = nn.Dense(6 * c.dim, name="time_projection", dtype=e.dtype)(nn.silu(e))
        e6 = e6.reshape(batch, frames, 6, c.dim)

        text = dense(c.dim, "text_in", 0.02)(conditions.text.astype(x.dtype))
        text = dense(c.dim, "text_out", 0.02)(nn.gelu(text, approximate=True))
        audio = motion = None
        if c.audio_tokens:
            audio = FrameTokens(c.audio_tokens, c.audio_width, c.audio_hidden, name="audio_tokens")
            audio = audio(conditions.audio.astype(x.dtype))
        if c.motion_tokens:
            motion = FrameTokens(c.motion_tokens, c.audio_width, c.audio_hidden, name="motion_tokens")
            motion = motion(conditions.motion.astype(x.dtype))

        def turn(times):
            return rope.angles(times, (rows, columns), c.head_dim, wide(x.dtype))

        groups = c.layers // c.motion_every
        kv = tuple(
            tuple(a.reshape(groups, c.motion_every, *a.shape[1:]) for a in (context.k, context.v))
            if context.which is None
            else None
            for context in contexts
        )
        shared = (
            e6,
            turn(position),
            valid,
            tuple(turn(context.position) for context in contexts),
            tuple(context.valid for context in contexts),
            tuple(None if context.which is None else (context.k, context.v, context.which) for context in contexts),
            text,
            audio,
            motion,
        )
        unit = BlockGroup
        if c.remat != "none":
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if c.remat == "dots" else None
            unit = nn.remat(BlockGroup, prevent_cse=False, policy=policy)
        scan = nn.scan(
            unit,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=groups,
        )
        h, (k, v) = scan(c, name="blocks")(h, (jnp.arange(groups), kv), shared)

        table = self.param("head_modulation", nn.initializers.normal(c.dim**-0.5), (2, c.dim))
        shift, scale = ((table[i] + e)[:, :, None] for i in range(2))  # [B, F, 1, C]
        h = (layer_norm(h, c.eps) * (1 + scale) + shift).astype(x.dtype)
        head = nn.Dense(c.patch**2 * z, name="head", dtype=x.dtype, kernel_init=nn.initializers.zeros)
        out = head(h).reshape(batch, frames, rows, columns, c.patch, c.patch, z)
        out = out.transpose(0, 1, 2, 4, 3, 5, 6).reshape(x.shape)
        if c.given_residual:
            gate = nn.Dense(z, name="given_gate", dtype=e.dtype, kernel_init=nn.initializers.zeros)(nn.silu(e))
            out = out + (gate[:, :, None, None] * given).astype(x.dtype)
        return out, (k.reshape(c.layers, *k.shape[2:]), v.reshape(c.layers, *v.shape[2:]))
