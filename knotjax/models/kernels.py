"""Attention kernels of accelerators, behind `attention.attend`: scores never reach the device's memory.

Which keys exist is given by segments (TPU) or by a length (GPU, after the keys that exist were moved to the front),
because masks that are known only at run time work in neither.
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

BLOCK = 512  # queries and keys that splash attention takes at once


def splash(q, k, v, valid=None, *, block: int = BLOCK, interpret: bool = False):
    """Splash attention on a TPU; arguments and result as in `attend`."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, queries, heads, width = q.shape
    keys = k.shape[1]
    valid = jnp.ones((batch, keys), bool) if valid is None else valid

    def padded(x):  # [B, length, N, D] -> [B, N, whole blocks, D]
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    q, k, v = padded(q * width**-0.5), padded(k), padded(v)
    mask = masks.MultiHeadMask([masks.FullMask((q.shape[2], k.shape[2]))] * heads)
    sizes = kernel.BlockSizes(block_q=block, block_kv=block, block_kv_compute=block)
    run = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
    exists = jnp.pad(valid.astype(jnp.int32), ((0, 0), (0, k.shape[2] - keys)))  # padding does not
    segments = kernel.SegmentIds(jnp.ones((batch, q.shape[2]), jnp.int32), exists)
    return jax.vmap(run)(q, k, v, segments)[:, :, :queries].transpose(0, 2, 1, 3)


def existing_first(k, v, valid):
    """Keys and values with those that exist in front, and how many there are, int32 [B]; attention has no order."""
    order = jnp.argsort(~valid, axis=1, stable=True)[:, :, None, None]
    k, v = (jnp.take_along_axis(x, order, axis=1) for x in (k, v))
    return k, v, jnp.sum(valid, 1, dtype=jnp.int32)


def cudnn(q, k, v, valid=None):
    """cuDNN's fused attention on an NVIDIA GPU, half precision; arguments and result as in `attend`."""
    lengths = None
    if valid is not None:
        k, v, lengths = existing_first(k, v, valid)
    return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths, implementation="cudnn")


def in_place(x, kernel: str):
    """One layer's part of a cache, read where it lies.

    The compilers for TPUs and GPUs would rather have the whole cache in the order of axes that a layer's products like
    best, and keep a copy of it in that order; so the order of this part is fixed. Where scores are kept it is left
    alone: a program with a fixed order cannot be exported without naming it (`exporting.folder`).
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim)))) if kernel != "xla" else x


KERNELS = {"splash": splash, "cudnn": cudnn}
