"""How much every frame in view contributes to the attention of a running step (Knot Forcing, Fig. 5), of any model."""

from unittest import mock

import jax
import numpy as np

from knotjax.evaluation.attention_context import REFERENCE, contribution
from knotjax.models import dit
from knotjax.models.dit import Conditions, DiT
from knotjax.streaming import cache
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import StreamState
from knotjax.streaming.step import stream_step

MEMORY = -2  # stands for compressed frames


def key_frames(plan: StreamPlan, state: StreamState) -> np.ndarray:
    """Frame behind each group of keys of a denoising pass, int [span + anchor + memory + ring], of the first stream.

    They are named by their numbers, `REFERENCE` or `MEMORY`.
    """
    first = int(plan.first_frame(state.block[0]))
    own = np.arange(first, first + plan.span)
    held = [REFERENCE] if plan.anchor.source == "reference" else int(state.since[0]) + np.arange(state.anchor.frames)
    ring = first + np.asarray(cache.ages(state.ring.frames, state.written)) if state.ring.frames else []
    return np.concatenate([own, held, [MEMORY] * state.memory.frames, ring]).astype(int)


def frame_contributions(
    model: DiT, plan: StreamPlan, params, state: StreamState, drive: Conditions, frame: int = 0
) -> dict[int, float]:
    """Contribution of every frame in view to one frame, in the last denoising pass of the next step.

    Args:
      state: of a stream that is past its first block; it is left as it is.
      drive: of the next step.
      frame: which frame of the window, 0 the oldest.

    Returns:
      Scores by `key_frames` in rising order: the L2 norm of what is missing in the attention output without the frame,
      over that of the output (see `attention_context.contribution`), as the mean over layers.
    """
    seen, attend = [], dit.attend

    def watched(q, k, v, valid=None, *args, **kwargs):
        if valid is not None and not isinstance(q, jax.core.Tracer):  # self-attention; words have no validity
            seen.append([np.asarray(a[0]) for a in (q, k, v, valid)])
        return attend(q, k, v, valid, *args, **kwargs)

    with mock.patch.object(dit, "attend", watched), jax.disable_jit():  # loops run as Python's, on numbers
        stream_step(model, plan, params, state, drive)
    layers = model.config.layers
    calls = seen[(plan.passes - 1) * layers : plan.passes * layers]
    frames = key_frames(plan, state)
    total: dict[int, float] = {}
    for q, k, v, valid in calls:  # [Q, N, D], [K, N, D], [K, N, D], [K]
        tokens = len(k) // len(frames)
        names = np.repeat(frames, tokens)[valid]
        k, v = (a[valid].astype(np.float64).transpose(1, 0, 2) for a in (k, v))  # [N, K, D]
        q = q[frame * tokens : (frame + 1) * tokens].astype(np.float64).transpose(1, 0, 2)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        for name, score in contribution(weights / weights.sum(-1, keepdims=True), v, names).items():
            total[name] = total.get(name, 0.0) + score / layers
    return total
