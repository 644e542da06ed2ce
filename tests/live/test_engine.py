"""One engine of one stream: what comes out, in what order, and when."""

import gc
import json
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knotjax.edits import Edit
from knotjax.errors import InputError
from knotjax.live import Engine, Full, Overrun
from knotjax.live.stages import KEPT, STAGES
from tests.animators import portrait, voice
from tests.live.runs import WAIT, close_to, collect, frames, lively, plain, sound

WAVE = voice(2.33)


def test_a_session_makes_what_a_stream_makes(single):
    with single.open(portrait(), pace=False, seed=3, emotion="sad") as session:
        pieces = collect(session, WAVE)
    wanted = plain(portrait(), WAVE, seed=3, emotion="sad")
    assert [len(shown.frames) for shown in pieces] == [9, 12, 12, 12, 12, 12]
    assert [shown.first for shown in pieces] == [0, 9, 21, 33, 45, 57]
    close_to(frames(pieces), wanted)
    heard = sound(pieces)
    assert np.array_equal(heard[: len(WAVE)], WAVE) and not heard[len(WAVE) :].any()
    assert [shown.ended for shown in pieces] == [False] * 5 + [True] and not any(shown.idle for shown in pieces)
    for changed in ({"seed": 4}, {"emotion": "happy"}, {"image": portrait(1)}, {"wave": voice(2.33, 1)}):
        wave = changed.pop("wave", WAVE)
        told = {"image": portrait(), "seed": 3, "emotion": "sad"} | changed
        with single.open(pace=False, **told) as session:
            off = frames(collect(session, wave)).astype(int) - frames(pieces)
        assert np.abs(off).max() > 5, "it makes a difference"


@pytest.fixture(scope="module")
def whole(single):
    made = {}

    def make(rate):
        if rate not in made:
            with single.open(portrait(), pace=False) as session:
                made[rate] = collect(session, WAVE[:24_000], rate, [24_000])
        return made[rate]

    return make


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(300, 9000), min_size=1, max_size=6), st.sampled_from([16_000, 48_000]))
def test_the_size_of_pushes_makes_no_difference(single, whole, sizes, rate):
    with single.open(portrait(), pace=False) as session:
        pieces = collect(session, WAVE[:24_000], rate, sizes)
    assert np.array_equal(frames(pieces), frames(whole(rate)))
    assert np.array_equal(sound(pieces), sound(whole(rate)))


def test_utterances_follow_one_another(single):
    with single.open(portrait(), pace=False) as session:
        first = collect(session, WAVE[:10_000])
        second = collect(session, WAVE[10_000:20_000])
    assert second[0].first == first[-1].first + len(first[-1].frames)
    heard = sound(first + second)
    assert np.array_equal(heard[:10_000], WAVE[:10_000])
    start = np.flatnonzero(heard[10_000:])[0] + 10_000
    assert np.array_equal(heard[start : start + 10_000], WAVE[10_000:20_000])


def test_a_change_takes_effect_with_the_next_block(single):
    ways = {}
    for name in ("plain", "words", "portrait"):
        with single.open(portrait(), pace=False) as session:
            session.push_audio(WAVE[:17_400])  # two blocks hear it
            before = [session.take(WAIT), session.take(WAIT)]
            if name == "words":
                session.switch(emotion="happy", ramp=0.0)
                session.switch(action="nod", policy="anchor")  # with the one before
            if name == "portrait":
                session.switch(portrait(4))
            ways[name] = frames(before), frames(collect(session, WAVE[17_400:]))
    for name in ("words", "portrait"):
        assert np.array_equal(ways[name][0], ways["plain"][0])
        off = np.abs(ways[name][1][:12].astype(int) - ways["plain"][1][:12])
        assert off.max() > 2, name
    edits = [Edit(21 / 25, emotion="happy", action="nod")]
    close_to(np.concatenate(ways["words"]), plain(portrait(), WAVE, edits=edits))


def test_silence_is_idle_motion_in_real_time(single):
    before = time.monotonic()
    with single.open(portrait()) as session:
        after = time.monotonic()
        pieces = []
        for shown in session:
            pieces.append(shown)
            ahead = 0.2 if shown.first >= 9 else 0.32  # the first block begins with a frame, the others with four
            assert shown.due - ahead <= time.monotonic() + 1e-3, "not ahead of real time"
            if len(pieces) == 3:
                break
        stalls = session.report()["stalls"]
    assert all(shown.idle and not shown.sound.any() for shown in pieces)
    made = frames(pieces).astype(int)
    assert np.abs(np.diff(made, axis=0)).max() > 2, "it moves"
    assert pieces[-1].due - pieces[0].due >= 0.04 * (pieces[-1].first - pieces[0].first) - 1e-6
    zero = pieces[0].due - pieces[0].first / 25
    assert stalls or before <= zero - session.delay <= after


def test_barge_in_takes_effect_with_the_next_block(single):
    with single.open(portrait()) as session:
        session.push_audio(WAVE)
        session.push_audio(WAVE)
        spoken = next(shown for shown in session if not shown.idle)
        session.interrupt()
        assert session.report()["queue_seconds"] == 0.0 and session.turn == 1
        after = next(iter(session))
        assert after.idle and not after.sound.any() and after.turn == 1 > spoken.turn
        session.push_audio(WAVE)
        after = next(shown for shown in session if not shown.idle)
        heard = np.flatnonzero(after.sound)
        assert np.array_equal(after.sound[heard[0] :], WAVE[: len(after.sound) - heard[0]])


def test_too_much_sound_is_refused_and_nothing_of_it_is_taken(single):
    with single.open(portrait(), pace=False) as session:
        session.interrupt()
        for _ in range(9):
            session.push_audio(np.zeros(48_000, np.int16), 48_000)
        with pytest.raises(Overrun, match="at most 10 s"):
            session.push_audio(np.zeros(3 * 16_000))
        assert session.report()["queue_seconds"] <= 10.0
        for bad, reason in ((np.zeros((4, 99)), "shape"), (np.zeros(4, complex), "kind"), (np.zeros(()), "shape")):
            with pytest.raises(InputError, match=reason):
                session.push_audio(bad)
        with pytest.raises(InputError, match="rate"):
            session.push_audio(np.zeros(4), 4000)
        session.interrupt()
        session.push_audio(np.array([np.nan, 0.5]))
        assert session.report()["broken"] == 1


def test_what_cannot_be_opened(single):
    with pytest.raises(InputError, match="no picture"):
        single.open()
    with pytest.raises(InputError, match="give uint8"):
        single.open(np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(InputError, match="unknown word"):
        single.open(portrait(), emotion="bored")
    with pytest.raises(InputError, match="slots 0"):
        Engine(lively(), slots=0)
    with single.open(portrait(), pace=False) as session:
        with pytest.raises(Full, match="all 1 streams"):
            single.open(portrait())
        with pytest.raises(InputError, match="policy"):
            session.switch(policy="all")
    assert single.free == 1 and session.closed and session.take(WAIT) is None
    with pytest.raises(InputError, match="closed"):
        session.push_audio(WAVE)


def alive(seconds: float = 2.0) -> int:
    """Arrays that live, once the engine has let go of those of a session that is gone."""
    fewest, stop = len(jax.live_arrays()), time.monotonic() + seconds
    while time.monotonic() < stop:
        gc.collect()
        fewest = min(fewest, len(jax.live_arrays()))
        time.sleep(0.1)
    return fewest


def test_nothing_is_compiled_and_nothing_grows(single, tmp_path):
    """Joining, leaving, speaking, changing, interrupting, saving and resuming run programs that are there."""
    compiled = []

    def count(name, *_, **__):
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for turn in range(3):
            with single.open(portrait(turn), pace=turn == 2, seed=turn) as session:
                session.push_audio(WAVE, 22_050)
                session.switch(portrait(9), emotion="happy", ramp=0.3)
                session.take(WAIT)
                session.interrupt()
                session.switch(emotion="sad", policy="keep")
                session.push_audio(WAVE)
                session.end_segment()
                session.take(WAIT)
                session.save(tmp_path / "saved")
            with single.open(resume=tmp_path / "saved", pace=False) as session:
                session.push_audio(WAVE)
                session.take(WAIT)
            if turn == 1:
                before = alive()
        assert not compiled and alive() <= before
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert single._trace.maxlen == KEPT and len(single._trace) <= KEPT


def test_report_and_trace(single, tmp_path):
    with single.open(portrait(), pace=False) as session:
        pieces = collect(session, WAVE)
        report = session.report()
    assert report["shown"] == report["made"] == len(frames(pieces)) and report["position"] == report["made"] / 25
    assert report["dropped"] == report["faults"] == report["misses"] == report["gaps"] == report["waiting"] == 0
    assert set(report["stages_ms"]) == set(STAGES)
    work = report["block_ms"]
    assert 0 < work["p50"] <= work["p95"] <= work["p99"]
    single.trace(tmp_path / "trace.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [row["number"] for row in rows[-6:]] == list(range(6))
    assert all(row[name] >= 0.0 for row in rows[-6:] for name in STAGES)


def test_a_saved_session_goes_on_bit_for_bit(single, tmp_path):
    """In the middle of a sound, a ramp and an utterance, with a change that is still to come."""
    path = tmp_path / "session"

    def go_on(session):
        session.push_audio(WAVE[:5000], 22_050)
        return collect(session, WAVE)

    with single.open(portrait(), pace=False, emotion="sad") as session:
        session.switch(emotion="happy", ramp=2.0)
        session.push_audio(np.repeat(WAVE[:20_000], 3), 48_000)
        begun = [session.take(WAIT), session.take(WAIT)]
        session.switch(portrait(5), action="nod")
        session.save(path)
        wanted = go_on(session)
    with single.open(resume=path, pace=False) as session:
        made = go_on(session)
    assert made[0].first == wanted[0].first == 21
    assert np.array_equal(frames(made), frames(wanted)) and np.array_equal(sound(made), sound(wanted))
    assert [s.ended for s in made] == [s.ended for s in wanted]
    assert len(begun) == 2
    with pytest.raises(InputError, match="not a saved stream"):
        single.open(resume=tmp_path / "nothing")
