"""The small model's speech front end: log-mel rows that a live stream and a whole clip agree on.

Row block j (one pixel frame, 40 ms) holds 4 hops of 10 ms; each hop is a 25 ms window centred on it. Block j reads
samples 640 j - 120 .. 640 j + 760, so it looks 7.5 ms beyond its own pixel frame. The model then widens every latent
frame's window by `CONTEXT` pixel frames on both sides: its look-ahead is 80 ms + 7.5 ms.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.drive import FRAME, SAMPLE_RATE, STRIDE, latent_rows

BANDS = 40
HOP = 160  # samples, 10 ms
WINDOW = 400  # samples, 25 ms
FFT = 512
HOPS = FRAME // HOP  # hops per pixel frame
MARGIN = (WINDOW - HOP) // 2  # samples read on either side of a pixel frame
CONTEXT = 2  # pixel frames of context on either side of a latent frame
WIDTH = BANDS * HOPS  # features per pixel frame
FLOOR = 1e-6  # mel power of digital silence
PIECE = 50  # pixel frames per compiled call


def mel_filters() -> np.ndarray:
    """Triangular mel filters between 60 Hz and 7.6 kHz, float32 [FFT / 2 + 1, BANDS], each with peak 1."""

    def to_mel(hertz):
        return 2595.0 * np.log10(1.0 + hertz / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(to_mel(60.0), to_mel(7600.0), BANDS + 2) / 2595.0) - 1.0)
    bins = np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rise = (bins[:, None] - low) / (centre - low)
    fall = (high - bins[:, None]) / (high - centre)
    return np.clip(np.minimum(rise, fall), 0.0, None).astype(np.float32)


@partial(jax.jit, static_argnames="frames")
def log_mel(samples, frames: int):
    """Log-mel rows of pixel frames, scaled to about zero mean and unit spread.

    Args:
      samples: float32 [frames * FRAME + 2 * MARGIN], mono, 16 kHz, -1 .. 1, from MARGIN samples before the first frame.
      frames: their number; one compiled program each.

    Returns:
      float32 [frames, WIDTH].
    """
    at = HOP * jnp.arange(frames * HOPS)[:, None] + jnp.arange(WINDOW)
    spectrum = jnp.fft.rfft(samples[at] * jnp.hanning(WINDOW + 1)[:WINDOW], FFT)  # [hops, FFT / 2 + 1]
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    rows = jnp.log(power @ mel_filters() / WINDOW + FLOOR)
    # Digital silence is log(FLOOR) = -13.8; loud vowels reach about +2. The constants bring speech near zero mean,
    # unit spread.
    return ((rows + 7.0) / 4.0).reshape(frames, WIDTH)


def speech_rows(wave, frames: int) -> np.ndarray:
    """Log-mel rows of the first `frames` pixel frames of a recording; past its end there is silence.

    Args:
      wave: float [n], mono, 16 kHz, -1 .. 1.
      frames: pixel frames wanted.

    Returns:
      float32 [frames, WIDTH].
    """
    pieces = -(-frames // PIECE)
    padded = np.zeros(MARGIN + pieces * PIECE * FRAME + MARGIN, np.float32)
    kept = min(len(wave), len(padded) - MARGIN)
    padded[MARGIN : MARGIN + kept] = wave[:kept]
    size = PIECE * FRAME
    rows = [log_mel(padded[i * size : (i + 1) * size + 2 * MARGIN], PIECE) for i in range(pieces)]
    return np.concatenate(rows)[:frames] if rows else np.zeros((0, WIDTH), np.float32)


SILENCE = (np.log(FLOOR) + 7.0) / 4.0  # every feature of digital silence


def speech_windows(rows, start: int, count: int, first: int = 0) -> np.ndarray:
    """Windows of latent frames start .. start+count-1, with silence outside the recording.

    Args:
      rows: float32 [T, WIDTH] from `speech_rows`.
      first: pixel frame of rows[0].

    Returns:
      float32 [count, CONTEXT + STRIDE + CONTEXT, WIDTH].
    """
    at = latent_rows(start, count, before=CONTEXT, after=CONTEXT) - first
    inside = (at >= 0) & (at < len(rows))
    if not len(rows):
        return np.full((*at.shape, WIDTH), SILENCE, np.float32)
    windows = np.asarray(rows)[np.clip(at, 0, len(rows) - 1)]
    return np.where(inside[..., None], windows, np.float32(SILENCE))


WINDOW_FRAMES = CONTEXT + STRIDE + CONTEXT


class LiveSpeech:
    """Windows of a sound that comes in pieces: bit for bit those of the whole, from a bounded part of it."""

    def __init__(self):
        self._held = [np.zeros(MARGIN, np.float32)]  # from MARGIN samples before `_piece` on
        self._piece = 0  # number of the oldest piece (PIECE pixel frames) that is held
        self._ended = False
        self.samples = 0  # pushed so far

    def push(self, samples) -> None:
        """Append float [n], mono, 16 kHz, -1 .. 1."""
        self._held.append(np.asarray(samples, np.float32))
        self.samples += len(samples)

    def end(self) -> None:
        """There is only silence from here on."""
        self._ended = True

    @staticmethod
    def needed(start: int, count: int) -> int:
        """Samples, from the beginning of the sound, that latent frames start .. start+count-1 hear."""
        return (int(latent_rows(start, count, after=CONTEXT)[-1, -1]) + 1) * FRAME + MARGIN

    def covers(self, start: int, count: int) -> bool:
        """Whether the sound of latent frames start .. start+count-1 is all there."""
        return self._ended or self.samples >= self.needed(start, count)

    def rewind(self, samples: int) -> None:
        """Forget all but the first `samples`, of which those before the newest windows cannot be forgotten."""
        held = np.concatenate(self._held)
        self._held = [held[: len(held) - (self.samples - samples)]]
        self.samples = samples

    def save(self) -> tuple[np.ndarray, dict]:
        """What is held, float32 [n], and numbers; for `restore`."""
        self._held = [np.concatenate(self._held)]
        return self._held[0], {"piece": self._piece, "samples": self.samples, "ended": self._ended}

    def restore(self, held: np.ndarray, numbers: dict) -> None:
        """Go on where `save` was called."""
        self._held = [held]
        self._piece, self.samples, self._ended = (numbers[name] for name in ("piece", "samples", "ended"))

    def forget(self, start: int) -> np.ndarray:
        """Drop what only latent frames before `start` hear; returns what is still held."""
        held = np.concatenate(self._held)
        first = max(0, int(latent_rows(start, 1, before=CONTEXT)[0, 0])) // PIECE
        drop = max(0, min(first - self._piece, (len(held) - MARGIN) // (PIECE * FRAME)))
        self._piece, self._held = self._piece + drop, [held[drop * PIECE * FRAME :]]
        return self._held[0]

    def windows(self, start: int, count: int) -> np.ndarray:
        """`speech_windows` of covered latent frames; earlier ones than these cannot be asked for again."""
        at = latent_rows(start, count, before=CONTEXT, after=CONTEXT)
        size, held = PIECE * FRAME, self.forget(start)
        known = self.samples // FRAME + (2 if self._ended else 0)
        last = min(int(at[-1, -1]) + 1, known)
        pieces = max(0, -(-last // PIECE) - self._piece)
        padded = np.zeros(pieces * size + 2 * MARGIN, np.float32)
        padded[: len(held)] = held[: len(padded)]
        rows = [log_mel(padded[i * size : (i + 1) * size + 2 * MARGIN], PIECE) for i in range(pieces)]
        first = self._piece * PIECE
        rows = np.concatenate(rows)[: last - first] if rows else np.zeros((0, WIDTH), np.float32)
        return speech_windows(rows, start, count, first)
