"""Pictures, sound and video files in and out."""

from knotjax.media.pictures import check_picture, read_picture
from knotjax.media.sound import check_sound, read_sound
from knotjax.media.video import VideoWriter, check_output, read_video

__all__ = ["VideoWriter", "check_output", "check_picture", "check_sound", "read_picture", "read_sound", "read_video"]
