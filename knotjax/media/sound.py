"""Reading speech from files and pipes, piece by piece: any common sound, whatever its length."""

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile

from knotjax.drive import SAMPLE_RATE
from knotjax.errors import InputError
from knotjax.media.pictures import regular_size
from knotjax.media.samples import MAX_CHANNELS, Samples, check_rate

MAX_SECONDS = 86_400  # of a sound that is read piece by piece
MAX_SECONDS_WHOLE = 600  # of one that is read as a whole
SOUNDFILE = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "AIFF", "AU", "CAF")  # the rest goes to FFmpeg
DEMUXERS = "aac,ac3,aiff,amr,asf,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav,webm"  # none opens others
KINDS = "WAV, FLAC, OGG, MP3, M4A or a video with sound"
_log = logging.getLogger(__name__)

Heard = tuple[np.ndarray, int]  # samples [n, channels], and how many make a second


def frame_samples(frame: av.AudioFrame) -> np.ndarray:
    """Samples of a decoded frame, float32 [n, channels] in -1 .. 1."""
    samples = frame.to_ndarray()  # [channels, n], or [1, n * channels] when interleaved
    channels = len(frame.layout.channels)
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if samples.dtype.kind == "i":
        return samples / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.astype(np.float32)


class SoundFile:
    """A sound file, opened; its header is checked and its samples are still undecoded.

    Attributes:
      seconds: how long the header says it lasts, or None.

    Raises:
      InputError: missing, empty, no sound, above `max_seconds` or 8 channels, or a rate outside 8 .. 192 kHz.
    """

    def __init__(self, path: str | os.PathLike, max_seconds: float = MAX_SECONDS):
        path = Path(path)
        self.name, self._max = f"sound {str(path)!r}", max_seconds
        regular_size(path, "sound")
        try:
            self._file = soundfile.SoundFile(path)
        except (soundfile.SoundFileError, TypeError, ValueError):  # TypeError: headerless formats known by their suffix
            self._file = None
        if self._file is not None and self._file.format not in SOUNDFILE:
            self._file.close()
            self._file = None
        try:
            self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        if self._file is not None:
            rate, channels, frames = self._file.samplerate, self._file.channels, self._file.frames
            self.seconds = frames / max(rate, 1)
        else:
            try:
                self._container = av.open(f"file:{path}", options={"format_whitelist": DEMUXERS})
            except (av.FFmpegError, ValueError, UnicodeError):
                raise InputError(f"{self.name} is not usable {KINDS}: convert it to WAV") from None
            if not self._container.streams.audio:
                raise InputError(f"{self.name} holds no sound: give {KINDS}")
            stream = self._container.streams.audio[0]
            rate, channels, frames = stream.rate or 0, stream.channels or 0, 1
            known = stream.duration * stream.time_base if stream.duration else (self._container.duration or 0) / 1e6
            self.seconds = float(known) or None
        check_rate(rate, self.name)
        if channels > MAX_CHANNELS:
            raise InputError(f"{self.name} has {channels} channels: mix it down to {MAX_CHANNELS} or fewer")
        if frames <= 0:
            raise InputError(f"{self.name} holds no samples (0 s): give another file")
        if self.seconds is not None and self.seconds > self._max:
            raise InputError(f"{self.name} lasts {self.seconds:.1f} s: cut it into pieces of at most {self._max} s")

    def __enter__(self) -> "SoundFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        for handle in (self._file, getattr(self, "_container", None)):
            if handle is not None:
                handle.close()

    def __iter__(self) -> Iterator[Heard]:
        """Decode piece by piece.

        Raises:
          InputError: damaged, or longer than the limit whatever the header said.
        """
        read = 0.0
        try:
            for samples, rate in self._decoded():
                read += len(samples) / rate
                if read > self._max:
                    raise InputError(f"{self.name} lasts more than {self._max} s: cut it into shorter pieces")
                yield samples, rate
        except (soundfile.SoundFileError, av.FFmpegError):
            raise InputError(f"{self.name} is damaged or cut short: save or download it again") from None
        if read == 0.0:
            raise InputError(f"{self.name} holds no samples (0 s): give another file")
        if self.seconds is not None and read < self.seconds - 0.1:
            _log.warning("%s ends after %.2f of %.2f s: it may be cut short", self.name, read, self.seconds)

    def _decoded(self) -> Iterator[Heard]:
        if self._file is None:
            for frame in self._container.decode(audio=0):
                yield frame_samples(frame), frame.sample_rate
            return
        rate = self._file.samplerate
        while len(block := self._file.read(rate, dtype="float32", always_2d=True)):  # [n, channels]
            yield block, rate


def check_sound(path: str | os.PathLike) -> None:
    """Check from its header alone that `path` is a sound file that can be decoded.

    Raises:
      InputError: missing, empty, another format, or outside the limits.
    """
    SoundFile(path).close()


def read_sound(path: str | os.PathLike) -> np.ndarray:
    """Read a whole sound file as mono float32 [n] at 16 kHz in [-1, 1].

    WAV, FLAC, OGG, MP3, M4A and most other files that hold sound can be read, videos included.
    Channels are averaged, samples beyond full scale are clipped and NaN or infinite samples become silence; the last is
    logged as one warning with their count.

    Raises:
      InputError: missing, empty, damaged, another format, above 600 s or 8 channels, or a sample rate outside
        8-192 kHz.
    """
    samples = Samples()
    with SoundFile(path, MAX_SECONDS_WHOLE) as sound:
        pieces = [samples.push(*heard) for heard in sound]
        pieces.append(samples.end())
        if samples.broken:
            _log.warning("%s: %d samples that are not numbers were replaced by silence", sound.name, samples.broken)
    return np.concatenate(pieces)


def heard(audio, rate: int = SAMPLE_RATE) -> Iterator[Heard]:
    """Any sound, piece by piece: a path, an array of samples, or an iterable of arrays or of pairs (array, rate).

    Args:
      rate: of arrays that come without one.

    Raises:
      InputError: a file cannot be used.
    """
    if isinstance(audio, str | os.PathLike):
        with SoundFile(audio) as file:
            yield from file
        return
    for samples in [audio] if isinstance(audio, np.ndarray) else audio:
        yield samples if isinstance(samples, tuple) else (samples, rate)


class _Pipe:
    """A pipe whose first bytes were read already, as FFmpeg reads one."""

    def __init__(self, head: bytes, pipe):
        self._head, self._pipe = head, pipe

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        return head or self._pipe.read(size)


def pipe_pieces(pipe: io.RawIOBase, rate: int = SAMPLE_RATE) -> Iterator[Heard]:
    """Sound from a pipe, as it comes: mono 16-bit little-endian PCM at `rate`, or a WAV or FLAC stream.

    Args:
      pipe: whose `read(n)` returns up to n bytes as soon as there are some, such as standard input unbuffered.

    Raises:
      InputError: nothing comes, or it is damaged.
    """
    head = b""
    while len(head) < 4 and (more := pipe.read(4 - len(head))):
        head += more
    if not head:
        raise InputError("sound on standard input is empty: pipe mono 16-bit PCM or WAV into it")
    if head in (b"RIFF", b"fLaC"):
        try:
            with av.open(_Pipe(head, pipe), buffer_size=4096, options={"format_whitelist": DEMUXERS}) as container:
                for frame in container.decode(audio=0):
                    yield frame_samples(frame), frame.sample_rate
        except (av.FFmpegError, IndexError):
            raise InputError("sound on standard input is damaged: send WAV, FLAC or plain PCM") from None
        return
    check_rate(rate, "sound on standard input")
    while more := pipe.read(4096):
        head += more
        whole = len(head) - len(head) % 2
        yield np.frombuffer(head[:whole], "<i2")[:, None], rate
        head = head[whole:]
    if len(head) > 1:
        yield np.frombuffer(head[: len(head) - len(head) % 2], "<i2")[:, None], rate
