"""A few-step student against the many-step sampler of its teacher, paired over held-out clips and sampling seeds.

    python -m experiments.distill.compare --teacher out/knot/teacher/weights --student out/knot/weights

The teacher solves its ODE over the whole clip at once (48 Euler steps); the student streams with its own plan. Both get
the same portrait, sound and words, and in the protocol "driven" the same motion. Both are decoded by the student's
codec, so that the networks alone are compared. A student passes when its r is lower by at most .05, its mouth box by at
most 1 dB, and it moves .8 to 1.25 times as much.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments.shipped import portrait_latent
from knotjax import bundle, drive, evaluate, portrait_stream
from knotjax.evaluation import metrics, mouth, strips, tables, tracks
from knotjax.models import motion, speech
from knotjax.pipeline import Animator
from knotjax.training.clip import Guidance
from knotjax.training.objectives.ode import ode_trajectory
from knotjax.training.samples import stream

LATENTS = 21  # of a clip: 81 frames, 3.24 s
FRAMES = drive.pixel_count(LATENTS)
AHEAD = 0.4  # seconds of sound after the clip, which its last frames hear


def sample(model: bundle.Bundle, clip, protocol: str) -> dict[str, np.ndarray]:
    """What a clip's generation is given: reference [1, h, w, z], audio and motion [F, P, C], words [2]."""
    present = np.full(len(drive.GROUPS), protocol == "driven")
    rows = speech.speech_rows(clip.wave, len(clip.frames))
    return {
        "reference": np.asarray(portrait_latent(model, clip.frames[0])[0]),
        "audio": speech.speech_windows(rows, 0, LATENTS),
        "motion": motion.motion_windows(clip.channels, present, 0, LATENTS),
        "words": clip.words if protocol == "driven" else np.zeros_like(clip.words),
    }


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _solve(denoiser, plan, steps, shift, params, batch, key):
    numbers = dict(count=steps, keep=(steps,), shift=shift, guidance=Guidance(0.0))
    return ode_trajectory(denoiser, plan, params, batch, key, **numbers)[0][:, 0]


def sampled(model: bundle.Bundle, plan, batch, steps: int, shift: float, seed: int):
    """Clips of the teacher's sampler, [B, F, h, w, z]."""
    return _solve(model.denoiser, plan, steps, shift, model.params, batch, jax.random.key(seed))


def streamed(model: bundle.Bundle, plan, batch, seed: int):
    """Clips of the streaming student, [B, F, h, w, z]."""
    shown = batch | {"latents": np.zeros((len(batch["words"]), LATENTS))}
    return stream(model.denoiser, plan, model.params["dit"], model.text(batch["words"]), shown, seed)


def video(model: bundle.Bundle, clip, latents) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of one clip's latents [F, h, w, z]."""
    codec = model.pixels, model.params["codec"]
    state = portrait_stream.open_decoder(*codec, clip.frames[0])
    _, frames = portrait_stream.decode(*codec, state, jnp.asarray(latents)[None])
    return np.asarray(frames[0, drive.STRIDE - 1 :])


def measure(model: bundle.Bundle, clip, face, latents) -> dict:
    """What one generated clip tells."""
    made, truth = video(model, clip, latents), clip.frames[:FRAMES]
    return {
        "opening": mouth.opening(made, face, clip.mouth_box[0]),
        "truth": clip.open[:FRAMES],
        "box": metrics.psnr(made, truth, clip.mouth_box[:FRAMES]),
        "whole": metrics.psnr(made, truth),
        "motion": metrics.adj_l1(made),
    }


def _r(rows) -> float:
    return tracks.correlation([row["opening"] for row in rows], [row["truth"] for row in rows])


def scores(pairs: list[list[tuple[dict, dict]]]) -> dict[str, tracks.Interval]:
    """Figures of pairs [clips][seeds] of (teacher, student), with intervals over clips."""

    def over(statistic):
        return tracks.bootstrap_ci(pairs, lambda clips: statistic([pair for clip in clips for pair in clip]))

    def mean(key, side):
        return over(lambda some: float(np.mean([pair[side][key] for pair in some])))

    def gap(key):
        return over(lambda some: float(np.mean([s[key] - t[key] for t, s in some])))

    return {
        "teacher r": over(lambda some: _r([t for t, _ in some])),
        "student r": over(lambda some: _r([s for _, s in some])),
        "r, student minus teacher": over(lambda some: _r([s for _, s in some]) - _r([t for t, _ in some])),
        "teacher box dB": mean("box", 0),
        "student box dB": mean("box", 1),
        "box dB, student minus teacher": gap("box"),
        "whole dB, student minus teacher": gap("whole"),
        "motion, student over teacher": over(
            lambda some: float(np.sum([s["motion"] for _, s in some]) / np.sum([t["motion"] for t, _ in some]))
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, metavar="DIR", help="model folder of the bidirectional teacher")
    parser.add_argument("--student", metavar="DIR", help="model folder of the student (default: the shipped one)")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=48, help="Euler steps of the teacher")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for compare.json and compare.png")
    options = parser.parse_args()
    teacher, student = bundle.load(options.teacher), bundle.load(options.student or bundle.SHIPPED)
    plan = Animator(student).plan()
    clips = evaluate.held_out(options.clips, FRAMES / drive.FPS + AHEAD)
    faces = [evaluate.calibration(clip) for clip in clips]
    results, shown = {}, [clips[0].frames[:FRAMES]]
    bar = tqdm(total=len(evaluate.PROTOCOLS) * options.seeds * len(clips), desc="clips")
    for protocol in evaluate.PROTOCOLS:
        given = [sample(student, clip, protocol) for clip in clips]
        batch = {name: np.stack([row[name] for row in given]) for name in given[0]}
        pairs = [[] for _ in clips]
        for seed in range(options.seeds):
            both = (
                sampled(teacher, plan, batch, options.steps, student.plan.get("shift", 5.0), seed),
                streamed(student, plan, batch, seed),
            )
            both = [np.asarray(latents) for latents in both]
            for number, (clip, face) in enumerate(zip(clips, faces)):
                pairs[number].append(tuple(measure(student, clip, face, latents[number]) for latents in both))
                bar.update()
            if seed == 0:
                shown += [video(student, clips[0], latents[0]) for latents in both]
        results[protocol] = scores(pairs)
    bar.close()
    print(
        f"{len(clips)} held-out clips of {FRAMES / drive.FPS:g} s, {options.seeds} seeds, {options.steps} teacher steps"
    )
    columns = {name: {protocol: row[name] for protocol, row in results.items()} for name in results["sound"]}
    print(tables.table(columns, digits=3))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        labels = ["truth", *(f"{protocol}, {who}" for protocol in results for who in ("teacher", "student"))]
        times = [round(t * drive.FPS) / drive.FPS for t in np.linspace(0.1, 3.1, 8)]
        Image.fromarray(strips.strip(shown, times, labels)).save(options.output / "compare.png")
        settings = {name: value for name, value in vars(options).items() if name in ("clips", "seeds", "steps")}
        tables.dump(options.output / "compare.json", results, settings, [clip.seed for clip in clips])


if __name__ == "__main__":
    main()
