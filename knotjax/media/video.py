"""Reading a video back."""

import os
from pathlib import Path

import av
import numpy as np
import soxr

from knotjax.drive import SAMPLE_RATE
from knotjax.errors import InputError
from knotjax.media.fragments import url
from knotjax.media.pictures import regular_size
from knotjax.media.sound import frame_samples


def read_video(path: str | os.PathLike) -> tuple[np.ndarray, float, np.ndarray]:
    """Read a whole video file: frames uint8 [T, H, W, 3], frames per second, sound float32 [n] mono at 16 kHz.

    Sound starts at the first frame's time; a file without sound gives n = 0. All frames are held in memory.

    Raises:
      InputError: missing, empty, damaged, or without a picture track.
    """
    path = Path(path)
    name = f"video {str(path)!r}"
    regular_size(path, "video")
    try:
        with av.open(url(path)) as container:
            if not container.streams.video:
                raise InputError(f"{name} has no picture track: give another file")
            video = container.streams.video[0]
            audio = container.streams.audio[0] if container.streams.audio else None
            frames, pieces, starts = [], [], {}
            for frame in container.decode(*filter(None, (video, audio))):
                starts.setdefault(type(frame), frame.time or 0.0)
                if isinstance(frame, av.VideoFrame):
                    frames.append(frame.to_ndarray(format="rgb24"))
                else:
                    pieces.append(frame_samples(frame).mean(axis=1, dtype=np.float32))
            if not frames:
                raise InputError(f"{name} holds no frames: save or download it again")
            fps = float(video.average_rate)
            wave = np.zeros(0, np.float32)
            if pieces:
                rate = audio.rate
                wave = np.concatenate(pieces)
                if audio.duration:  # the last AAC frame is padded beyond the end of the sound
                    wave = wave[: round(audio.duration * audio.time_base * rate)]
                lead = round((starts[av.AudioFrame] - starts[av.VideoFrame]) * rate)
                wave = np.pad(wave, (lead, 0)) if lead > 0 else wave[-lead:]
                wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ") if rate != SAMPLE_RATE else wave
    except av.FFmpegError:
        raise InputError(f"{name} is damaged or not a video: save or download it again") from None
    return np.stack(frames), fps, np.clip(wave, -1.0, 1.0)
