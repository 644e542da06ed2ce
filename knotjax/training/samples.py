"""Pictures of what a model in training generates, beside what it should."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import sharding
from knotjax.drive import STRIDE
from knotjax.models.dit import Conditions, DiT
from knotjax.models.patch_codec import PatchCodec
from knotjax.models.pixels import to_uint8
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.step import jit_init, jit_step

COLUMNS = 8  # stills of a strip


@partial(jax.jit, static_argnums=0)
def _decode(codec: PatchCodec, params, reference, latents):
    """Pixels of a stream's latents [1, F, h, w, z], and the portrait that the decoder takes textures from."""
    opened = codec.init_decode(params, jnp.zeros((1, codec.config.size, codec.config.size, 3)))
    _, plain = codec.decode_step(params, opened, reference)
    _, pixels = codec.decode_step(params, codec.init_decode(params, plain[:, -1]), latents)
    return to_uint8(pixels[0])  # [T, H, W, 3]


def stream(model: DiT, plan: StreamPlan, params, text, sample, seed: int = 0):
    """What streams generate from the references and the drive of a batch: [B, F, h, w, z], on their own history.

    Args:
      params: of the DiT.
      text: [B, T, text_dim].
      sample: a batch from `corpus.Windows`.
    """
    size, total = sample["latents"].shape[:2]
    keys = jax.random.split(jax.random.key(seed), size)
    state = jit_init(model, plan, params, jnp.asarray(sample["reference"]), text, keys)
    state = dataclasses.replace(state, end=jnp.full(size, total, jnp.int32))
    made = []
    for step in range(plan.steps(total)):
        first = plan.first_frame(step)
        rows = np.clip(np.arange(first, first + plan.span), 0, total - 1)
        drive = Conditions(text, jnp.asarray(sample["audio"][:, rows]), jnp.asarray(sample["motion"][:, rows]))
        state, block = jit_step(model, plan, params, state, drive)
        made.append(block[:, plan.chunk - len(plan.emitted(step)) :])
    return jnp.concatenate(made, 1)[:, :total]


def strips(model: DiT, plan: StreamPlan, codec: PatchCodec, codec_params, params, text, sample, seed: int = 0):
    """The true clip in the upper row, in the lower one what the stream generates from the same reference and drive.

    Args:
      sample: a batch of one; for the others see `stream`.

    Returns:
      uint8 [2, H, columns * W, 3].
    """
    shown = []
    for each in (sample["latents"], stream(model, plan, params, text, sample, seed)):
        pixels = _decode(codec, codec_params, jnp.asarray(sample["reference"]), jnp.asarray(each))
        pixels = sharding.gather(pixels)[STRIDE - 1 :]  # a stream's first latent is one frame
        picked = pixels[np.linspace(0, len(pixels) - 1, COLUMNS).round().astype(int)]
        shown.append(np.concatenate(list(picked), 1))
    return np.stack(shown)
