"""Plans: invalid ones are refused, published step lists are reproduced."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from knotjax.streaming import plan as plan_module
from knotjax.streaming.methods import METHODS, knot_forcing
from knotjax.streaming.noise import warp
from knotjax.streaming.plan import AnchorPolicy, KnotPolicy, MemoryPolicy, StreamPlan

ROLLING = dict(blocks=2, timesteps=(1000.0, 500.0), knot=KnotPolicy())
INVALID = [
    (dict(first_chunk=4), r"first_chunk 4: .*between 1 and chunk 3"),
    (dict(first_chunk=0), r"first_chunk 0: .*between 1 and chunk 3"),
    (dict(blocks=0), r"blocks 0: .*at least one"),
    (dict(commit_history=-2), r"commit_history -2: .*at least 0"),
    (dict(first_timesteps=(500.0, 600.0, 300.0, 100.0)), r"first_timesteps .*fall"),
    (dict(first_timesteps=(1000.0,)), r"first_timesteps .*at least 4 passes"),
    (dict(ROLLING, timesteps=(1000.0, 600.0, 300.0)), r"timesteps: 3 .* 2 blocks"),
    (dict(sampler="ddim"), r"sampler 'ddim': .*renoise, euler"),
    (dict(commit="dirty"), r"commit 'dirty': .*clean, same_step, none"),
    (dict(anchor=AnchorPolicy(source="portrait")), r"anchor\.source 'portrait'"),
    (dict(anchor=AnchorPolicy(place="left")), r"anchor\.place 'left'"),
    (dict(anchor=AnchorPolicy(frames=2)), r"anchor\.frames 2: the reference is one frame"),
    (dict(anchor=AnchorPolicy("stream", 4, "behind")), r"anchor\.frames 4: .*3 frames of block 0"),
    (dict(anchor=AnchorPolicy("stream", 2, "behind"), first_chunk=1), r"anchor\.frames 2: .*1 frames of block 0"),
    (dict(anchor=AnchorPolicy("stream", 1), commit="none", history=0), r"anchor\.source 'stream': .*'none'"),
    (dict(anchor=AnchorPolicy(place="drawn", lead=(3, 9))), r"anchor\.lead \(3, 9\): .*4 frames"),
    (dict(anchor=AnchorPolicy(place="drawn", lead=(9, 9))), r"anchor\.lead \(9, 9\)"),
    (dict(ROLLING, knot=KnotPolicy(1)), r"knot\.frames 1: needs blocks 1"),
    (dict(ROLLING, memory=MemoryPolicy(1)), r"memory\.frames 1: needs blocks 1"),
    (dict(ROLLING, first_timesteps=(1000.0, 500.0)), r"first_timesteps .*needs blocks 1"),
    (dict(ROLLING, commit="same_step"), r"commit 'same_step': .*2 blocks"),
    (dict(ROLLING, sampler="euler"), r"sampler 'euler': .*rolling window"),
    (dict(commit="same_step", first_timesteps=(1000.0, 900.0, 500.0, 200.0)), r"first_timesteps: same-step"),
    (dict(commit="none"), r"history 3: commit 'none'"),
    (dict(commit="same_step", commit_history=2), r"commit_history 2: only a clean pass"),
    (dict(memory=MemoryPolicy(1, "space")), r"memory\.axis 'space'"),
    (dict(memory=MemoryPolicy(-1)), r"memory\.frames -1"),
    (dict(memory=MemoryPolicy(2)), r"memory\.frames 2: must divide .*5"),
    (dict(chunk=2, knot=KnotPolicy(), memory=MemoryPolicy(1), commit="none", history=0), r"memory\.frames 1: takes"),
    (dict(memory=MemoryPolicy(1), commit_history=2), r"memory\.frames 1: takes at most"),
    (dict(recache=True, commit="same_step"), r"recache: .*'same_step'"),
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


def test_every_rule_has_a_plan_that_breaks_it():
    """Every `raise` of the plan's module is reached by one of the plans above."""
    tree = ast.parse(Path(plan_module.__file__).read_text())
    rules = [range(node.lineno, node.end_lineno + 1) for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    reached = set()
    for change, _ in INVALID:
        with pytest.raises(ValueError) as caught:
            StreamPlan(**change)
        line = caught.traceback[-1].lineno + 1
        reached |= {rule for rule in rules if line in rule}
    missing = sorted(rule.start for rule in set(rules) - reached)
    assert len(rules) > 20 and not missing, f"no plan breaks the rules on lines {missing}"


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
