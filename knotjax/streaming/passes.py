"""The three kinds of forward pass that every system and every training objective is made of."""

import jax.numpy as jnp

from knotjax.models.dit import Conditions, Context, DiT, undriven
from knotjax.streaming.noise import to_x0
from knotjax.streaming.plan import StreamPlan


def anchor_pass(model: DiT, params, reference, text):
    """Keys and values of the reference, which sees only itself, at t = 0, with nothing driving it.

    Args:
      reference: [B, 1, H, W, z].
      text: [B, T, text_dim], text rows of the stream.

    Returns:
      k, v [L, B, 1, N, S, D]. They do not depend on where the reference stands in time.
    """
    still = jnp.zeros(reference.shape[:2], jnp.int32)
    conditions = undriven(model.config, text, 1)
    zero = still.astype(reference.dtype)
    return model.apply({"params": params}, reference, reference, zero, zero, still, conditions)[1]


def unknown_given(plan: StreamPlan, reference, frames: int):
    """What `given` holds on frames to generate: [B, frames, H, W, z]."""
    filled = jnp.broadcast_to(reference, (reference.shape[0], frames, *reference.shape[2:]))
    return filled if plan.given_reference else jnp.zeros_like(filled)


def denoise_pass(
    model: DiT,
    plan: StreamPlan,
    params,
    x,
    t,
    reference,
    knot,
    knot_valid,
    position,
    conditions: Conditions,
    contexts: tuple[Context, ...],
    valid=None,
):
    """One denoising pass over a window and its knot.

    Args:
      x: [B, F, H, W, z], noisy latents.
      t: [B, F].
      reference: [B, 1, H, W, z].
      knot: [B, k, H, W, z], clean latents that the previous block predicted for the first k frames.
      knot_valid: bool [B], whether there is a previous block.
      position: int32 [B, F].
      contexts: tuple of `Context`.
      valid: bool [B, F], frames that exist, or None when all do.

    Returns:
      The clean estimate [B, F, H, W, z], and the frames' own k, v [L, B, F, N, S, D].
    """
    frames, k = x.shape[1], knot.shape[1]
    given = unknown_given(plan, reference, frames)
    known = knot_valid[:, None, None, None, None]
    given = jnp.concatenate([jnp.where(known, knot, given[:, :k]), given[:, k:]], 1)
    mask = 1 - (knot_valid[:, None] & (jnp.arange(frames) < k)).astype(x.dtype)  # [B, F]
    out, kv = model.apply({"params": params}, x, given, mask, t, position, conditions, contexts, valid)
    return to_x0(out, x, t, model.config.prediction), kv


def commit_pass(
    model: DiT,
    plan: StreamPlan,
    params,
    x0,
    reference,
    position,
    conditions: Conditions,
    contexts: tuple[Context, ...],
    valid=None,
):
    """Keys and values of finished frames, at t = 0, marked as to generate (as in training).

    Returns:
      k, v [L, B, F, N, S, D].
    """
    given = unknown_given(plan, reference, x0.shape[1])
    ones = jnp.ones(x0.shape[:2], x0.dtype)
    return model.apply({"params": params}, x0, given, ones, 0 * ones, position, conditions, contexts, valid)[1]
