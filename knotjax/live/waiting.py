"""A live session inside an asyncio program."""

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np

from knotjax import drive
from knotjax.live.seat import Shown
from knotjax.live.session import LiveSession
from knotjax.live.sound import Overrun

POLL = 0.02  # seconds between two looks


async def push(session: LiveSession, pcm: np.ndarray, rate: int) -> None:
    """Push sound of any length, waiting while there is no room for it; see `LiveSession.push_audio`."""
    for start in range(0, len(pcm), rate):
        while True:
            try:
                session.push_audio(pcm[start : start + rate], rate)
                break
            except Overrun:
                await asyncio.sleep(POLL)


async def blocks(session: LiveSession) -> AsyncIterator[Shown]:
    """Frames as they come, until the session is closed."""
    while True:
        shown = session.take()
        if shown is not None:
            yield shown
        elif session.closed:
            return
        else:
            await asyncio.sleep(POLL)


async def frames(session: LiveSession) -> AsyncIterator[tuple[int, np.ndarray, np.ndarray, Shown]]:
    """Frames one by one, each when it is due, but for those that an interruption overtakes.

    Yields:
      Its number in its block, the frame uint8 [size, size, 3], its sound int16 [640], and its block.
    """
    async for shown in blocks(session):
        sound = np.rint(shown.sound.reshape(len(shown.frames), -1) * 32767.0).astype(np.int16)
        for number, frame in enumerate(shown.frames):
            await asyncio.sleep(max(0.0, shown.due + number / drive.FPS - time.monotonic()))
            if shown.turn < session.turn:
                break
            yield number, frame, sound[number], shown
