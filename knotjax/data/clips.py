"""Whole talking clips with their ground truth: a portrait, a voice and a motion from one seed."""

from dataclasses import dataclass

import numpy as np

from knotjax.data import portraits, speech, warped
from knotjax.data.motion import sample_motion
from knotjax.drive import ACTIONS, EMOTIONS, FPS, SAMPLE_RATE
from knotjax.errors import InputError

FIRST_HELD_OUT_SEED = 1_000_000  # seeds below train, seeds from here on test
PHOTO_SHARE = 1 / 12  # of the seeds show the warped photograph


@dataclass(frozen=True)
class Clip:
    """One talking clip at 25 fps with all that drives it."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    wave: np.ndarray  # float32 [n], mono at 16 kHz, as long as the frames
    channels: np.ndarray  # float32 [T, 11], order of drive.CHANNELS
    open: np.ndarray  # float32 [T], 0 closed .. 1 widest
    wide: np.ndarray  # float32 [T], -1 round .. 1 spread
    words: np.ndarray  # int32 [2], rows of drive.WORDS
    mouth_box: np.ndarray  # float32 [T, 4], x0 y0 x1 y1 in pixels
    stable: np.ndarray  # bool [H, W], wall and shirt that nothing ever covers
    seed: int
    text: str
    voice: str


def shows_photo(seed: int) -> bool:
    """Whether the seed's portrait is the warped photograph instead of a procedural one."""
    return bool(np.random.default_rng([seed, 0xC1]).random() < PHOTO_SHARE)


def make_clip(
    seed: int,
    seconds: float,
    split: str = "train",
    size: int = 128,
    utterance: speech.Utterance | None = None,
) -> Clip:
    """Make the clip of a seed; the same arguments always give the same clip.

    Args:
      seed: portrait, motion and sentences come from it; 0..999_999 train, 1_000_000 and more are held out.
      seconds: length; rounded to whole frames.
      split: "train" or "held_out"; must fit the seed.
      size: side of the square pictures in pixels.
      utterance: speech to use in place of the seed's own; cut or filled with silence to the length.

    Raises:
      InputError: the seed does not belong to the split, the length is below one frame, or speech cannot be made.
    """
    if split not in ("train", "held_out"):
        raise InputError(f"split {split!r} is unknown: choose train or held_out")
    if seed < 0 or (seed >= FIRST_HELD_OUT_SEED) != (split == "held_out"):
        raise InputError(
            f"seed {seed} is not of the {split} split: train takes 0..{FIRST_HELD_OUT_SEED - 1}, held_out larger ones"
        )
    frames = round(seconds * FPS)
    if frames < 1:
        raise InputError(f"a clip of {seconds} seconds has no frame: ask for {1 / FPS} seconds or more")
    said = utterance if utterance is not None else speech.utterance(seed, frames / FPS, split)
    samples = frames * SAMPLE_RATE // FPS
    wave = np.zeros(samples, np.float32)
    wave[: len(said.wave)] = said.wave[:samples]
    opening, wide = speech.mouth_track(said.phonemes, frames)

    rng = np.random.default_rng([seed, 0x3C])
    moves = sample_motion(rng, frames, str(rng.choice(EMOTIONS)), str(rng.choice(ACTIONS)))
    room, sample = (warped, warped.sample_photo) if shows_photo(seed) else (portraits, portraits.sample_identity)
    identity = sample(seed)
    pictures = room.render(identity, moves.channels, opening, wide, size)
    return Clip(
        frames=np.rint(pictures * 255).astype(np.uint8),
        wave=wave,
        channels=moves.channels,
        open=np.asarray(opening, np.float32),
        wide=np.asarray(wide, np.float32),
        words=moves.words,
        mouth_box=room.mouth_box(identity, moves.channels, size),
        stable=room.stable_mask(identity, moves.channels, size),
        seed=seed,
        text=said.text,
        voice=said.voice,
    )
