"""The causal diffusion transformer of the Wan 2.1 family: parameters only.

One network serves every streaming system. It takes the keys and values of context frames and returns those of its own
frames; who keeps them, and for how long, is decided in `knotjax.streaming`. The small model and the 1.3B model differ
in `DiTConfig`.

Shapes: B batch, F latent frames, S tokens per frame, N heads, D head width, L layers, C channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from knotjax import sharding
from knotjax.models import rope
from knotjax.models.attention import attend
from knotjax.models.conditioning import (
    AddedSound,
    FrameCrossAttention,
    FrameTokens,
    ImageTokens,
    PackedSound,
    PixelFrameTokens,
)
from knotjax.models.dit_config import MASKS, Conditions, Context, DiTConfig, undriven
from knotjax.models.kernels import in_place

__all__ = ["Conditions", "Context", "DiT", "DiTConfig", "undriven"]


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


def entering(config: DiTConfig, x, given, mask):
    """What the patch embedding sees: [B, F, H, W, z] twice and [B, F] -> [B, F, H, W, in_channels]."""
    mask = jnp.broadcast_to(mask[:, :, None, None, None], (*x.shape[:4], 1))
    if config.inputs == "plain":
        return x
    if config.inputs == "inpaint":
        return jnp.concatenate([x, given, mask], -1)
    return jnp.concatenate([x, *(1 - mask for _ in range(MASKS)), given], -1)


class Block(nn.Module):
    """One transformer block: self-attention with context, text, sound and motion cross-attention, feed-forward."""

    config: DiTConfig
    has_motion: bool
    kernel: str = "xla"

    @nn.compact
    def __call__(self, x, e, angle, own_valid, contexts, added, text, image, audio, motion):
        """Runs the block.

        Args:
          x: [B, F, S, C].
          e: [B, F, 6, C], timestep modulation shared by all blocks.
          angle: [B, F, S, D / 2], rotation of the own tokens.
          own_valid: bool [B, F], frames that exist, or None when all do.
          contexts: tuple of (k [B, Fc, N, S, D], v, angle [B, Fc, S, D / 2], valid [B, Fc]).
          added: [B, F, C], packed sound of this block, or None.
          text: [B, T, C].
          image: [B, A, C] or None.
          audio, motion: [B, F, tokens, width] or None.

        Returns:
          x [B, F, S, C] and this layer's own (k, v), each [B, F, N, S, D].
        """
        c = self.config
        batch, frames, size, _ = x.shape

        def dense(features, name):
            return nn.Dense(features, name=name, dtype=x.dtype, kernel_init=nn.initializers.xavier_uniform())

        def headed(y):  # [B, F, S, C] -> [B, F, N, S, D]
            return y.reshape(batch, frames, size, c.heads, c.head_dim).swapaxes(2, 3)

        def joined(parts):  # of [B, F, N, S, D] -> [B, all tokens, N, D]
            return jnp.concatenate(parts, 1).swapaxes(2, 3).reshape(flat)

        flat = (batch, -1, c.heads, c.head_dim)

        table = self.param("modulation", nn.initializers.normal(c.dim**-0.5), (6, c.dim))
        m = (table + e)[:, :, :, None]  # [B, F, 6, 1, C]
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (m[:, :, i] for i in range(6))

        if added is not None:
            x = x + added[:, :, None]
        y = (layer_norm(x, c.eps) * (1 + scale_sa) + shift_sa).astype(x.dtype)
        q = headed(RMSNorm(c.eps, name="norm_q")(dense(c.dim, "q")(y)))
        k = headed(RMSNorm(c.eps, name="norm_k")(dense(c.dim, "k")(y)))
        v = headed(dense(c.dim, "v")(y))
        k, v = sharding.join_tokens(k), sharding.join_tokens(v)
        keys, values = [rope.rotate(k, angle)], [v]
        valid = [jnp.ones((batch, frames), bool) if own_valid is None else own_valid]
        for context_k, context_v, context_angle, context_valid in contexts:
            keys.append(rope.rotate(context_k.astype(k.dtype), context_angle))
            values.append(context_v.astype(v.dtype))
            valid.append(context_valid)
        out = attend(
            *(joined(parts) for parts in ([rope.rotate(q, angle)], keys, values)),
            None if own_valid is None and not contexts else jnp.repeat(jnp.concatenate(valid, 1), size, axis=1),
            kernel=self.kernel,
        )
        x = x + (gate_sa * dense(c.dim, "o")(out.reshape(x.shape))).astype(x.dtype)
        if c.memory_ratio:  # used between steps, by `streaming.memory`
            for name in ("memory_k", "memory_v"):
                self.param(name, nn.initializers.constant(1.0 / c.memory_ratio), (c.memory_ratio, c.dim))

        y = nn.LayerNorm(epsilon=c.eps, name="norm_text", dtype=x.dtype)(x).reshape(batch, -1, c.dim)
        q = RMSNorm(c.eps, name="text_norm_q")(dense(c.dim, "text_q")(y)).reshape(flat)
        text_k = RMSNorm(c.eps, name="text_norm_k")(dense(c.dim, "text_k")(text)).reshape(flat)
        text_v = dense(c.dim, "text_v")(text).reshape(flat)
        out = attend(q, text_k, text_v, kernel=self.kernel)
        if image is not None:
            image_k = RMSNorm(c.eps, name="image_norm_k")(dense(c.dim, "image_k")(image)).reshape(flat)
            out = out + attend(q, image_k, dense(c.dim, "image_v")(image).reshape(flat))
        x = x + dense(c.dim, "text_o")(out.reshape(x.shape))
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
    kernel: str = "xla"

    @nn.compact
    def __call__(self, x, layered, shared):
        group, contexts, added = layered
        e, angle, own_valid, context_angles, context_valids, stored, *drive = shared

        def read(kv, sets, i):
            if sets is None:
                return tuple(a[i] for a in kv)
            *sets, which = sets
            return tuple(in_place(a[group * self.config.motion_every + i, which], self.kernel) for a in sets)

        own_k, own_v = [], []
        for i in range(self.config.motion_every):
            kvs = (read(kv, sets, i) for kv, sets in zip(contexts, stored))
            layer = tuple((*kv, a, ok) for kv, a, ok in zip(kvs, context_angles, context_valids))
            block = Block(self.config, has_motion=i == 0, kernel=self.kernel, name=f"block{i}")
            sound = None if added is None else added[i]
            x, (k, v) = block(sharding.split_tokens(x), e, angle, own_valid, layer, sound, *drive)
            own_k.append(k)
            own_v.append(v)
        return x, (jnp.stack(own_k), jnp.stack(own_v))


class DiT(nn.Module):
    """Causal Wan DiT: one forward over F latent frames that may look at context frames."""

    config: DiTConfig
    kernel: str = "xla"  # of the large attentions, see `attention.attend`

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
          [L, B, F, N, S, D]: keys after the norm and before rotation.
        """
        c = self.config
        batch, frames, height, width, z = x.shape
        rows, columns = height // c.patch, width // c.patch

        def dense(features, name, scale=None):
            init = nn.initializers.xavier_uniform() if scale is None else nn.initializers.normal(scale)
            return nn.Dense(features, name=name, dtype=x.dtype, kernel_init=init)

        tokens = entering(c, x, given.astype(x.dtype), mask.astype(x.dtype))  # [B, F, H, W, in_channels]
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
        added = image = audio = motion = None
        if c.audio_tokens:
            sizes = (c.audio_tokens, c.audio_width, c.audio_hidden)
            if c.audio_form == "added":
                tokens_of = PackedSound(c.audio_width, name="audio_tokens")
            else:
                adapter = {"window": FrameTokens, "pixel_frames": PixelFrameTokens}[c.audio_form]
                tokens_of = adapter(*sizes, name="audio_tokens")
            audio = tokens_of(conditions.audio.astype(x.dtype))
        if c.audio_form == "added":
            added = AddedSound(c.dim, c.layers, c.added_layers, name="audio_add")(audio[:, :, 0])  # [L, B, F, C]
            audio = None
        if c.image_tokens:
            image = ImageTokens(c.dim, name="image_tokens")(conditions.image.astype(x.dtype))
        if c.motion_tokens:
            motion = FrameTokens(c.motion_tokens, c.audio_width, c.audio_hidden, name="motion_tokens")
            motion = motion(conditions.motion.astype(x.dtype))

        def turn(times):
            return rope.angles(times, (rows, columns), c.head_dim, wide(x.dtype))

        groups = c.layers // c.motion_every

        def grouped(a):
            return a.reshape(groups, c.motion_every, *a.shape[1:])

        kv = tuple((grouped(context.k), grouped(context.v)) if context.which is None else None for context in contexts)
        layered = (jnp.arange(groups), kv, None if added is None else grouped(added))
        shared = (
            e6,
            turn(position),
            valid,
            tuple(turn(context.position) for context in contexts),
            tuple(context.valid for context in contexts),
            tuple(None if context.which is None else (context.k, context.v, context.which) for context in contexts),
            text,
            image,
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
        h, (k, v) = scan(c, self.kernel, name="blocks")(h, layered, shared)

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
