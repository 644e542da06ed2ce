"""The masked-inpainting fine-tune of the bidirectional teacher (Knot Forcing, Sec. 3.1).

The reference stands behind the clip, and the first frames of the clip are given at random; both are hidden at random.
The shares are ours: the paper gives none.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from knotjax.models.dit import Conditions, DiT, wide
from knotjax.streaming.noise import add_noise
from knotjax.streaming.plan import StreamPlan
from knotjax.training.clip import clip_pass, text_rows
from knotjax.training.objectives.forced import bell, shifted


@dataclasses.dataclass(frozen=True)
class InpaintingConfig:
    """What is hidden and what is given."""

    shift: float = 5.0
    bell: bool = False
    floor: float = 0.0  # the squared error of x0 is divided by (floor + sigma)^2; 0: the flow loss itself
    hide_reference: float = 0.1  # share of clips without a reference
    expose_past: float = 0.5  # share of clips whose first m frames are given, m uniform in 0 .. past
    past: int = 6
    max_lead: int = 8  # the reference stands 1 .. max_lead frames behind the last one
    blank: float = 0.1  # share of clips without words and sound, for guidance
    mouth: float = 0.0  # how much more the errors of latents at the mouth count


def inpainting_flow(
    model: DiT, plan: StreamPlan, config: InpaintingConfig, params, batch: Mapping, key, channel_weight=1.0
):
    """The flow-matching loss of a clip at one noise level, all frames looking at one another.

    Args:
      plan: says what `given` holds on frames to generate.
      params: {"dit": ..., "words": ...}.
      batch: latents [B, F, H, W, z], reference [B, 1, H, W, z], audio and motion [B, F, P, C], words (or text and
        blank_text); with `config.mouth` also mouth, bool [B, F, H, W], latents at the mouth.
      channel_weight: how much the errors of each latent channel count, [z].

    Returns:
      The loss and a dict of scalars. Given frames count too: what a knot gives is denoised a second time.
    """
    latents, keys = batch["latents"], iter(jax.random.split(key, 8))
    size, frames = latents.shape[:2]

    def chance(share):
        return jax.random.uniform(next(keys), (size,)) < share

    seen = ~chance(config.hide_reference)
    count = jnp.where(chance(config.expose_past), jax.random.randint(next(keys), (size,), 0, config.past + 1), 0)
    known = jnp.arange(frames) < count[:, None]  # [B, F]
    lead = jax.random.randint(next(keys), (size,), 1, config.max_lead + 1)
    silent = chance(config.blank)
    text, blank = text_rows(model, params, batch)
    text = jnp.where(silent[:, None, None], blank, text)
    audio = batch.get("audio")
    if audio is not None:
        audio = jnp.where(silent[:, None, None, None], 0.0, audio)
    t = shifted(1.0 - jax.random.uniform(next(keys), (size, 1), latents.dtype), config.shift)
    t = jnp.broadcast_to(t, (size, frames))
    x = add_noise(latents, jax.random.normal(next(keys), latents.shape, latents.dtype), t)
    conditions = Conditions(text, audio, batch.get("motion"))
    x0 = clip_pass(
        model, plan, params["dit"], x, t, batch["reference"], conditions,
        lead=lead, known=known, latents=latents, seen=seen,
    )  # fmt: skip
    square = channel_weight * jnp.square((x0 - latents).astype(wide(latents.dtype)))
    place = (1.0 + config.mouth * batch["mouth"])[..., None] if config.mouth else 1.0  # [B, F, H, W, 1]
    each = jnp.mean(place * square, (2, 3, 4))  # [B, F]
    weight = 1.0 / jnp.square(config.floor + t / 1000.0)
    if config.bell:
        weight = weight * bell(t, config.shift)
    loss = jnp.mean(weight * each)
    return loss, {"loss": loss, "error": jnp.mean(square)}
