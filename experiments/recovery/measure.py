"""How far healthy frames of the shipped model lie from their past and from their reference, and frames with a fault.

python experiments/recovery/measure.py [METHOD ...]
"""

import sys

import jax
import numpy as np

from knotjax import pipeline
from knotjax.evaluate import held_out
from knotjax.pipeline import Animator
from knotjax.streaming import recovery


def emitted(animator: Animator, clip, plan) -> tuple[np.ndarray, list]:
    """The reference and the latents of every step of a clip."""
    kept, step = [], pipeline.jit_step

    def spy(*args):
        state, latents = step(*args)
        kept.append((np.array(state.reference), np.array(latents)))
        return state, latents

    pipeline.jit_step = spy
    try:
        for _ in animator.stream(clip.frames[0], clip.wave, len(clip.frames), plan=plan):
            pass
    finally:
        pipeline.jit_step = step
    steps = [latents[:, plan.chunk - len(plan.emitted(n)) :] for n, (_, latents) in enumerate(kept)]
    return kept[0][0], [latents for latents in steps if latents.shape[1]]


def offsets(reference, blocks) -> tuple[float, float, float]:
    """Largest step, drift and size (see `recovery.Limits`) of some blocks in order."""
    record, most = recovery.observe(reference), np.zeros(3)
    for block in blocks:
        off = (block - np.asarray(record.mean)) / np.asarray(record.spread)
        mean = off.mean((2, 3))
        recent = np.asarray((record.recent - record.mean) / record.spread)[:, None]
        step, drift = (np.abs(a).mean(-1).max() for a in (mean - recent, mean))
        most = np.maximum(most, (step, drift, np.abs(off).max()))
        record, _ = recovery.jit_check(record, block, np.ones(block.shape[:2], bool))
    return tuple(most)


def line(offsets) -> str:
    return "step {:.3f} drift {:.3f} size {:.1f}".format(*offsets)


def main(names) -> None:
    animator = Animator.load()
    clips = held_out(2, 4.0)
    codec, params = animator.model.pixels, animator.model.params["codec"]
    for name in names or ["knot_forcing", "rolling_forcing", "live_act"]:
        plan = animator.plan(name)
        for clip in clips:
            reference, blocks = emitted(animator, clip, plan)
            print(name, "healthy:", line(offsets(reference, blocks)), flush=True)
    for clip in clips:
        for change in (10, 20, 40):  # grey levels of one colour
            tinted = clip.frames[0].astype(np.int16)
            tinted[..., 0] += change
            plain, other = (
                np.asarray(pipeline._open(codec, params, np.clip(p, 0, 255).astype(np.uint8)).portrait)[:, None]
                for p in (clip.frames[0], tinted)
            )
            print(f"red +{change} of 255:", line(offsets(plain, [other])), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(sys.argv[1:])
