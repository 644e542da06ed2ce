"""The rules for what is late, and what waits to be taken."""

import threading

import numpy as np
import pytest

from knotjax.drive import FRAME
from knotjax.live.clock import Beat, Pace, hears
from knotjax.live.seat import BLOCKS, Seat
from knotjax.live.stages import Block
from knotjax.timeline import Timeline
from tests.animators import tiny, voice

PLAN = tiny().plan()
PIXELS = np.zeros((12, 8, 8, 3), np.uint8)


def seated(paced=True):
    lock = threading.RLock()
    beat = Beat.of(PLAN)
    beat.origin = hears(PLAN, 0)
    pace = Pace(PLAN, beat, 0.0) if paced else None
    seat = Seat(0, Timeline(tiny().model, PLAN), beat, lock, pace)
    lock.acquire()
    return seat


def block(seat, now):
    """One block that comes out at a time."""
    began = Block(now, 0, 1, seat.timeline.step)
    turn = seat.begin()
    seat.timeline.moment()
    seat.finish(PIXELS, False, began, now, turn)


def test_in_time():
    seat = seated()
    for n in range(4):
        due = seat.next
        assert due == pytest.approx(0.6075 + 0.48 * n) and not seat.ready(due - 0.001) and seat.ready(due)
        block(seat, due + 0.05)
        shown = seat.take(due + 0.06)
        assert shown.first == (0, 9, 21, 33)[n] and shown.idle and not shown.sound.any()
        assert shown.due == pytest.approx(0.9275 + shown.first / 25)
        assert len(shown.sound) == FRAME * len(shown.frames) == FRAME * (9, 12, 12, 12)[n]
    assert (seat.late, seat.misses, seat.stalls, sum(seat.dropped.values())) == (0, 0, 0, 0)
    assert seat.blocks[-1].queue == pytest.approx(0.01) and seat.blocks[-1].slack == pytest.approx(0.15)


def test_late_frames():
    seat = seated()
    block(seat, 0.9275 + 0.11)  # due at 0, 40, 80 ms: three late, and the time of the first two is over
    shown = seat.take(1.1)
    assert (seat.late, seat.misses, seat.dropped["late"]) == (3, 1, 2)
    assert shown.first == 2 and len(shown.frames) == 7 and shown.due == pytest.approx(0.9275 + 0.08)
    assert len(shown.sound) == 7 * FRAME
    block(seat, 1.2875 + 0.45)
    assert seat.take(5.0).first == 20 and (seat.dropped["late"], seat.misses, seat.stalls) == (13, 2, 0)
    block(seat, 1.7675 + 7 * 0.48 + 0.11)  # late by seven blocks and a little: shown from now on
    shown = seat.take(6.0)
    assert (seat.stalls, seat.misses, seat.dropped["late"]) == (1, 3, 15)
    assert shown.first == 23 and shown.due == pytest.approx(1.7675 + 7 * 0.48 + 0.08)


def test_a_stall_moves_all_that_follows_by_whole_blocks():
    seat = seated()
    assert seat.ready(0.6075 + 0.47) and seat.stalls == 0
    assert seat.ready(0.6075 + 2 * 0.48 + 0.1) and seat.stalls == 1
    assert seat.next == pytest.approx(0.6075 + 2 * 0.48)
    block(seat, 0.6075 + 2 * 0.48 + 0.15)
    assert seat.take(2.0).due == pytest.approx(0.9275 + 2 * 0.48) and seat.late == 0


def test_what_nobody_takes_is_dropped_and_the_clock_goes_on():
    seat = seated()
    for _ in range(5):
        block(seat, seat.next + 0.01)
        assert len(seat.out) <= BLOCKS
    first, second = seat.take(3.0), seat.take(3.0)
    assert (first.first, second.first) == (33, 45) and seat.dropped == {"late": 0, "queue": 33, "interrupt": 0}
    assert second.due == pytest.approx(0.9275 + 45 / 25) and seat.take(3.0) is None


def test_without_pace_nothing_is_made_that_has_no_room():
    seat = seated(paced=False)
    seat.push(voice(5.0))
    for _ in range(BLOCKS):
        assert seat.ready(0.0)
        block(seat, 99.0)
    assert not seat.ready(0.0)
    assert seat.take(0.0).first == 0 and seat.ready(0.0)


def test_interruption_drops_what_waits_and_what_is_being_made():
    seat, wave = seated(), voice(6.0)
    seat.push(wave)
    block(seat, 0.7)
    seat.take(0.7)
    block(seat, 1.2)
    turn = seat.begin()  # being made
    seat.timeline.moment()
    seat.interrupt()
    seat.finish(PIXELS, False, Block(1.6, 0, 1, 2), 1.6, turn)
    assert seat.take(1.6) is None and seat.dropped["interrupt"] == 24 and len(seat.sound) == 0
    block(seat, 2.1)
    shown = seat.take(2.1)
    assert shown.first == 33 and shown.idle and not shown.sound.any() and shown.turn == seat.turn == 1
    seat.push(wave)
    seat.interrupt()
    seat.push(wave[:30_000])
    block(seat, 2.6)
    shown = seat.take(2.6)
    assert shown.first == 45 and not shown.idle and np.array_equal(shown.sound, wave[: 12 * FRAME])


def test_the_end_of_an_utterance_is_told_once():
    seat, told = seated(), []
    seat.push(voice(0.9))
    for n in range(6):
        if n == 2:  # all of it is heard, its last frames are still to be made
            seat.end()
        block(seat, seat.next)
        told.append(seat.take(0.0).ended)
    assert told == [False, False, True, False, False, False]
    seat.push(voice(0.1))
    seat.end()
    for _ in range(4):
        block(seat, seat.next)
        told.append(seat.take(0.0).ended)
    assert sum(told) == 2


@pytest.mark.parametrize("count", [1, 640, 641, 5760, 5761, 9000, 20_000])
def test_an_ended_sound_is_played_to_its_end_and_no_block_further(count):
    seat = seated(paced=False)
    seat.push(voice(2.0)[:count])
    seat.end()
    seat.end()
    made = 0
    while seat.ready(0.0):
        block(seat, 0.0)
        shown = seat.take(0.0)
        made = shown.first + len(shown.frames)
    assert seat.drained and shown.ended and made - len(shown.frames) < -(-count // FRAME) <= made
