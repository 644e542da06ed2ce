"""How far wav2vec2 features of a live stream are from those of the whole clip, with your weights and your sound:

    python -m experiments.live_sound.mismatch wav2vec2-base-960h --model wav2vec2-base --sound speech.wav

For each left and right context (the right one is latency) prints the root mean square of the difference relative to
that of the clip's features: of what enters the first layer, of all layers together, and of the last layer, once with
the whole clip's normalisation of the wave and once with that of the sound heard so far, which is all a live stream has.
"""

import argparse

import jax
import numpy as np

import knotjax
from knotjax.bundle import SHIPPED
from knotjax.drive import FPS, FRAME, SAMPLE_RATE
from knotjax.errors import InputError
from knotjax.media import read_sound
from knotjax.models.wav2vec2_live import live_states, normalize

CONTEXTS = ((0.5, 0.0), (2.0, 0.0), (2.0, 0.2), (2.0, 0.5), (4.0, 0.2), (2.56, 2.56))
BLOCK = 12  # rows at 25 a second: three latent frames


def whole_clip(model, params, wave) -> np.ndarray:
    """Hidden states of all rows of a clip: [n] -> [L + 1, rows, C]."""
    rows = len(wave) // FRAME
    return np.asarray(jax.jit(lambda p, w: model.apply({"params": p}, w, rows))(params, normalize(wave)[None])[:, 0])


def streamed(model, params, wave, starts, left: float, right: float, own: bool) -> np.ndarray:
    """Hidden states of the blocks that begin at `starts`, each from the sound around it: [L + 1, rows, C].

    Args:
      own: normalise by the sound heard so far, right context included, and not by the whole clip.
    """
    blocks = []
    for start in starts:
        heard = wave[: round((start + BLOCK + right * FPS) * FRAME)] if own else wave
        known = normalize(wave, heard=heard)
        blocks.append(live_states(model, params, known, start, BLOCK, left=left, right=right, fps=FPS))
    return np.concatenate(blocks, 1)


def mismatch(live: np.ndarray, clip: np.ndarray) -> tuple[float, float, float]:
    """Relative root mean square of the difference: what enters the layers, all that leaves them, the last one's."""

    def relative(a, b):
        return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))

    return relative(live[0], clip[0]), relative(live[1:], clip[1:]), relative(live[-1], clip[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Live wav2vec2 features against those of the whole clip.")
    parser.add_argument("weights", help="file or folder that `knotjax.load` reads")
    parser.add_argument("--model", choices=("wav2vec2-base", "wav2vec2-large"), default="wav2vec2-base")
    parser.add_argument("--sound", default=SHIPPED.parent / "hello.wav", help="default: the bundled recording, twice")
    options = parser.parse_args()
    try:
        model, params = knotjax.load(options.model, options.weights)
        wave = np.asarray(read_sound(options.sound), np.float32)
    except InputError as error:
        raise SystemExit(str(error)) from None
    if len(wave) < 10 * SAMPLE_RATE:  # long enough that the clip's own ends are not in every window
        wave = np.tile(wave, -(-10 * SAMPLE_RATE // len(wave)))
    wave = wave[: min(len(wave), 60 * SAMPLE_RATE) // FRAME * FRAME]
    clip = whole_clip(model, params, wave)
    starts = range(0, clip.shape[1] - BLOCK + 1, BLOCK)
    seconds = len(wave) / SAMPLE_RATE
    print(f"{seconds:.1f} s of sound, blocks of {BLOCK / FPS:g} s; relative rms difference to the whole clip")
    print("| left s | right s | wave scaled by | enters the layers | leaves them | last layer |\n" + "|---" * 6 + "|")
    for left, right in CONTEXTS:
        for own in (False, True):
            live = streamed(model, params, wave, starts, left, right, own)
            figures = mismatch(live, clip[:, : live.shape[1]])
            scale = "what was heard" if own else "the clip"
            print(f"| {left:g} | {right:g} | {scale} | " + " | ".join(f"{f:.2e}" for f in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
