"""Streams that join share the moments of the others, and no frame is due before it can be there."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knotjax.live.clock import SLACK, Beat, Pace, delay, hears
from knotjax.streaming.methods import METHODS

PLANS = [METHODS["knot_forcing"](), METHODS["live_act"](), METHODS["avatar_forcing"](), METHODS["rolling_forcing"]()]


def test_the_delay_is_look_ahead_one_block_and_the_slack():
    look_ahead = 0.16 + 0.08 + 0.0075  # knot, context and margin of the sound's features
    assert delay(PLANS[0]) == pytest.approx(look_ahead + 0.48 + SLACK) and SLACK == 0.2


@settings(deadline=None)
@given(st.sampled_from(PLANS), st.floats(0, 1e5), st.floats(0, 1e5), st.sampled_from([0, 7]))
def test_pace(plan, origin, later, step):
    beat = dataclasses.replace(Beat.of(plan), origin=origin)
    now = origin + later
    pace = Pace(plan, beat, now, step)
    first = beat.at(pace.beat(step))
    wait = beat.period if step else hears(plan, 0)
    assert first >= now - 1e-5 and (first <= now + wait + 1e-5 or first <= now + beat.period)
    for n in range(step, step + 20):
        emitted = plan.emitted(n)
        if emitted:
            frame = max(0, 4 * emitted.start - 3)
            assert pace.due(frame) >= beat.at(pace.beat(n)) + SLACK - 1e-5
    assert pace.due(25) - pace.due(0) == pytest.approx(1.0)
    before = pace.due(0)
    pace.shift(3)
    assert pace.due(0) - before == pytest.approx(3 * beat.period, abs=1e-5)
