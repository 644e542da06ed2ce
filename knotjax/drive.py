"""What drives a portrait: channel names, word list, and how pixel frames map to latent frames.

This module sits below every other room, so data, models, streaming and evaluation agree on one layout.

Timing: a latent frame covers `STRIDE` pixel frames, except latent 0, which is one pixel frame (as in the Wan VAE).
Latent frame f therefore shows pixel frames 4f-3 .. 4f, and M latents decode to 4M-3 pixel frames.
"""

from fractions import Fraction

import numpy as np

FPS = 25  # pixel frames per second that the models run at
FILE_RATES = {"24": Fraction(24), "25": Fraction(25), "29.97": Fraction(30_000, 1001), "30": Fraction(30)}
FILE_RATES |= {"60": Fraction(60)}  # frames per second that a video file may have
STRIDE = 4  # pixel frames per latent frame
SAMPLE_RATE = 16_000  # samples per second of all sound inside the package
FRAME = SAMPLE_RATE // FPS  # samples of a pixel frame

CHANNELS = (
    "yaw",  # radians, positive turns the face to the viewer's right
    "pitch",  # radians, positive looks down
    "roll",  # radians, positive turns clockwise
    "tx",  # shift to the right, in picture widths
    "ty",  # shift down, in picture heights
    "scale",  # natural logarithm of the size relative to the resting one
    "gaze_x",  # -1 (viewer's left) .. 1
    "gaze_y",  # -1 (up) .. 1
    "blink",  # 0 open .. 1 closed
    "brow",  # -1 lowered .. 1 raised
    "smile",  # -1 corners down .. 1 corners up
)
GROUPS = {"pose": slice(0, 6), "gaze": slice(6, 8), "blink": slice(8, 9), "expression": slice(9, 11)}

EMOTIONS = ("neutral", "happy", "sad", "angry", "surprised")
ACTIONS = ("still", "nod", "shake")
WORDS = ("<none>", *EMOTIONS, *ACTIONS)  # row 0 is the learned "not said"
TEXT_SLOTS = 2  # one emotion word, one action word


def word_ids(emotion: str | None = None, action: str | None = None) -> np.ndarray:
    """Row numbers in `WORDS` for one emotion and one action, as int32 [TEXT_SLOTS].

    Raises:
      ValueError: a word is not in the closed list.
    """
    for word, allowed in ((emotion, EMOTIONS), (action, ACTIONS)):
        if word is not None and word not in allowed:
            raise ValueError(f"unknown word {word!r}: choose one of {', '.join(allowed)}")
    return np.array([WORDS.index(word or "<none>") for word in (emotion, action)], np.int32)


def latent_count(frames: int) -> int:
    """How many latent frames hold `frames` pixel frames."""
    return 0 if frames <= 0 else 1 + -(-(frames - 1) // STRIDE)


def pixel_count(latents: int) -> int:
    """How many pixel frames `latents` latent frames decode to."""
    return max(0, STRIDE * (latents - 1) + 1)


def latent_rows(start: int, count: int, *, before: int = 0, after: int = 0) -> np.ndarray:
    """Pixel frame numbers of latent frames start .. start+count-1, as int64 [count, before + STRIDE + after].

    `before` and `after` widen every window by pixel frames. Numbers below 0 (or past the end of a clip) are left as
    they are: the caller decides whether to pad or to repeat.
    """
    first = STRIDE * (start + np.arange(count)) - (STRIDE - 1) - before
    return first[:, None] + np.arange(before + STRIDE + after)
