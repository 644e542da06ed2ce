"""Pictures, sound and video files in and out."""

from knotjax.media.pictures import check_picture, read_picture
from knotjax.media.sound import SoundFile, check_sound, heard, pipe_pieces, read_sound
from knotjax.media.video import read_video
from knotjax.media.writer import VideoWriter, check_output, part_of

__all__ = [
    "SoundFile",
    "VideoWriter",
    "check_output",
    "check_picture",
    "check_sound",
    "heard",
    "part_of",
    "pipe_pieces",
    "read_picture",
    "read_sound",
    "read_video",
]
