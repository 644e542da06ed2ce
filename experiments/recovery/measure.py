"""How far healthy frames of the shipped model lie from their past and from their reference, and frames with a fault.

python -m experiments.recovery.measure [METHOD ...]
"""

import sys

import numpy as np

from experiments.shipped import portrait_latent, steps
from knotjax import drive
from knotjax.evaluate import held_out
from knotjax.pipeline import Animator
from knotjax.streaming import recovery


def emitted(animator: Animator, clip, plan) -> list[np.ndarray]:
    """The latents of every step of a clip that emits some."""
    count = plan.steps(drive.latent_count(len(clip.frames)))
    blocks = []
    for n, (_, _, latents) in enumerate(steps(animator.model, plan, clip.frames[0], clip.wave, count)):
        if plan.emitted(n):
            blocks.append(np.asarray(latents)[:, plan.chunk - len(plan.emitted(n)) :])
    return blocks


def offsets(reference, blocks) -> str:
    """Largest step, drift and size (see `recovery.Limits`) of some blocks in order."""
    record, most = recovery.observe(reference), np.zeros(3)
    for block in blocks:
        off = (block - np.asarray(record.mean)) / np.asarray(record.spread)
        mean = off.mean((2, 3))
        recent = np.asarray((record.recent - record.mean) / record.spread)[:, None]
        step, drift = (np.abs(a).mean(-1).max() for a in (mean - recent, mean))
        most = np.maximum(most, (step, drift, np.abs(off).max()))
        record, _ = recovery.jit_check(record, block, np.ones(block.shape[:2], bool))
    return "step {:.3f} drift {:.3f} size {:.1f}".format(*most)


def main(names) -> None:
    animator = Animator.load()
    clips = held_out(2, 4.0)
    references = [np.asarray(portrait_latent(animator.model, clip.frames[0])) for clip in clips]
    for name in names or ["knot_forcing", "rolling_forcing", "live_act"]:
        plan = animator.plan(name)
        for clip, reference in zip(clips, references):
            print(name, "healthy:", offsets(reference, emitted(animator, clip, plan)), flush=True)
    for clip, reference in zip(clips, references):
        for change in (10, 20, 40):
            tinted = clip.frames[0].astype(np.int16)
            tinted[..., 0] += change
            other = portrait_latent(animator.model, np.clip(tinted, 0, 255).astype(np.uint8))
            print(f"red +{change} of 255:", offsets(reference, [np.asarray(other)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
