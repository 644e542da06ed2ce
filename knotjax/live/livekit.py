"""A live session as the video generator of a LiveKit avatar; needs the package `livekit-agents`.

video = Portrait(engine.open("me.png"))
runner = AvatarRunner(room, audio_recv=receiver, video_gen=video, options=video.options)
"""

import numpy as np
from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarOptions, VideoGenerator

from knotjax import drive
from knotjax.live import waiting
from knotjax.live.session import LiveSession


class Portrait(VideoGenerator):
    """A portrait that speaks what an agent says. Sound accompanies frames only while somebody speaks."""

    def __init__(self, session: LiveSession):
        self._session = session
        self._turn = 0  # counts interruptions

    @property
    def options(self) -> AvatarOptions:
        """What the runner is to expect."""
        size = self._session.size
        return AvatarOptions(size, size, drive.FPS, drive.SAMPLE_RATE, 1)

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Sound of the agent, or the end of what it says."""
        if isinstance(frame, AudioSegmentEnd):
            self._session.end_segment()
            return
        pcm = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
        turn, step = self._turn, frame.sample_rate // 2
        for start in range(0, len(pcm), step):
            if turn != self._turn:  # interrupted while there was no room
                return
            await waiting.push(self._session, pcm[start : start + step], frame.sample_rate)

    def clear_buffer(self) -> None:
        """The agent was interrupted."""
        self._turn += 1
        self._session.interrupt()

    async def __aiter__(self):
        """Frames with their sound, each when it is due."""
        async for number, pixels, sound, shown in waiting.frames(self._session):
            size = pixels.shape[0]
            alpha = np.full((size, size, 1), 255, np.uint8)
            data = np.concatenate([pixels, alpha], -1).tobytes()
            yield rtc.VideoFrame(size, size, rtc.VideoBufferType.RGBA, data)
            if not shown.idle:
                yield rtc.AudioFrame(sound.tobytes(), drive.SAMPLE_RATE, 1, len(sound))
            if shown.ended and number == len(shown.frames) - 1:
                yield AudioSegmentEnd()
