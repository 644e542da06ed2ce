"""H.264 and Opus as fragments of an mp4 that begins at once and never ends, for Media Source Extensions."""

import struct

import av
import numpy as np

from knotjax.drive import FPS, FRAME, SAMPLE_RATE
from knotjax.media.fragments import COMMENT

PACKET = SAMPLE_RATE // 50  # samples of an Opus packet, 20 ms
VIDEO_SCALE, SOUND_SCALE = 12_800, SAMPLE_RATE  # ticks per second in the file
FRAME_TICKS, PACKET_TICKS = VIDEO_SCALE // FPS, SOUND_SCALE // 50
WHOLE, PART = 0x0200_0000, 0x0101_0000  # sample flags: decodes by itself, or needs those before it


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _track(number: int, begin: int, samples: list[tuple[int, int, int]], offset: int) -> bytes:
    """A `traf` box of samples (ticks, bytes, flags) whose data begin `offset` bytes after the `moof` box does."""
    run = b"".join(struct.pack(">III", *sample) for sample in samples)
    return _box(
        b"traf",
        _box(b"tfhd", struct.pack(">II", 0x02_0000, number)),  # offsets count from the moof
        _box(b"tfdt", struct.pack(">IQ", 0x0100_0000, begin)),
        _box(b"trun", struct.pack(">IIi", 0x701, len(samples), offset), run),
    )


class _Sink:
    def __init__(self):
        self.data = b""

    def write(self, data) -> int:
        self.data += bytes(data)
        return len(data)


class LiveMp4:
    """Turns pieces of a stream into bytes: `head` once, then one fragment for each piece, complete when it is returned.

    A fragment begins with a whole picture, so that a player can begin or go on at any of them, and holds all of its
    sound: Opus packets of 20 ms divide a frame's 40 ms. Time goes on from fragment to fragment without a gap, whatever
    frames the stream left out. Sound is 6.5 ms late in players that do not skip Opus' lead-in.

    Args:
      size: height and width of the frames in pixels, even.

    Attributes:
      head: what a player needs first.
      mime: type and codecs, for `MediaSource.isTypeSupported`.
      frames, samples: given so far, in frame times of 40 ms and in samples at 16 kHz.
    """

    def __init__(self, size: int):
        sink = _Sink()
        options = {"movflags": "empty_moov+default_base_moof", "video_track_timescale": str(VIDEO_SCALE)}
        self._container = av.open(sink, "w", format="mp4", options=options | {"flush_packets": "1"})
        self._container.metadata["comment"] = COMMENT
        # One thread: a stream's bytes depend on its frames alone, and other streams keep their share of the machine.
        encoding = {"preset": "veryfast", "tune": "zerolatency", "crf": "21", "threads": "1"}
        encoding["x264-params"] = "annexb=0:keyint=infinite:scenecut=0"
        video = self._container.add_stream("libx264", rate=FPS, options=encoding)
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        sound = self._container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        sound.codec_context.options = {"frame_duration": "20", "application": "audio"}
        sound.codec_context.bit_rate = 48_000
        self._container.start_encoding()
        self._video, self._sound = video.codec_context, sound.codec_context
        # Chromium wants to read 48 kHz, at which Opus is always played, where the rate of the input is told.
        rate = sink.data.index(b"dOps") + 8
        self.head = sink.data[:rate] + struct.pack(">I", 48_000) + sink.data[rate + 4 :]
        profile = self._video.extradata[1:4].hex().upper()
        self.mime = f'video/mp4; codecs="avc1.{profile},opus"'
        self.frames = self.samples = 0
        self._number = self._shown = 0  # fragments; frames encoded, of which a gap in the picture has fewer
        self._waiting = np.zeros(0, np.float32)  # less than a packet of sound
        self._last = np.zeros((size, size, 3), np.uint8)

    def add(self, frames: np.ndarray, sound: np.ndarray) -> bytes:
        """The fragment of frames uint8 [n, H, W, 3] with their sound float32 [640 m].

        With fewer frames than sound the last frame stays longer, with none the last one of the piece before.
        """
        times = len(sound) // FRAME
        frames = frames[:times] if len(frames) else self._last[None]
        pictures = self._pictures(frames)
        ticks = [FRAME_TICKS] * (len(pictures) - 1) + [FRAME_TICKS * (times - len(pictures) + 1)]
        video = [(t, len(p), PART if n else WHOLE) for n, (t, p) in enumerate(zip(ticks, pictures))]
        began = (self.samples - len(self._waiting)) // PACKET
        packets = self._packets(sound)
        audio = [(PACKET_TICKS, len(packet), WHOLE) for packet in packets]
        data, self._number = b"".join(pictures + packets), self._number + 1

        def moof(offset: int) -> bytes:
            return _box(
                b"moof",
                _box(b"mfhd", struct.pack(">II", 0, self._number)),
                _track(1, self.frames * FRAME_TICKS, video, offset),
                _track(2, began * PACKET_TICKS, audio, offset + sum(map(len, pictures))),
            )

        fragment = moof(len(moof(0)) + 8) + _box(b"mdat", data)
        self.frames, self.samples = self.frames + times, self.samples + len(sound)
        return fragment

    def close(self) -> None:
        """Free the encoders."""
        self._container.close()

    def _pictures(self, frames: np.ndarray) -> list[bytes]:
        pictures = []
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, self._shown = self._shown, self._shown + 1
            frame.pict_type = av.video.frame.PictureType.I if number == 0 else av.video.frame.PictureType.NONE
            pictures.extend(bytes(packet) for packet in self._video.encode(frame))
        self._last = np.array(frames[-1])
        return pictures

    def _packets(self, sound: np.ndarray) -> list[bytes]:
        held = np.concatenate([self._waiting, np.clip(sound, -1.0, 1.0)]).astype(np.float32)
        whole, packets = len(held) // PACKET * PACKET, []
        for start in range(0, whole, PACKET):
            frame = av.AudioFrame.from_ndarray(held[None, start : start + PACKET], format="flt", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, self.samples - len(self._waiting) + start
            packets.extend(bytes(packet) for packet in self._sound.encode(frame))
        self._waiting = held[whole:]
        return packets
