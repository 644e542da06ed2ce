"""Speech with known phoneme times: synthesised by espeak-ng, or read from a recording and its phoneme file."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from knotjax.data import espeak
from knotjax.data.mouth import mouth_track
from knotjax.data.sentences import sentence
from knotjax.drive import SAMPLE_RATE
from knotjax.errors import InputError

__all__ = [
    "FIXTURES",
    "HELD_OUT_VOICE",
    "TRAIN_VOICES",
    "Utterance",
    "load_fixture",
    "load_recording",
    "mouth_track",
    "save_recording",
    "sentence",
    "synthesize",
    "utterance",
]

_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m8", "f1", "f2", "f3", "f4", "f5")
TRAIN_VOICES = tuple(f"{accent}+{variant}" for accent in _ACCENTS for variant in _VARIANTS)
HELD_OUT_VOICE = "en-gb-x-rp+m7"  # neither its accent nor its variant is among the training voices

FIXTURE_FOLDER = Path(__file__).parent / "fixtures"
FIXTURES = ("bilabials", "questions", "vowels", "story", "held_out_a", "held_out_b")
_SALT = 7_364_151  # keeps this module's draws apart from others made from the same seed
_CLOSURE_SECONDS = 0.09
_SILENT = 16  # of 32768: espeak's closures are digital silence, or nearly


@dataclass(frozen=True)
class Utterance:
    """Sound with its phonemes.

    `wave` is float32 [n] at 16 kHz in [-1, 1]. `phonemes` are (start in seconds, IPA string) in order of time, each
    lasting until the next; an empty string is a pause.
    """

    wave: np.ndarray
    phonemes: tuple[tuple[float, str], ...]
    text: str
    voice: str

    @property
    def seconds(self) -> float:
        return len(self.wave) / SAMPLE_RATE


def _closures_included(wave: np.ndarray, hertz: int, events: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Phoneme starts with p, t and k beginning at their closure: espeak reports their release, 30 to 60 ms later."""
    loud = np.abs(wave.astype(np.int32)) > _SILENT
    moved: list[tuple[int, str]] = []
    for start, ipa in events:
        if ipa[:1] and ipa[0] in "ptk" and moved and moved[-1][1]:
            earliest = max(moved[-1][0] + 1, start - round(_CLOSURE_SECONDS * hertz), 0)
            sounding = np.flatnonzero(loud[earliest:start])
            start = min(start, earliest + int(sounding[-1]) + 1) if len(sounding) else earliest
        moved.append((start, ipa))
    return moved


def synthesize(text: str, voice: str = "en-us+m3", rate: int = 160, pitch: int = 50) -> Utterance:
    """Say `text` with espeak-ng; equal arguments give equal samples.

    Args:
      text: English text.
      voice: accent and variant, such as one of `TRAIN_VOICES`.
      rate: words per minute, 80..450.
      pitch: 0..100.

    Raises:
      InputError: espeak-ng is missing, it does not know the voice, or a number is out of range.
    """
    wave, hertz, events = espeak.speak(text, voice, rate, pitch)
    phonemes = tuple((start / hertz, ipa) for start, ipa in _closures_included(wave, hertz, events))
    sound = soxr.resample(wave.astype(np.float32) / 32768, hertz, SAMPLE_RATE) if len(wave) else np.zeros(0)
    return Utterance(np.clip(sound, -1, 1).astype(np.float32), phonemes, text, voice)


def utterance(seed: int, seconds: float, split: str = "train") -> Utterance:
    """Several sentences by one speaker, the same for the same seed.

    The sound starts with 0.2 to 0.5 s of silence, has pauses of 0.2 to 1.2 s, and a peak of 0.2 to 0.9; it is cut (with
    a 10 ms fade) at exactly round(seconds * 16000) samples.

    Args:
      seed: not negative; voice, rate, pitch, sentences and pauses all come from it.
      seconds: length of the sound.
      split: "train" draws one of `TRAIN_VOICES`, "held_out" takes `HELD_OUT_VOICE`.

    Raises:
      InputError: the split is unknown, or espeak-ng is missing.
    """
    if split not in ("train", "held_out"):
        raise InputError(f"split {split!r} is unknown: choose train or held_out")
    rng = np.random.default_rng((_SALT, seed))
    drawn = TRAIN_VOICES[rng.integers(len(TRAIN_VOICES))]
    voice = HELD_OUT_VOICE if split == "held_out" else drawn
    rate, pitch = int(rng.integers(130, 191)), int(rng.integers(25, 76))
    peak, lead = rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.5)
    length = round(seconds * SAMPLE_RATE)
    wave = np.zeros(length, np.float32)
    phonemes: list[tuple[float, str]] = [(0.0, "")]
    texts: list[str] = []
    at = round(lead * SAMPLE_RATE)
    while at < length:
        said = synthesize(sentence(rng), voice, rate, pitch)
        wave[at : at + len(said.wave)] = said.wave[: length - at]
        phonemes += [(at / SAMPLE_RATE + start, ipa) for start, ipa in said.phonemes]
        texts.append(said.text)
        at += len(said.wave)
        phonemes.append((at / SAMPLE_RATE, ""))
        at += round(rng.uniform(0.2, 1.2) * SAMPLE_RATE)
    fade = min(length, SAMPLE_RATE // 100)
    wave[length - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    if loudest := np.abs(wave).max(initial=0):
        wave *= np.float32(peak / loudest)
    kept = tuple((start, ipa) for start, ipa in phonemes if start < length / SAMPLE_RATE)
    return Utterance(wave, kept, " ".join(texts), voice)


def save_recording(path: str | Path, said: Utterance) -> None:
    """Write the sound as 16-bit FLAC or WAV (by the ending of `path`) and its phonemes, text and voice as JSON."""
    path = Path(path)
    soundfile.write(path, said.wave, SAMPLE_RATE, subtype="PCM_16")
    phonemes = [[round(start, 4), ipa] for start, ipa in said.phonemes]
    about = {"text": said.text, "voice": said.voice, "phonemes": phonemes}
    path.with_suffix(".json").write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")


def load_recording(path: str | Path) -> Utterance:
    """Read what `save_recording` wrote.

    Raises:
      InputError: a file is missing, or the sound is not mono at 16 kHz.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise InputError(f"{file} does not exist: give a recording that has its phoneme file beside it")
    wave, hertz = soundfile.read(path, dtype="float32")
    if hertz != SAMPLE_RATE or wave.ndim != 1:
        raise InputError(f"{path} is not mono at {SAMPLE_RATE} Hz: convert it first")
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    phonemes = tuple((float(start), str(ipa)) for start, ipa in about["phonemes"])
    return Utterance(wave, phonemes, about["text"], about["voice"])


def load_fixture(name: str) -> Utterance:
    """One of the bundled utterances in `FIXTURES`; needs no espeak-ng.

    Raises:
      InputError: there is no fixture of that name.
    """
    if name not in FIXTURES:
        raise InputError(f"there is no speech fixture {name!r}: choose one of {', '.join(FIXTURES)}")
    return load_recording(FIXTURE_FOLDER / f"{name}.flac")
