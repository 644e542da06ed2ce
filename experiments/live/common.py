"""What the measurements of live streams share."""

import itertools

import numpy as np

from knotjax import drive
from knotjax.bundle import SHIPPED
from knotjax.media import read_sound

PORTRAIT = SHIPPED.parent / "portrait.png"


def sound() -> np.ndarray:
    """The bundled recording, float32 [n], 16 kHz."""
    return read_sound(SHIPPED.parent / "hello.wav")


def endless(seconds: float):
    """The bundled recording over and over, in pieces of a length."""
    wave, count = sound(), round(seconds * drive.SAMPLE_RATE)
    rest = np.zeros(0, np.float32)
    for again in itertools.repeat(wave):
        rest = np.concatenate([rest, again])
        while len(rest) >= count:
            yield rest[:count]
            rest = rest[count:]


def verdict(good: bool, text: str) -> None:
    """One line for one figure."""
    print(f"{'PASS' if good else 'FAIL'}: {text}", flush=True)
