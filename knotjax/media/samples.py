"""Turning samples of any rate, layout and type into the sound that the package works in, piece by piece."""

import numpy as np
import soxr

from knotjax.drive import SAMPLE_RATE
from knotjax.errors import InputError

MIN_RATE, MAX_RATE = 8_000, 192_000
MAX_CHANNELS = 8


def check_rate(rate: int, name: str = "sound") -> None:
    """Refuse a sample rate outside 8 .. 192 kHz.

    Raises:
      InputError: it is outside.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InputError(f"{name} has {rate} samples per second: convert it to a rate from {MIN_RATE} to {MAX_RATE}")


def to_mono(samples) -> tuple[np.ndarray, int]:
    """Average the channels of float or integer samples [n] or [n, channels].

    Returns:
      float32 [n] in -1 .. 1, in which what was no number is silence; and how many samples were none.

    Raises:
      InputError: another shape or kind, or more than 8 channels.
    """
    samples = np.asarray(samples)
    if samples.dtype.kind == "i":
        samples = samples / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    elif samples.dtype.kind != "f":
        raise InputError(f"sound of kind {samples.dtype}: give floats in -1 .. 1 or signed integers")
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or samples.shape[1] not in range(1, MAX_CHANNELS + 1):
        raise InputError(f"sound of shape {list(samples.shape)}: give [n] or [n, channels], at most {MAX_CHANNELS}")
    finite = np.isfinite(samples)
    broken = samples.size - int(finite.sum())
    with np.errstate(over="ignore"):
        mono = np.clip(np.where(finite, samples, 0.0), -1.0, 1.0).mean(axis=1, dtype=np.float32)
    return mono.astype(np.float32, copy=False), broken


class Samples:
    """A sound that comes in pieces of any size, rate and layout, and goes on as mono float32 at 16 kHz.

    The result depends on the samples alone, not on how they were cut into pieces. Where the rate changes, the sound
    before it is ended and a new one begins. `broken` counts samples that were not numbers; they became silence.
    """

    def __init__(self):
        self.broken = 0
        self._rate, self._resampler = None, None
        self._read = self._made = 0  # at the present rate

    def push(self, samples, rate: int = SAMPLE_RATE) -> np.ndarray:
        """Add float (-1 .. 1) or integer samples [n] or [n, channels]; returns what is ready, float32 [m].

        Raises:
          InputError: a rate outside 8 .. 192 kHz, or samples of another shape or kind.
        """
        mono, broken = to_mono(samples)
        self.broken += broken
        before = np.zeros(0, np.float32)
        if rate != self._rate:
            check_rate(rate)
            before = self.end()
            self._rate = rate
            self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._read += len(mono)
        return np.concatenate([before, self._clipped(self._resampler.resample_chunk(mono))])

    def end(self) -> np.ndarray:
        """What is left, float32 [m], once the sound is over."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        wanted = -(-self._read * SAMPLE_RATE // self._rate) - self._made  # it may end a sample early or late
        rest = np.pad(rest[:wanted], (0, max(0, wanted - len(rest))))
        rest = self._clipped(rest)
        self._rate, self._resampler, self._read, self._made = None, None, 0, 0
        return rest

    def _clipped(self, samples: np.ndarray) -> np.ndarray:
        self._made += len(samples)
        return np.clip(samples, -1.0, 1.0)
