"""DiTs whose weights are public, by name: one network with another configuration each."""

import dataclasses

import jax
import jax.numpy as jnp

from knotjax.models.dit import DiT, undriven
from knotjax.models.dit_config import DiTConfig

T2V_1_3B = DiTConfig(inputs="plain")
T2V_14B = dataclasses.replace(T2V_1_3B, dim=5120, ffn_dim=13824, heads=40, layers=40)
I2V_14B = dataclasses.replace(T2V_14B, inputs="image", image_tokens=257)

_PACKED = dict(inputs="inpaint", audio_form="added", audio_tokens=1, audio_width=32, audio_window=(4, 14 * 768))
_PIXEL_FRAMES = dict(audio_form="pixel_frames", audio_tokens=32, audio_width=768, audio_window=(8, 12 * 768 + 1))

PRESETS: dict[str, DiTConfig] = {
    "wan2.1-t2v-1.3b": T2V_1_3B,
    "wan2.1-t2v-14b": T2V_14B,
    "wan2.1-i2v-14b": I2V_14B,
    "wan2.1-inpaint-1.3b": dataclasses.replace(T2V_1_3B, inputs="inpaint"),
    "wan2.1-inpaint-14b": dataclasses.replace(T2V_14B, inputs="inpaint"),
    "omniavatar-1.3b": dataclasses.replace(T2V_1_3B, **_PACKED),
    "omniavatar-14b": dataclasses.replace(T2V_14B, **_PACKED),
    "infinitetalk-14b": dataclasses.replace(I2V_14B, **_PIXEL_FRAMES),
    "liveact-14b": dataclasses.replace(I2V_14B, **_PIXEL_FRAMES, memory_ratio=5),
}


def shapes(model: DiT) -> dict:
    """The shapes of all parameters of a DiT; nothing is computed."""
    c = model.config

    def init(key):
        x, still = jnp.zeros((1, 1, c.patch, c.patch, c.latent_channels)), jnp.zeros((1, 1))
        drive = undriven(c, jnp.zeros((1, 1, c.text_dim)), 1)
        return model.init(key, x, x, still, still, still.astype(jnp.int32), drive)["params"]

    return jax.eval_shape(init, jax.random.key(0))
