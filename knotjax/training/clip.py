"""A clip at once, every frame looking at every other: how the teacher is trained, and how teacher and critic score.

The reference stands `lead` frames behind the clip's last frame, at t = 0, given, and sees only itself; it is no frame
of the clip and no part of any loss (Knot Forcing, Sec. 3.1; the papers leave its place in scoring open).
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from knotjax.drive import WORDS
from knotjax.models.dit import Conditions, Context, DiT
from knotjax.models.text import WordTable
from knotjax.streaming import passes
from knotjax.streaming.noise import to_x0
from knotjax.streaming.plan import StreamPlan


def text_rows(model: DiT, params, batch: Mapping):
    """Text rows of a batch, and those of saying nothing, each [B, T, text_dim].

    Args:
      params: {"dit": ..., "words": ...}; without a word table the batch holds `text` and `blank_text` themselves.
      batch: words int32 [B, T], or text and blank_text [B, T, text_dim].
    """
    if "words" not in params:
        return batch["text"], batch["blank_text"]
    table = WordTable(len(WORDS), model.config.text_dim)
    return tuple(table.apply({"params": params["words"]}, w) for w in (batch["words"], 0 * batch["words"]))


def clip_pass(
    model: DiT,
    plan: StreamPlan,
    params,
    x,
    t,
    reference,
    conditions: Conditions,
    *,
    lead=1,
    known=None,
    latents=None,
    seen=None,
):
    """The clean estimate of a clip.

    Args:
      plan: says what `given` holds on frames to generate.
      params: of the DiT.
      x: [B, F, H, W, z], noisy latents.
      t: [B, F].
      reference: [B, 1, H, W, z].
      lead: frames from the last frame to the reference, an int or int [B].
      known: bool [B, F], frames whose `latents` [B, F, H, W, z] are given, or None. Their noisy latents stay noisy.
      seen: bool [B], whether the reference can be seen; None: it can.

    Returns:
      [B, F, H, W, z].
    """
    batch, frames = t.shape
    k, v = passes.anchor_pass(model, params, reference, conditions.text)
    place = jnp.broadcast_to(jnp.asarray(frames - 1 + lead, jnp.int32), (batch,))[:, None]
    exists = jnp.ones((batch, 1), bool) if seen is None else seen[:, None]
    given, mask = passes.unknown_given(plan, reference, frames), jnp.ones_like(t)
    if seen is not None:
        given = jnp.where(seen[:, None, None, None, None], given, 0.0)
    if known is not None:
        given = jnp.where(known[..., None, None, None], latents, given)
        mask = 1 - known.astype(t.dtype)
    position = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.int32), t.shape)
    contexts = (Context(k, v, place, exists),)
    out, _ = model.apply({"params": params}, x, given, mask, t, position, conditions, contexts)
    return to_x0(out, x, t, model.config.prediction)


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of the teacher."""

    scale: float = 3.0  # g in cond + g (cond - uncond); uncond has neither words nor sound (Self Forcing: 3)
    branches: tuple[float, float] | None = (
        None  # s_t, s_a in uncond + s_t (words - uncond) + s_a (all - words): LiveTalk
    )


def guided(predict: Callable[[Conditions], jnp.ndarray], conditions: Conditions, blank_text, guidance: Guidance):
    """A guided clean estimate, in two or three forwards. Motion channels are the same in all of them.

    Args:
      predict: from conditions to the clean estimate.
      blank_text: [B, T, text_dim], text rows of saying nothing (or the negative prompt).
    """
    full = predict(conditions)
    if guidance.branches is None and not guidance.scale:
        return full
    silence = None if conditions.audio is None else jnp.zeros_like(conditions.audio)
    blank = predict(Conditions(blank_text, silence, conditions.motion))
    if guidance.branches is None:
        return full + guidance.scale * (full - blank)
    by_text, by_audio = guidance.branches
    words = predict(Conditions(conditions.text, silence, conditions.motion))
    return blank + by_text * (words - blank) + by_audio * (full - words)
