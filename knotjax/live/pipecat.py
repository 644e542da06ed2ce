"""A live session as a processor in a pipecat pipeline, after the speech synthesis; needs the package `pipecat-ai`.

Pipeline([transport.input(), ..., tts, Portrait(engine.open("me.png")), transport.output()])
"""

import numpy as np
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    SpeechOutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from knotjax import drive
from knotjax.live import waiting
from knotjax.live.session import LiveSession


class Portrait(FrameProcessor):
    """A portrait that speaks what the pipeline says. It takes the speech, and gives frames, with sound while it speaks.

    All other frames pass. The session is closed with the pipeline.
    """

    def __init__(self, session: LiveSession, **options):
        super().__init__(**options)
        self._session, self._showing = session, None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Take one frame of the pipeline."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            pcm = np.frombuffer(frame.audio, np.int16).reshape(-1, frame.num_channels)
            await waiting.push(self._session, pcm, frame.sample_rate)
            return
        if isinstance(frame, TTSStoppedFrame):
            self._session.end_segment()
        elif isinstance(frame, InterruptionFrame):
            self._session.interrupt()
        elif isinstance(frame, EndFrame | CancelFrame):
            await self._stop()
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame) and self._showing is None:
            self._showing = self.create_task(self._show())

    async def cleanup(self) -> None:
        """Release the session."""
        await super().cleanup()
        await self._stop()

    async def _stop(self) -> None:
        self._session.close()
        if self._showing is not None:
            showing, self._showing = self._showing, None
            await self.cancel_task(showing)

    async def _show(self) -> None:
        async for _, pixels, sound, shown in waiting.frames(self._session):
            size = pixels.shape[0]
            await self.push_frame(OutputImageRawFrame(pixels.tobytes(), (size, size), "RGB"))
            if not shown.idle:
                await self.push_frame(SpeechOutputAudioRawFrame(sound.tobytes(), drive.SAMPLE_RATE, 1))
