"""The adapters against the packages that they are made for, with a session that is only a list of blocks."""

import asyncio
import time

import numpy as np
import pytest

from knotjax.live.seat import Shown
from knotjax.live.sound import Overrun


class Scripted:
    """Gives four blocks, silent, spoken, spoken to the end, silent; takes a second of sound at once."""

    size = 16

    def __init__(self):
        self.pushed, self.calls, self.turn, self.closed, self.refused = [], [], 0, False, 0
        begin = time.monotonic() + 0.05
        self.blocks = []
        for n, (idle, ended) in enumerate(((True, False), (False, False), (False, True), (True, False))):
            pixels = np.full((3, 16, 16, 3), 10 * n, np.uint8)
            sound = np.zeros(3 * 640, np.float32) if idle else np.full(3 * 640, 0.5, np.float32)
            self.blocks.append(Shown(pixels, sound, 3 * n, begin + 0.12 * n, idle, ended))

    def push_audio(self, pcm, rate):
        if not self.refused % 2:  # every other time there is no room
            self.refused += 1
            raise Overrun("full")
        self.refused += 1
        self.pushed.append((np.array(pcm), rate))

    def take(self):
        if not self.blocks:
            self.closed = True
            return None
        return self.blocks.pop(0)

    def end_segment(self):
        self.calls.append("end")

    def interrupt(self):
        self.calls.append("interrupt")
        self.turn += 1

    def close(self):
        self.closed = True


def sine(seconds, rate, channels):
    wave = np.sin(np.arange(round(seconds * rate)) / 9.0) * 9000
    return np.stack([wave] * channels, 1).astype(np.int16)


def test_livekit():
    pytest.importorskip("livekit.agents")
    from livekit import rtc
    from livekit.agents.voice.avatar import AudioSegmentEnd, VideoGenerator

    from knotjax.live.livekit import Portrait

    session = Scripted()
    video = Portrait(session)
    assert isinstance(video, VideoGenerator) and video.options.video_width == 16 and video.options.video_fps == 25

    async def run():
        pcm = sine(1.3, 24_000, 2)
        await video.push_audio(rtc.AudioFrame(pcm.tobytes(), 24_000, 2, len(pcm)))
        await video.push_audio(AudioSegmentEnd())
        assert np.array_equal(np.concatenate([p for p, _ in session.pushed]), pcm)
        assert {rate for _, rate in session.pushed} == {24_000} and session.calls == ["end"]
        return [frame async for frame in video]

    made = asyncio.run(run())
    kinds = [type(frame).__name__ for frame in made]
    spoken = ["VideoFrame", "AudioFrame"] * 6
    assert kinds == ["VideoFrame"] * 3 + spoken + ["AudioSegmentEnd"] + ["VideoFrame"] * 3
    video_frame, audio_frame = made[3:5]
    assert (video_frame.width, video_frame.height) == (16, 16)
    pixels = np.frombuffer(video_frame.data, np.uint8).reshape(16, 16, 4)
    assert (pixels[..., :3] == 10).all() and (pixels[..., 3] == 255).all()
    assert audio_frame.sample_rate == 16_000 and audio_frame.samples_per_channel == 640
    assert (np.frombuffer(audio_frame.data, np.int16) == 16_384).all()


def test_livekit_interruption_stops_the_block_that_is_shown():
    pytest.importorskip("livekit.agents")
    from knotjax.live.livekit import Portrait

    session = Scripted()
    video = Portrait(session)

    async def run():
        seen = []
        async for frame in video:
            seen.append(frame)
            if len(seen) == 1:
                video.clear_buffer()
                session.blocks.clear()
        return seen

    assert len(asyncio.run(run())) == 1 and session.calls == ["interrupt"]


def test_pipecat():
    pytest.importorskip("pipecat")
    from pipecat.frames.frames import (
        InterruptionFrame,
        OutputImageRawFrame,
        SpeechOutputAudioRawFrame,
        TextFrame,
        TTSAudioRawFrame,
        TTSStoppedFrame,
    )
    from pipecat.tests.utils import SleepFrame, run_test

    from knotjax.live.pipecat import Portrait

    session = Scripted()
    pcm = sine(0.5, 24_000, 1)

    async def run():
        to_send = [
            TTSAudioRawFrame(pcm.tobytes(), 24_000, 1),
            TextFrame("passes"),
            TTSStoppedFrame(),
            SleepFrame(1.5),
            InterruptionFrame(),
            SleepFrame(0.2),
        ]
        return (await run_test(Portrait(session), frames_to_send=to_send))[0]

    made = asyncio.run(run())
    assert np.array_equal(np.concatenate([p for p, _ in session.pushed])[:, 0], pcm[:, 0])
    assert session.calls == ["end", "interrupt"] and session.closed
    images = [frame for frame in made if isinstance(frame, OutputImageRawFrame)]
    sounds = [frame for frame in made if isinstance(frame, SpeechOutputAudioRawFrame)]
    assert len(images) == 12 and len(sounds) == 6
    assert images[0].size == (16, 16) and len(images[0].image) == 16 * 16 * 3
    assert not any(isinstance(frame, TTSAudioRawFrame) for frame in made)
    assert any(isinstance(frame, TextFrame) for frame in made)
