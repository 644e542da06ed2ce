"""Changing words or portrait in the middle of a stream.

Words that are passed to `stream_step` count from that step on; what is in the context keeps the words that it was made
with. Three policies, from cheap to thorough:

  keep: pass the new words, and do nothing else.
  anchor: also encode the reference anew (one frame-pass), with the new words or as another picture.
  recache: also encode the frames of the ring anew, in one forward at t = 0 (LongLive, Sec. 3.2); the plan must keep
    what they were made from (`StreamPlan.recache`).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from knotjax.models.dit import Conditions, DiT
from knotjax.streaming import cache, passes
from knotjax.streaming.cache import KeyValues
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import StreamState, ring_valid
from knotjax.streaming.step import before


def switch(
    model: DiT, plan: StreamPlan, params, state: StreamState, text, reference=None, *, recache: bool = False
) -> StreamState:
    """The state after a change of words or portrait; the next step is the first to show it.

    Args:
      text: [B, T, text_dim], the new words, which the next steps get too.
      reference: [B, 1, H, W, z], the latent of the new portrait; None keeps the old one.
      recache: encode the past anew, as a clean pass would. All frames of the ring see one another, as in public code;
        a sink and a memory stay as they are.

    Raises:
      ValueError: recache, but the plan does not keep what the past was made from.
    """
    if recache and not plan.recache:
        raise ValueError("recache: this plan does not keep what the past was made from; set its field recache")
    if reference is not None:
        state = dataclasses.replace(state, reference=reference.astype(state.reference.dtype))
    if plan.anchor.source == "reference":
        k, v = passes.anchor_pass(model, params, state.reference, text)
        state = dataclasses.replace(state, anchor=KeyValues(k[:, None], v[:, None]))
    if not (recache and state.ring.frames):
        return state

    batch = len(state.block)
    age = cache.ages(state.ring.frames, state.written)
    valid = ring_valid(plan, state, plan.ring_budget)
    contexts = before(plan, state, valid, jnp.zeros((), jnp.int32), jnp.zeros(batch, jnp.int32), commit=True)
    heard = Conditions(text, state.past.audio, state.past.motion)
    position = jnp.broadcast_to(age, (batch, len(age)))
    # A stream that has emitted nothing has no valid frame; its slots then look at themselves, and nobody at them.
    seen = valid | ~jnp.any(valid, 1, keepdims=True)
    k, v = passes.commit_pass(model, plan, params, state.past.latents, state.reference, position, heard, contexts, seen)
    return dataclasses.replace(state, ring=KeyValues(k[:, None], v[:, None]))


@partial(jax.jit, static_argnums=(0, 1), static_argnames="recache", donate_argnums=(3,))
def jit_switch(model, plan, params, state, text, reference=None, *, recache=False) -> StreamState:
    """`switch`, compiled, with the state updated in place."""
    return switch(model, plan, params, state, text, reference, recache=recache)
