"""Driving sessions in tests."""

import dataclasses
import functools

import jax
import numpy as np

from knotjax.pipeline import Animator
from tests.animators import tiny
from tests.helpers import random_params

WAIT = 120.0  # seconds that a block may take on a machine with better things to do


@functools.cache
def lively() -> Animator:
    """The tiny animator with weights to which sound, words and portrait make a difference that can be seen."""
    model = tiny().model
    codec = dict(model.params["codec"])
    codec["synthesis"] = dict(codec["synthesis"])
    codec["synthesis"]["output"] = jax.tree.map(lambda a: 8.0 * a, codec["synthesis"]["output"])
    params = model.params | {"dit": random_params(model.denoiser, 5), "codec": codec}
    return Animator(dataclasses.replace(model, params=params))


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


def plain(image, wave, **told) -> np.ndarray:
    """Frames of an ordinary stream that hears a sound and then silence, without an end."""
    stream = lively().open(image, **told)
    stream.push(np.pad(wave, (0, 24_000)))
    return np.concatenate([piece.frames for piece in stream.pieces()])


def frames(pieces) -> np.ndarray:
    return np.concatenate([shown.frames for shown in pieces])


def sound(pieces) -> np.ndarray:
    return np.concatenate([shown.sound for shown in pieces])


def close_to(actual, expected) -> None:
    """Frames uint8 of two programs that round differently: at most one step of 255 apart, and hardly any at all."""
    assert 0 < len(actual) <= len(expected)
    expected = expected[: len(actual)]
    off = np.abs(actual.astype(int) - expected.astype(int))
    per_block = [int(part.max()) for part in np.array_split(off, max(1, len(off) // 12))]
    assert off.max() <= 1 and (off > 0).mean() < 0.01, f"worst {per_block} of 255, {(off > 0).mean():.4f} differ"
