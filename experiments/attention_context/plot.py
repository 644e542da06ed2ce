"""Two pictures beside this file: context_iou.png of every method's plan, contribution.png of the shipped model.

python experiments/attention_context/plot.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import pipeline
from knotjax.evaluate import held_out
from knotjax.evaluation import attention_context as ac
from knotjax.evaluation.frame_contribution import MEMORY, frame_contributions
from knotjax.pipeline import Animator
from knotjax.streaming.methods import METHODS

FOLDER = Path(__file__).parent
FRAMES = 48  # latent frames
METHODS_SHOWN = ("knot_forcing", "live_act", "rolling_forcing", "live_avatar")
STEP = 6


def context_iou(plan) -> np.ndarray:
    """Over the first frames of a stream, or one clip of a plan without a past."""
    steps = plan.steps(FRAMES + plan.span) if plan.commit != "none" else plan.blocks
    return ac.context_iou(ac.emitted_context(ac.visible(plan, steps))[:FRAMES])


def contributions(animator: Animator, clip, name: str) -> dict[str, float]:
    """Of the frames that the oldest frame of step STEP sees."""
    plan, step, kept = animator.plan(name), pipeline.jit_step, []

    def spy(model, plan, params, state, drive):
        kept.append((model, plan, params, jax.tree.map(jnp.copy, state) if len(kept) == STEP else None, drive))
        return step(model, plan, params, state, drive)

    pipeline.jit_step = spy
    try:
        for _ in animator.stream(clip.frames[0], clip.wave, 4 * plan.chunk * (STEP + 2), plan=plan):
            if len(kept) > STEP:
                break
    finally:
        pipeline.jit_step = step
    model, plan, params, state, drive = kept[STEP]
    first = plan.first_frame(STEP)
    names = {ac.REFERENCE: "portrait", MEMORY: "memory"}
    scores = frame_contributions(model, plan, params, state, drive)
    return {names.get(frame, f"{frame - first:+d}" if frame != first else "itself"): s for frame, s in scores.items()}


def main() -> None:
    ac.plot_context_iou(FOLDER / "context_iou.png", {name: context_iou(make()) for name, make in METHODS.items()})
    animator, clip = Animator.load(), held_out(1, 6.0)[0]
    series = {name: contributions(animator, clip, name) for name in METHODS_SHOWN}
    for name, scores in series.items():
        print(name, {frame: round(score, 3) for frame, score in scores.items()}, flush=True)
    ac.plot_contributions(FOLDER / "contribution.png", series)


if __name__ == "__main__":
    main()
