"""A growing mp4 of fragments: what is on the disk can be played at any moment, and gone on with after a crash."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COMMENT = "synthetic video made by knotjax"
GROUP_SECONDS = 2  # from one fragment to the next


def url(path: Path) -> str:
    """`path` for FFmpeg, which would take a colon in a bare name for a protocol."""
    return f"file:{path}"


class _Appended:
    """The file as the muxer sees it: it can only append, and headers after the first are left out."""

    def __init__(self, file):
        self._file, self._head = file, b""
        self._skipping = file.tell() > 0

    def write(self, data) -> int:
        size, data = len(data), bytes(data)
        if self._skipping:
            self._head += data
            while len(self._head) >= 8 and self._head[4:8] in (b"ftyp", b"moov"):
                box = int.from_bytes(self._head[:4], "big")
                if len(self._head) < box:
                    return size
                self._head = self._head[box:]
            if len(self._head) < 8:
                return size
            self._skipping, data = False, self._head
        self._file.write(data)
        return size


class Fragments:
    """H.264 and AAC in a file of fragments, in constant memory.

    The file is made of segments. `seal` ends one: everything given so far is on the disk, and the next segment begins
    with a fresh video encoder. A file that is cut to the length of a sealed one can be gone on with by another process,
    which then writes the same bytes as the first would have. The sound's encoder lives on, so a process that goes on
    must first be given the sound from the beginning (`repeat_sound`).

    Args:
      path: a new file, or one to go on with.
      at: its length in bytes where a segment ended, 0 for a new file.
      shown: frames in it.
    """

    def __init__(self, path: Path, fps: Fraction, size: tuple[int, int], rate: int, at: int = 0, shown: int = 0):
        self._fps, self._size, self._rate = fps, size, rate
        self.shown, self.samples = shown, 0
        self._file = open(path, "r+b" if at else "xb", buffering=0)  # noqa: SIM115, closed by `close`
        self._file.truncate(at)
        self._file.seek(at)
        self._container = None
        self._lead = None  # samples by which the sound's encoder runs ahead of the first sample
        self._sound = av.CodecContext.create("aac", "w")
        self._sound.rate, self._sound.layout, self._sound.format = rate, "mono", "fltp"
        self._sound.time_base = Fraction(1, rate)
        self._sound.flags |= av.codec.context.Flags.global_header

    def _begin(self) -> None:
        """Begin a segment."""
        self._later = self._file.tell() > 0
        flags = "frag_keyframe+delay_moov+default_base_moof+skip_trailer" + "+frag_discont" * self._later
        options = {"movflags": flags, "fragment_index": str(1 + self.shown), "flush_packets": "1"}
        self._container = av.open(_Appended(self._file), "w", format="mp4", options=options)
        self._container.metadata["comment"] = COMMENT
        # The bytes must depend on the frames alone: not on threads, nor on what the memory held
        # before, as macroblock trees of small frames do.
        encoding = {"crf": "18", "g": str(round(GROUP_SECONDS * self._fps)), "threads": "1", "mbtree": "0"}
        self._video = self._container.add_stream("libx264", rate=self._fps, options=encoding)
        self._video.height, self._video.width = self._size
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = 1 / self._fps
        self._audio = self._container.add_stream("aac", rate=self._rate, layout="mono")
        self._audio.codec_context.time_base = Fraction(1, self._rate)

    def show(self, picture: np.ndarray) -> None:
        """Append one frame, uint8 [H, W, 3]."""
        if self._container is None:
            self._begin()
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self.shown, 1 / self._fps
        self._container.mux(self._video.encode(frame))
        self.shown += 1

    def play(self, samples: np.ndarray) -> None:
        """Append sound, float32 [n]."""
        if self._container is None:
            self._begin()
        self._mux_sound(self._encode(samples))

    def repeat_sound(self, samples: np.ndarray) -> None:
        """Encode sound, float32 [n], that the file holds already."""
        self._encode(samples)

    def _encode(self, samples: np.ndarray | None) -> list[av.Packet]:
        frame = None
        if samples is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self.samples, Fraction(1, self._rate)
            self.samples += len(samples)
        packets = self._sound.encode(frame)
        if packets and self._lead is None:
            self._lead = -packets[0].pts
        return packets

    def _mux_sound(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if self._later:  # the muxer takes a later segment's time for that of the file, which begins with the lead
                packet.pts, packet.dts = packet.pts + self._lead, packet.dts + self._lead
            packet.stream = self._audio
            self._container.mux(packet)

    def seal(self, last: bool = False) -> int:
        """End the segment, and the sound too if it is the last; returns the length of the file in bytes."""
        if self._container is None and last:
            self._begin()
        if self._container is not None:
            self._container.mux(self._video.encode(None))
            if last:
                self._mux_sound(self._encode(None))
            container, self._container = self._container, None
            container.close()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file as it is."""
        try:
            if self._container is not None:
                self._container.close()
        finally:
            self._file.close()


def defragment(source: Path, target: Path) -> None:
    """Copy a file of fragments into a plain mp4, with its index in front.

    Raises:
      OSError: the disk refused.
    """
    with (
        av.open(url(source)) as old,
        av.open(url(target), "w", format="mp4", options={"movflags": "+faststart"}) as new,
    ):
        new.metadata["comment"] = COMMENT
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
