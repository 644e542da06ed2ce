"""`knotjax evaluate`: the figures of a model on held-out procedural clips.

    knotjax evaluate                       # 24 clips of 6 s in both protocols, four streams of 20 s
    knotjax evaluate --clips 4 --long 0    # a quick look

Two protocols. *driven*: the stream gets the sound, the words, and pose, gaze, blink and expression. *sound*: it gets
the sound alone. In neither does it see the phonemes that the truth was drawn from. Identities, sentences and motion
come from seeds that no training uses; every third clip has a voice that no training uses.
"""

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from knotjax import drive
from knotjax.arguments import Parser
from knotjax.data import portraits, speech
from knotjax.data.clips import FIRST_HELD_OUT_SEED, Clip, make_clip, shows_photo
from knotjax.errors import InputError
from knotjax.evaluation import metrics, mouth, strips, tables, tracks
from knotjax.pipeline import Animator

PROTOCOLS = ("driven", "sound")
SILENT = 0.02  # a frame whose true opening, and that of its neighbours, stays below this is silent


def held_out(count: int, seconds: float) -> list[Clip]:
    """Procedural clips from held-out seeds; every third one speaks with the held-out voice."""
    clips, seed = [], FIRST_HELD_OUT_SEED
    while len(clips) < count:
        if not shows_photo(seed):
            split = "held_out" if len(clips) % 3 == 0 else "train"
            clips.append(make_clip(seed, seconds, "held_out", utterance=speech.utterance(seed, seconds, split)))
        seed += 1
    return clips


def generate(animator: Animator, clip: Clip, protocol: str, seed: int) -> tuple[np.ndarray, float]:
    """A clip's video from its first frame and its sound, and the seconds that it took."""
    words = [drive.WORDS[row] if row else None for row in clip.words]
    given = {"channels": clip.channels, "emotion": words[0], "action": words[1]} if protocol == "driven" else {}
    began = time.perf_counter()
    pieces = list(animator.stream(clip.frames[0], clip.wave, frames=len(clip.frames), seed=seed, **given))
    return np.concatenate([piece.frames for piece in pieces]), time.perf_counter() - began


def uint8(pictures) -> np.ndarray:
    """Pictures in 0 .. 1 as uint8."""
    return np.rint(np.asarray(pictures) * 255).astype(np.uint8)


def calibration(clip: Clip) -> mouth.Calibration:
    """The mouth probe's two ends, from the renderer, in the resting pose."""
    identity = portraits.sample_identity(clip.seed)
    still = np.zeros((2, len(drive.CHANNELS)), np.float32)
    ends = uint8(portraits.render(identity, still, np.array([0.0, 1.0]), np.zeros(2)))
    return mouth.calibrate(ends[0], ends[1], portraits.mouth_box(identity, still)[0])


def frozen_mouth(clip: Clip) -> np.ndarray:
    """Baseline: the mouth stays at its mean, all else is true."""
    identity, ones = portraits.sample_identity(clip.seed), np.ones(len(clip.frames), np.float32)
    return uint8(portraits.render(identity, clip.channels, clip.open.mean() * ones, clip.wide.mean() * ones))


def silent_frames(clip: Clip) -> np.ndarray:
    """Frames in the middle of silence: closed for two frames before and after as well."""
    quiet = np.pad(clip.open < SILENT, 2, mode="edge")
    return np.all([quiet[i : i + len(clip.open)] for i in range(5)], 0)


def measure(animator: Animator, clip: Clip, face: mouth.Calibration, protocol: str, seed: int) -> dict:
    """Everything that one generated clip tells."""
    video, spent = generate(animator, clip, protocol, seed)
    first = animator.plan().emitted(0)
    result = {
        "opening": mouth.opening(video, face, clip.mouth_box[0]),
        "truth": clip.open,
        "silent": silent_frames(clip),
        "real_time_factor": spent * drive.FPS / len(video),
        "motion": metrics.motion_energy_ratio(video, clip.frames),
        "boundary": metrics.boundary_ratios(
            video, period=drive.STRIDE * animator.plan().chunk, start=drive.pixel_count(len(first))
        ).excess,
        "flicker": metrics.temporal_flickering(video),
        "video": video,
    }
    if protocol == "driven":
        repeated = np.broadcast_to(clip.frames[:1], clip.frames.shape)
        others = {"frozen": frozen_mouth(clip), "repeated": repeated, "codec": animator.reconstruct(clip.frames)}
        for name, other in {"ours": video, **others}.items():
            result[f"{name} box"] = metrics.psnr(other, clip.frames, clip.mouth_box)
            result[f"{name} whole"] = metrics.psnr(other, clip.frames)
    return result


def mouth_scores(results: list[dict]) -> dict[str, tracks.Interval]:
    """Figures of the mouth's movement, pooled over clips."""

    def pooled(function, other):
        return tracks.bootstrap_ci(
            results, lambda some: function([c["opening"] for c in some], [c[other] for c in some])
        )

    lags = [tracks.best_lag(c["opening"], c["truth"]) == 0 for c in results]
    return {
        "r": pooled(tracks.correlation, "truth"),
        "lag 0": tracks.bootstrap_ci(lags),
        "gain": pooled(tracks.gain, "truth"),
        "in silence": pooled(tracks.silence_opening, "silent"),
        "motion ratio": tracks.bootstrap_ci([c["motion"] for c in results]),
        "boundary": tracks.bootstrap_ci([c["boundary"] for c in results]),
        "flicker": tracks.bootstrap_ci([c["flicker"] for c in results]),
    }


def likeness_scores(results: list[dict]) -> dict[str, dict[str, tracks.Interval]]:
    """PSNR of the driven clips and of what they are compared with, and the paired lead over each baseline."""
    names = {
        "ours": "ours",
        "codec": "codec alone",
        "frozen": "mouth frozen at its mean, all else true",
        "repeated": "reference repeated",
    }
    rows = {}
    for key, label in names.items():
        rows[label] = {
            f"{part} dB": tracks.bootstrap_ci([c[f"{key} {part}"] for c in results]) for part in ("box", "whole")
        }
        if key != "ours":
            for part in ("box", "whole"):
                leads = [c[f"ours {part}"] - c[f"{key} {part}"] for c in results]
                rows[label][f"ours minus it, {part}"] = tracks.bootstrap_ci(leads)
    return rows


def drift_scores(animator: Animator, clips: list[Clip], protocol: str) -> dict[str, tracks.Interval]:
    """Colour drift and sharpness of long streams that live on their own history."""
    drifts, faces, sharp = [], [], []
    for number, clip in enumerate(clips):
        video, _ = generate(animator, clip, protocol, number)
        inner = ndimage.binary_erosion(clip.stable, iterations=6)  # a freely moving head may leave the true one's place
        drifts.append(metrics.colour_drift(video, clip.frames, inner))
        left, top, right, bottom = clip.mouth_box[0]
        faces.append(metrics.face_drift(video, clip.frames, (left, max(0, 2 * top - bottom), right, top)))
        sharp.append(metrics.sharpness_drift(video))
    return {
        "dE first fifth": tracks.bootstrap_ci([d.first for d in drifts]),
        "dE last fifth": tracks.bootstrap_ci([d.last for d in drifts]),
        "drift": tracks.bootstrap_ci([d.drift for d in drifts]),
        "worst drift": max(d.drift for d in drifts),
        "face, first fifth": tracks.bootstrap_ci([d.first for d in faces]),
        "face drift": tracks.bootstrap_ci([d.drift for d in faces]),
        "worst face drift": max(d.drift for d in faces),
        "sharpness": tracks.bootstrap_ci(sharp),
    }


def write_pictures(folder: Path, clip: Clip, results: dict[str, dict]) -> None:
    """A strip of stills and a plot of the mouth for one clip."""
    seconds = len(clip.frames) / drive.FPS
    times = [round(t * drive.FPS) / drive.FPS for t in np.linspace(0.12 * seconds, 0.9 * seconds, 8)]
    rows = {"reference": clip.frames[:1], "truth": clip.frames} | {name: r["video"] for name, r in results.items()}
    sheet = strips.strip(list(rows.values()), times, list(rows))
    Image.fromarray(sheet).save(folder / "strip.png")
    for name, result in results.items():
        strips.plot_opening(folder / f"mouth_{name}.png", clip.open, result["opening"], f"{name}: {clip.text}")


def main(argv: list[str]) -> None:
    """Entry of `knotjax evaluate`; `argv` holds the arguments after the command's name."""
    parser = Parser(prog="knotjax evaluate", description="Measure a model on held-out clips.")
    parser.add_argument("--weights", metavar="DIR", help="model folder (default: the model that comes along)")
    parser.add_argument("--clips", type=int, default=24, help="held-out clips (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each (default: %(default)s)")
    parser.add_argument(
        "--long", type=float, default=20.0, help="length of the drift streams, 0 for none (default: 20)"
    )
    parser.add_argument("--streams", type=int, default=4, help="number of drift streams (default: %(default)s)")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="folder for results.json, strip.png and plots")
    options = parser.parse_args(argv)
    if options.clips < 1 or options.seconds < 2.0 or options.long < 0.0 or options.streams < 1:
        raise InputError("evaluate: needs at least one clip of 2 s and one stream; see knotjax evaluate --help")
    animator = Animator.load(options.weights)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    clips = held_out(options.clips, options.seconds)
    generate(animator, clips[0], "sound", 0)  # compiles
    results = {protocol: [] for protocol in PROTOCOLS}
    for number, clip in enumerate(tqdm(clips, desc="clips", file=sys.stderr)):
        face = calibration(clip)
        for protocol in PROTOCOLS:
            result = measure(animator, clip, face, protocol, number)
            if number:
                result.pop("video")
            results[protocol].append(result)

    mouths = {protocol: mouth_scores(rows) for protocol, rows in results.items()}
    likeness = likeness_scores(results["driven"])
    factor = tracks.bootstrap_ci([c["real_time_factor"] for rows in results.values() for c in rows])
    print(f"\n{len(clips)} held-out clips of {options.seconds:g} s; mean and 95 % bootstrap interval over clips\n")
    print(tables.table(mouths, title="mouth"))
    print(tables.table(likeness, title="driven, PSNR"))
    print(f"real-time factor {factor.mean:.3f} (steps {len(animator.plan().timesteps)})\n")
    drifts = {}
    if options.long:
        streams = held_out(options.streams, options.long)
        drifts = {protocol: drift_scores(animator, streams, protocol) for protocol in PROTOCOLS}
        regions = "CIE76 on wall and shirt, and of the mean of nose and cheeks"
        print(f"{options.streams} streams of {options.long:g} s, {regions}\n")
        print(tables.table(drifts, title="drift"))
    if options.output:
        write_pictures(options.output, clips[0], {protocol: rows[0] for protocol, rows in results.items()})
        document = {"mouth": mouths, "likeness": likeness, "drift": drifts, "real_time_factor": factor}
        settings = {name: value for name, value in vars(options).items() if name not in ("output", "weights")}
        tables.dump(options.output / "results.json", document, settings, [clip.seed for clip in clips])
