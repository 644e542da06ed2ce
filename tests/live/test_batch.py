"""Streams of one engine do not feel one another: not a join, a leave, an interruption, a change or a fault."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.live import slots
from tests.animators import portrait, voice
from tests.live.runs import WAIT, close_to, collect, frames, plain

WAVE = voice(2.0, 5)
STEP = 7680


def spoil(engine, slot):
    """NaN in all that one stream remembers of its own frames."""

    def act():
        one = slots.take(engine._slots, np.int32(slot))
        ring, knot = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), (one.stream.ring, one.stream.knot))
        one = dataclasses.replace(one, stream=dataclasses.replace(one.stream, ring=ring, knot=knot))
        engine._slots = slots.put(engine._slots, one, np.int32(slot))

    engine._do(act)


def quiet(engine):
    """What the stream of slot 0 makes while nothing else happens."""
    with engine.open(portrait(), pace=False) as session:
        return frames(collect(session, WAVE, sizes=[STEP]))


@pytest.fixture(scope="module")
def alone(triple):
    return quiet(triple)


def disturbed(engine, act):
    """The same while something happens after every push."""
    pieces = []
    with engine.open(portrait(), pace=False) as session:
        for n, at in enumerate(range(0, len(WAVE), STEP)):
            session.push_audio(WAVE[at : at + STEP])
            act(n)
            while (shown := session.take()) is not None:
                pieces.append(shown)
        session.end_segment()
        return frames([*pieces, *session])


def test_a_stream_in_a_batch_equals_one_alone(triple, alone):
    close_to(alone, plain(portrait(), WAVE))


def test_join_leave_change_and_interruption_of_others(triple, alone):
    others = []

    def act(n):
        if n == 1:
            others.append(triple.open(portrait(1), seed=1, pace=False))
        if n == 2:
            others.append(triple.open(portrait(2), seed=2))
        for other in others:
            if not other.closed:
                other.push_audio(voice(0.7, n), 22_050)
                other.switch(portrait(n), emotion="happy")
                if n % 2:
                    other.interrupt()
                other.take()
        if n == 3:
            others[0].close()

    assert np.array_equal(disturbed(triple, act), alone)
    others[1].close()
    assert triple.free == 3 and others[0].report()["made"] >= 0


def test_all_at_once_at_different_phases(triple):
    """Three streams, begun one after another, each with its own portrait and sound."""
    sessions, pieces = [], [[], [], []]
    for n in range(3):
        sessions.append(triple.open(portrait(n), seed=n, pace=False))
        for session, own in zip(sessions, pieces):
            session.push_audio(voice(0.6, n))
            if (shown := session.take(1.0)) is not None:
                own.append(shown)
    for n, session in enumerate(sessions):
        session.end_segment()
        pieces[n] += [*session]
        session.close()
    for n in range(3):
        heard = np.concatenate([voice(0.6, seed) for seed in range(n, 3)])
        close_to(frames(pieces[n]), plain(portrait(n), heard, seed=n))


def test_a_fault_stays_in_its_slot(triple, alone):
    """Its block is a still, the stream is whole again with the next one, and nobody else notices."""
    with triple.open(portrait(3), pace=False) as keeper:  # so that the ill stream sits in slot 1
        ill = triple.open(portrait(1), seed=1, pace=False)
        keeper.close()

    def act(n):
        ill.push_audio(voice(0.48, n))
        if n == 2:
            spoil(triple, 1)
        while ill.take() is not None:
            pass

    assert np.array_equal(disturbed(triple, act), alone)
    ill.push_audio(voice(1.5))
    ill.end_segment()
    healthy = [*ill][-1]
    assert ill.report()["faults"] == 1 and np.abs(np.diff(healthy.frames.astype(int), axis=0)).max() > 2
    ill.close()


def test_an_error_of_one_stream_is_its_own(triple, alone, monkeypatch):
    victim = triple.open(portrait(1), pace=False)
    if victim._seat.slot == 0:  # the measured stream takes slot 0
        other = triple.open(portrait(2), pace=False)
        victim.close()
        victim = other

    def fail(*_):
        raise ValueError("no such row")

    def act(n):
        if n == 2:
            monkeypatch.setattr(victim._seat.timeline, "windows", fail)
            victim.push_audio(voice(1.0))

    assert np.array_equal(disturbed(triple, act), alone)
    with pytest.raises(RuntimeError, match="no such row"):
        victim.take(WAIT)
    victim.close()
    assert triple.free == 3
