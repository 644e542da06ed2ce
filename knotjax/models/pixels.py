"""Pictures between bytes and the range that codecs work in."""

import jax.numpy as jnp


def to_float(frames):
    """uint8 pictures as float32 in -1 .. 1."""
    return jnp.asarray(frames, jnp.float32) / 127.5 - 1.0


def to_uint8(pixels):
    """Pictures in -1 .. 1 (clipped to it) as uint8."""
    return jnp.round((jnp.clip(pixels, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
