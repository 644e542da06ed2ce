"""Contributions of the frames in view, read from a running step."""

import jax
import numpy as np
import pytest

from knotjax.evaluation.attention_context import block_context
from knotjax.evaluation.frame_contribution import frame_contributions
from knotjax.models import dit
from knotjax.streaming.methods import METHODS
from knotjax.streaming.step import jit_init, jit_step
from tests.helpers import GRID, UNDRIVEN, normal, random_conditions, random_params, tiny

MODEL = tiny(**UNDRIVEN)
TWO = dict(steps=(1000, 500))
PLANS = {
    "knot_forcing": METHODS["knot_forcing"](chunk=2, window=5, **TWO),
    "longlive": METHODS["longlive"](chunk=2, window=7, sink=2, **TWO),
}


def after(plan, steps):
    rng = np.random.default_rng(0)
    params = random_params(MODEL, 4)
    drive = random_conditions(MODEL.config, rng, 1, plan.span)
    reference = normal(rng, (1, 1, *GRID, MODEL.config.latent_channels))
    state = jit_init(MODEL, plan, params, reference, drive.text, jax.random.split(jax.random.key(3), 1))
    for _ in range(steps):
        state, _ = jit_step(MODEL, plan, params, state, drive)
    return params, state, drive


@pytest.mark.parametrize("name", PLANS)
def test_every_frame_in_view_has_a_score(name):
    plan = PLANS[name]
    params, state, drive = after(plan, 4)
    attend, held = dit.attend, np.asarray(state.ring.k)
    scores = frame_contributions(MODEL, plan, params, state, drive)
    assert sorted(scores) == sorted(block_context(plan, 4)[1].tolist())
    assert all(0.0 < score < 3.0 for score in scores.values())
    np.testing.assert_array_equal(state.ring.k, held)
    assert dit.attend is attend
    other = frame_contributions(MODEL, plan, params, state, drive, frame=1)
    assert other.keys() == scores.keys() and other != scores


def test_a_frame_that_sees_only_itself_contributes_everything():
    plan = METHODS["self_forcing"](chunk=1, history=0, **TWO)
    params, state, drive = after(plan, 1)
    assert frame_contributions(MODEL, plan, params, state, drive) == {1: pytest.approx(1.0)}
