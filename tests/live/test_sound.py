"""What waits to be heard is bounded, and what is missing is silence in the right place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knotjax.errors import InputError
from knotjax.live import Overrun
from knotjax.live.sound import CUSHION, LAST, LIMIT, PUSHED, SILENCE, SoundQueue

BLOCK = 7680


def tone(count, start=0):
    return 1.0 + np.arange(start, start + count, dtype=np.float32)


def test_no_more_than_ten_seconds_wait():
    queue = SoundQueue()
    queue.room(LIMIT)
    queue.push(tone(LIMIT - 5))
    queue.room(5)
    with pytest.raises(Overrun, match="at most 10 s") as caught:
        queue.room(6)
    assert isinstance(caught.value, InputError) and len(queue) == LIMIT - 5
    queue.take(1)
    queue.room(6)
    queue.clear()
    assert len(queue) == 0 and not queue.open


def test_nothing_is_silence():
    samples, kinds = SoundQueue().take(BLOCK)
    assert samples.shape == kinds.shape == (BLOCK,) and not samples.any() and not kinds.any()


def test_an_utterance_that_sets_in_is_not_torn():
    queue = SoundQueue()
    queue.push(tone(3000))
    samples, kinds = queue.take(BLOCK)
    taken = 3000 - CUSHION
    assert np.array_equal(samples[-taken:], tone(taken)) and not samples[:-taken].any()
    assert np.array_equal(kinds, np.repeat([SILENCE, PUSHED], [BLOCK - taken, taken]))
    queue.push(tone(BLOCK, 3000))  # in real time
    samples, kinds = queue.take(BLOCK)
    assert np.array_equal(samples, tone(BLOCK, taken)) and queue.gaps == 0 and len(queue) == CUSHION


def test_an_utterance_that_is_whole_begins_at_once():
    queue = SoundQueue()
    queue.push(tone(3000))
    assert queue.end()
    samples, kinds = queue.take(BLOCK)
    assert np.array_equal(samples[:3000], tone(3000)) and not samples[3000:].any()
    assert kinds[2999] == LAST and (kinds == LAST).sum() == 1 and queue.gaps == 0 and not queue.talking


def test_sound_that_comes_too_late_leaves_a_gap_that_is_counted():
    queue = SoundQueue()
    queue.push(tone(BLOCK + 100))
    queue.take(BLOCK)
    samples, _ = queue.take(BLOCK)
    assert np.array_equal(samples[:100], tone(100, BLOCK)) and not samples[100:].any()
    assert queue.gaps == 1 and not queue.talking
    assert not queue.end(), "its end was heard already"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * BLOCK), st.booleans()), max_size=20))
def test_nothing_that_was_pushed_is_lost_or_turned_round(pushes):
    queue, pushed, heard = SoundQueue(), 0, []
    for count, ends in pushes:
        queue.push(tone(count, pushed))
        pushed += count
        if ends:
            queue.end()
        heard.append(queue.take(BLOCK))
    queue.end()
    while len(queue):
        heard.append(queue.take(BLOCK))
    samples, kinds = (np.concatenate(parts) for parts in zip(*heard)) if heard else (np.zeros(0), np.zeros(0))
    assert np.array_equal(samples[kinds != SILENCE], tone(pushed)) and not samples[kinds == SILENCE].any()
