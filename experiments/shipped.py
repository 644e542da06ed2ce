"""Streams of the shipped model, step by step, for measurements that look inside."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from knotjax import drive
from knotjax.bundle import Bundle
from knotjax.models import motion, speech
from knotjax.models.dit import Conditions
from knotjax.models.pixels import to_float
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import StreamState
from knotjax.streaming.step import jit_init, jit_step


def portrait_latent(model: Bundle, picture) -> jax.Array:
    """Latent [1, 1, H, W, z] of a picture uint8 [size, size, 3]."""
    return model.pixels.init_decode(model.params["codec"], to_float(picture)[None]).portrait[:, None]


def steps(
    model: Bundle, plan: StreamPlan, picture, wave, count: int
) -> Iterator[tuple[StreamState, Conditions, jax.Array]]:
    """The first steps of a stream that hears a sound: state and drive of each, and what it emits [1, c, H, W, z].

    The state is used up by the next step; copy what is kept.
    """
    dit = model.params["dit"]
    text = model.text(jnp.asarray(drive.word_ids())[None])
    state = jit_init(
        model.denoiser, plan, dit, portrait_latent(model, picture), text, jax.random.split(jax.random.key(0), 1)
    )
    rows = speech.speech_rows(wave, len(wave) // speech.FRAME + 2)
    for step in range(count):
        first = plan.first_frame(step)
        sound = jnp.asarray(speech.speech_windows(rows, first, plan.span)[None])
        still = jnp.asarray(motion.motion_windows(*motion.NOTHING, first, plan.span)[None])
        heard, before = Conditions(text, sound, still), jax.tree.map(jnp.copy, state)
        state, latents = jit_step(model.denoiser, plan, dit, state, heard)
        yield before, heard, latents
