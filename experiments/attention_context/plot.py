"""Two pictures beside this file: context_iou.png of every method's plan, contribution.png of the shipped model.

python -m experiments.attention_context.plot [METHOD ...]
"""

import sys
from pathlib import Path

import numpy as np

from experiments.shipped import steps
from knotjax.evaluate import held_out
from knotjax.evaluation import attention_context as ac
from knotjax.evaluation.frame_contribution import MEMORY, frame_contributions
from knotjax.pipeline import Animator
from knotjax.streaming.methods import METHODS

FOLDER = Path(__file__).parent
FRAMES = 48  # latent frames
STEP = 6


def context_iou(plan) -> np.ndarray:
    """Over the first frames of a stream, or one clip of a plan without a past."""
    count = plan.steps(FRAMES + plan.span) if plan.commit != "none" else plan.blocks
    return ac.context_iou(ac.emitted_context(ac.visible(plan, count))[:FRAMES])


def contributions(animator: Animator, clip, name: str) -> dict[str, float]:
    """Of the frames that the oldest frame of step STEP sees."""
    plan, model = animator.plan(name), animator.model
    *_, (state, heard, _) = steps(model, plan, clip.frames[0], clip.wave, STEP + 1)
    first = plan.first_frame(STEP)
    names = {ac.REFERENCE: "portrait", MEMORY: "memory", first: "itself"}
    scores = frame_contributions(model.denoiser, plan, model.params["dit"], state, heard)
    return {names.get(frame, f"{frame - first:+d}"): score for frame, score in scores.items()}


def main(shown) -> None:
    ac.plot_context_iou(FOLDER / "context_iou.png", {name: context_iou(make()) for name, make in METHODS.items()})
    animator, clip = Animator.load(), held_out(1, 6.0)[0]
    series = {}
    for name in shown or ["knot_forcing"]:
        series[name] = contributions(animator, clip, name)
        print(name, {frame: round(score, 3) for frame, score in series[name].items()}, flush=True)
    ac.plot_contributions(FOLDER / "contribution.png", series)


if __name__ == "__main__":
    main(sys.argv[1:])
