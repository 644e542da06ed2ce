"""Writes the bundled speech and portrait again: `python -m knotjax.data.make_fixtures` (needs espeak-ng)."""

from pathlib import Path

import numpy as np
from PIL import Image

from knotjax.data import portraits, speech
from knotjax.drive import CHANNELS, SAMPLE_RATE

ASSETS = Path(speech.__file__).parents[1] / "assets"
PORTRAIT_SEED = 1_000_020
_SPOKEN = {
    "bilabials": ("en-us+f2", 150, 55, 0.6, "My baby puppy may hop. Bob, buy Pam a map! Maybe Mabel mopped a lamp."),
    "questions": ("en-gb+m3", 170, 45, 0.8, "Where is the blue moose? Did you hear that? Why would anyone sing now?"),
    "vowels": ("en-gb-scotland+f4", 140, 40, 0.4, "Far from the calm harbour, two cool owls saw a bird. Oh, who knew?"),
    "story": (
        "en-029+m5", 180, 60, 0.25, "The teacher brought five yellow cups. Then everybody laughed, and we went home.",
    ),
    "held_out_a": (
        speech.HELD_OUT_VOICE, 155, 50, 0.7, "Good morning! My mother bought a purple umbrella by the beach.",
    ),
    "held_out_b": (
        speech.HELD_OUT_VOICE, 175, 35, 0.5, "Please watch the puppy, Joe. We have a path to the farm before noon.",
    ),
    "hello": (
        "en-us+f3", 160, 50, 0.7,
        "Hello, I am knotjax! Give me one picture and a voice, and the picture will speak. "
        "I start moving while you are still talking.",
    ),
}  # fmt: skip


def make(name: str) -> speech.Utterance:
    """One bundled utterance, with 0.3 s of silence before and after."""
    voice, rate, pitch, peak, text = _SPOKEN[name]
    said = speech.synthesize(text, voice, rate, pitch)
    margin = round(0.3 * SAMPLE_RATE)
    wave = np.pad(said.wave * np.float32(peak / np.abs(said.wave).max()), margin)
    phonemes = ((0.0, ""), *((start + margin / SAMPLE_RATE, ipa) for start, ipa in said.phonemes))
    return speech.Utterance(wave, phonemes, text, voice)


def portrait() -> np.ndarray:
    """The bundled portrait, of a held-out identity: uint8 [128, 128, 3]."""
    smiling = np.zeros((1, len(CHANNELS)), np.float32)
    smiling[0, CHANNELS.index("smile")] = 0.35
    picture = portraits.render(portraits.sample_identity(PORTRAIT_SEED), smiling, np.zeros(1), np.zeros(1))[0]
    return np.rint(picture * 255).astype(np.uint8)


def main() -> None:
    speech.FIXTURE_FOLDER.mkdir(exist_ok=True)
    ASSETS.mkdir(exist_ok=True)
    for name in _SPOKEN:
        path = ASSETS / "hello.wav" if name == "hello" else speech.FIXTURE_FOLDER / f"{name}.flac"
        said = make(name)
        speech.save_recording(path, said)
        print(f"{path.name}: {said.seconds:.2f} s, {path.stat().st_size / 1000:.0f} kB, {said.voice}: {said.text}")
    Image.fromarray(portrait()).save(ASSETS / "portrait.png")


if __name__ == "__main__":
    main()
