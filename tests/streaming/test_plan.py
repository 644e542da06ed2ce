"""Plans: invalid ones are refused, published step lists are reproduced."""

import dataclasses

import numpy as np
import pytest

from knotjax.streaming.methods import METHODS, knot_forcing
from knotjax.streaming.noise import warp
from knotjax.streaming.plan import AnchorPolicy, KnotPolicy, StreamPlan

INVALID = [
    (dict(chunk=0), r"chunk 0: .*at least one"),
    (dict(chunk=-3), r"chunk -3: .*at least one"),
    (dict(history=-1), r"history -1: .*at least 0"),
    (dict(knot=KnotPolicy(3)), r"knot\.frames 3: .*below chunk 3"),
    (dict(knot=KnotPolicy(-1)), r"knot\.frames -1: .*at least 0"),
    (dict(knot=KnotPolicy(1, 1.5)), r"knot\.weight 1\.5: .*between 0 and 1"),
    (dict(knot=KnotPolicy(1, -0.1)), r"knot\.weight -0\.1: .*between 0 and 1"),
    (dict(knot=KnotPolicy(1, float("nan"))), r"knot\.weight nan: .*between 0 and 1"),
    (dict(anchor=AnchorPolicy(start=8, stride=0)), r"anchor .*stride=0.*stride must be at least 1"),
    (dict(anchor=AnchorPolicy(start=-1, stride=4)), r"anchor .*start=-1.*start at least 0"),
    (dict(timesteps=()), r"timesteps \(\): .*1000"),
    (dict(timesteps=(1000.0, 0.0)), r"timesteps .*0 excluded"),
    (dict(timesteps=(1000.5, 500.0)), r"timesteps .*1000\.5.*1000"),
    (dict(timesteps=(500.0, 750.0)), r"timesteps .*fall"),
    (dict(timesteps=(500.0, 500.0)), r"timesteps .*fall"),
    (dict(timesteps=(1000.0, float("nan"), 250.0)), r"timesteps .*nan"),
    (dict(timesteps=(float("nan"),)), r"timesteps .*nan"),
]


@pytest.mark.parametrize(("change", "message"), INVALID, ids=[str(change) for change, _ in INVALID])
def test_invalid_plan(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        StreamPlan(**change)
    assert "\n" not in str(caught.value)


def test_valid_extremes():
    for change in (
        dict(chunk=1, history=0, knot=KnotPolicy(0)),
        dict(history=0),
        dict(knot=KnotPolicy(2, 0.0)),
        dict(knot=KnotPolicy(0, 1.0)),
        dict(anchor=AnchorPolicy(start=0, stride=1)),
        dict(timesteps=(0.5,)),
    ):
        plan = StreamPlan(**change)
        assert plan.span == plan.chunk + plan.knot.frames


def test_paper_numbers():
    plan = METHODS["knot_forcing"]()
    assert (plan.chunk, plan.history, plan.knot.frames, plan.knot.weight) == (3, 3, 1, 0.5)
    assert (plan.span, plan.history, len(plan.timesteps)) == (4, 3, 4)
    assert plan.given_reference is False
    np.testing.assert_allclose(plan.timesteps, StreamPlan().timesteps, rtol=1e-12)
    assert (plan.anchor.start, plan.anchor.stride) == (8, 4)


def test_a_plan_can_be_a_static_argument():
    assert hash(knot_forcing()) == hash(knot_forcing()) and knot_forcing() == knot_forcing()
    with pytest.raises(dataclasses.FrozenInstanceError):
        knot_forcing().chunk = 4


@pytest.mark.parametrize(
    ("steps", "shift", "times"),
    [
        ((1000, 750, 500, 250), 5.0, (1000.00, 937.50, 833.33, 625.00)),  # Self Forcing, LongLive, Causal Forcing
        ((1000, 800, 600, 400, 200), 5.0, (1000.00, 952.38, 882.35, 769.23, 555.56)),  # Rolling Forcing
        ((1000, 800, 400, 200), 5.0, (1000.00, 952.38, 769.23, 555.56)),  # AvatarForcing
        ((1000, 900, 750, 500), 1.0, (1000.0, 900.0, 750.0, 500.0)),  # no shift
    ],
)
def test_published_step_lists(steps, shift, times):
    actual = warp(steps, shift)
    print(steps, shift, np.round(actual, 2))
    np.testing.assert_allclose(actual, times, atol=0.005)
