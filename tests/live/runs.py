"""Driving sessions in tests."""

import numpy as np

WAIT = 120.0  # seconds that a block may take on a machine with better things to do


def collect(session, pcm=None, rate=16_000, sizes=(8000,)):
    """Push a sound, end it, and take all frames of a session without pace."""
    pieces = []
    if pcm is not None:
        at = turn = 0
        while at < len(pcm):
            session.push_audio(pcm[at : at + sizes[turn % len(sizes)]], rate)
            at, turn = at + sizes[turn % len(sizes)], turn + 1
            while (shown := session.take()) is not None:
                pieces.append(shown)
        session.end_segment()
    return [*pieces, *session]


def frames(pieces) -> np.ndarray:
    return np.concatenate([shown.frames for shown in pieces])


def sound(pieces) -> np.ndarray:
    return np.concatenate([shown.sound for shown in pieces])


def close_to(actual, expected) -> None:
    """Frames uint8 of two programs that round differently: at most one step of 255 apart, and hardly any at all."""
    off = np.abs(actual.astype(int) - expected.astype(int))
    assert off.max() <= 1 and (off > 0).mean() < 0.001
