"""Reading speech: any common sound file to mono float32 at the rate the package works in."""

import logging
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from knotjax.drive import SAMPLE_RATE
from knotjax.errors import InputError
from knotjax.media.pictures import regular_size

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
MAX_SECONDS = 600
MIN_RATE, MAX_RATE = 8_000, 192_000
MAX_CHANNELS = 8
_log = logging.getLogger(__name__)


def _open(path: Path) -> soundfile.SoundFile:
    """Open and check the header; samples are still undecoded."""
    regular_size(path, "sound")
    name = f"sound {str(path)!r}"
    try:
        handle = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError, ValueError):  # TypeError: headerless formats picked by their suffix
        raise InputError(f"{name} is not usable WAV, FLAC, OGG or MP3: convert it to WAV") from None
    rate, frames = handle.samplerate, handle.frames
    if handle.format not in FORMATS:
        problem = f"is {handle.format}, not WAV, FLAC, OGG or MP3: convert it to WAV"
    elif not MIN_RATE <= rate <= MAX_RATE:
        problem = f"has {rate} samples per second: convert it to a rate from {MIN_RATE} to {MAX_RATE}"
    elif handle.channels > MAX_CHANNELS:
        problem = f"has {handle.channels} channels: mix it down to {MAX_CHANNELS} or fewer"
    elif frames <= 0:
        problem = "holds no samples (0 s): give another file"
    elif frames > MAX_SECONDS * rate:
        problem = f"lasts {frames / rate:.1f} s: cut it into pieces of at most {MAX_SECONDS} s"
    else:
        return handle
    handle.close()
    raise InputError(f"{name} {problem}")


def check_sound(path: str | os.PathLike) -> None:
    """Check from its header alone that `path` is a sound file `read_sound` will try to decode.

    Raises:
      InputError: missing, empty, another format, or outside the limits.
    """
    _open(Path(path)).close()


def read_sound(path: str | os.PathLike) -> np.ndarray:
    """Read a WAV, FLAC, OGG or MP3 file as mono float32 [n] at 16 kHz in [-1, 1].

    Channels are averaged, samples beyond full scale are clipped and NaN or infinite samples become silence; the last is
    logged as one warning with their count. Except for MP3, decoding goes second by second, so memory holds
    little beyond the result.

    Raises:
      InputError: missing, empty, damaged, another format, above 600 s or 8 channels, or a sample rate outside
        8-192 kHz.
    """
    path = Path(path)
    name = f"sound {str(path)!r}"
    pieces, read, broken = [], 0, 0
    with _open(path) as handle:
        rate, claimed = handle.samplerate, handle.frames
        # soundfile seeks after every read, and a seek drops what MP3 frames borrow from the ones before.
        step = MAX_SECONDS * rate + 1 if handle.format == "MP3" else rate
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        while True:
            try:
                block = handle.read(step, dtype="float32", always_2d=True)  # [n, channels]
            except soundfile.SoundFileError:
                raise InputError(f"{name} is damaged or cut short: save or download it again") from None
            finite = np.isfinite(block)
            broken += block.size - int(finite.sum())
            mono = np.clip(np.where(finite, block, 0.0), -1.0, 1.0).mean(axis=1, dtype=np.float32)
            read += len(mono)
            if read > MAX_SECONDS * rate:  # the header understated the length
                raise InputError(f"{name} lasts more than {MAX_SECONDS} s: cut it into shorter pieces")
            last = len(block) < step
            pieces.append(resampler.resample_chunk(mono, last=last))
            if last:
                break
    if read == 0:
        raise InputError(f"{name} holds no samples (0 s): give another file")
    if broken:
        _log.warning("%s: %d samples that are not numbers were replaced by silence", name, broken)
    if read < claimed:
        _log.warning("%s ends after %.2f of %.2f s: it may be cut short", name, read / rate, claimed / rate)
    wave = np.zeros(-(-read * SAMPLE_RATE // rate), np.float32)  # the resampler may end a sample early or late
    samples = np.concatenate(pieces)[: len(wave)]
    wave[: len(samples)] = np.clip(samples, -1.0, 1.0)
    return wave
