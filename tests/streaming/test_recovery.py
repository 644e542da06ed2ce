"""Injected faults are noticed, and a stream that they reached is whole again; its neighbours feel nothing."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.streaming.methods import METHODS
from knotjax.streaming.recovery import Limits, jit_check, jit_reanchor, mend, observe
from knotjax.streaming.state import ring_valid
from knotjax.streaming.step import jit_init, jit_step
from tests.helpers import GRID, UNDRIVEN, normal, random_conditions, random_params, relative, tiny

TWO = dict(steps=(1000, 500))
PLANS = {
    "knot_convkv": METHODS["knot_convkv"](**TWO),
    "live_act": METHODS["live_act"](chunk=4, first=3, reference=1, memory=2, recent=1, **TWO),
    "longlive": METHODS["longlive"](chunk=2, window=7, sink=2, **TWO),
    "avatar_forcing": METHODS["avatar_forcing"](blocks=2, chunk=2, history=2),
}
BAD = jnp.array([True, False])
STEPS = 4  # before the fault


class Streams:
    """Two streams of one plan."""

    def __init__(self, plan):
        rng = np.random.default_rng(5)
        self.plan, self.model = plan, tiny(layers=1, memory_ratio=plan.ratio, **UNDRIVEN)
        config = self.model.config
        self.params = random_params(self.model, 3)
        self.reference = normal(rng, (2, 1, *GRID, config.latent_channels))
        self.drive = random_conditions(config, rng, 2, plan.span)
        self.keys = jax.random.split(jax.random.key(2), 2)

    def begin(self):
        inputs = jax.tree.map(jnp.copy, (self.reference, self.drive.text, self.keys))
        return jit_init(self.model, self.plan, self.params, *inputs)

    def go(self, state, steps=1):
        out = []
        for _ in range(steps):
            state, emitted = jit_step(self.model, self.plan, self.params, state, self.drive)
            out.append(np.asarray(emitted))
        return state, np.stack(out)


@partial(jax.jit, static_argnums=1)
def poisoned(state, plan):
    """NaN wherever the first stream's own frames have gone."""

    def spoil(leaf, axis):
        return leaf.at[(slice(None),) * axis + (0,)].set(jnp.nan)

    names = ["ring", "memory"] + ["anchor"] * (plan.anchor.source == "stream")
    changes = {name: getattr(state, name).map(lambda leaf: spoil(leaf, 2)) for name in names}
    changes |= {name: spoil(getattr(state, name), 0) for name in ("knot", "window")}
    past = state.past and jax.tree.map(lambda leaf: spoil(leaf, 0), state.past)
    return dataclasses.replace(state, past=past, **changes)


@jax.jit
def copied(state):
    return jax.tree.map(jnp.copy, state)


@pytest.mark.parametrize("name", PLANS)
def test_a_poisoned_stream_is_whole_again(name):
    plan = PLANS[name]
    streams = Streams(plan)
    state, _ = streams.go(streams.begin(), STEPS)
    compiled = jit_step._cache_size()
    lost = streams.go(poisoned(copied(state), plan), 2)[1]
    assert np.all(np.isnan(lost[:, 0])), "without help a stream stays lost"
    plain = streams.go(copied(state), 4)[1]
    saved = jit_reanchor(plan, poisoned(copied(state), plan), BAD)
    assert int(ring_valid(plan, saved, plan.history)[0].sum()) == 0 and not np.any(saved.memory_valid[0])
    after, made = streams.go(copied(saved), 4)
    assert np.all(np.isfinite(made)) and all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after.ring))
    np.testing.assert_array_equal(made[:, 1], plain[:, 1], "the other stream goes on bit for bit")
    assert relative(made[:, 0], plain[:, 0]) >= 0.01
    # Nothing of the past is left: a healthy stream that starts anew here makes the same.
    fresh = streams.begin()
    fresh = dataclasses.replace(
        fresh,
        block=state.block,
        written=state.written,
        since=plan.first_frame(state.block),
        window=saved.window,
    )
    np.testing.assert_array_equal(streams.go(fresh, 4)[1][:, 0], made[:, 0])
    assert jit_step._cache_size() == compiled, "a fault is data"


def test_a_window_starts_again_from_the_noised_reference():
    plan = PLANS["avatar_forcing"]
    streams = Streams(plan)
    state, _ = streams.go(streams.begin(), STEPS)
    sigma = plan.timesteps[1] / 1000.0  # of the older block before its next pass
    before, state = np.asarray(state.window), jit_reanchor(plan, state, BAD)
    noise = (np.asarray(state.window[0]) - (1 - sigma) * np.asarray(streams.reference[0])) / sigma
    assert abs(noise.mean()) < 0.3 and 0.8 < noise.std() < 1.2
    np.testing.assert_array_equal(state.window[1], before[1])


def test_faults_are_noticed_and_healthy_blocks_are_not():
    rng = np.random.default_rng(1)
    reference = normal(rng, (3, 1, 8, 8, 4)) + 2.0
    record, there = observe(reference), jnp.ones((3, 3), bool)

    def block(seed):
        return jnp.tile(reference, (1, 3, 1, 1, 1)) + 0.3 * normal(np.random.default_rng(seed), (3, 3, 8, 8, 4))

    for seed in range(4):
        record, bad = jit_check(record, block(seed), there)
        assert not np.any(bad)
    compiled = jit_check._cache_size()
    faults = {
        "nan": block(9).at[1, 2, 0, 0, 0].set(jnp.nan),
        "infinity": block(9).at[1, 0, 3, 3, 1].set(-jnp.inf),
        "colour step": block(9).at[1, 1:, :, :, 0].add(4.0),
        "burst": block(9).at[1, 0, 2, 2, 2].add(100.0),
    }
    for name, fault in faults.items():
        kept, bad = jit_check(record, fault, there)
        assert bad.tolist() == [False, True, False], name
        np.testing.assert_array_equal(kept.recent[1], record.mean[1], "the stream starts from its reference again")
        shown = mend(fault, reference, bad)
        np.testing.assert_array_equal(shown[1], np.tile(reference[1], (3, 1, 1, 1)))
        np.testing.assert_array_equal(shown[::2], fault[::2])
        hidden = there.at[1].set(False)
        assert not np.any(jit_check(record, fault, hidden)[1]), "frames that do not exist are not looked at"
    # A slow drift passes from block to block until it is too far from the reference.
    slow, drifted = record, []
    for n in range(40):
        slow, bad = jit_check(slow, block(n) + 0.02 * n, there)
        drifted.append(bool(bad[0]))
    assert not any(drifted[:5]) and any(drifted)
    assert np.all(jit_check(record, block(3), there, Limits(step=1e-6))[1]), "limits are data"
    assert jit_check._cache_size() <= compiled + 1, "once for the limits as arguments"


@pytest.mark.parametrize("name", ["live_act", "avatar_forcing"])
def test_from_an_injected_fault_to_a_healthy_stream(name):
    """As a caller does it: step, check, mend, begin anew."""
    plan = PLANS[name]
    streams = Streams(plan)
    state, record = streams.begin(), observe(streams.reference)
    wide = Limits(step=50.0, drift=50.0, size=500.0)  # random weights make no portraits
    seen, shown = [], []
    for n in range(8):
        if n == 5:
            state = poisoned(state, plan)
        state, emitted = streams.go(state)
        first = plan.first_frame(n) + np.arange(plan.chunk)
        there = jnp.tile(jnp.asarray(first >= 0), (2, 1))
        record, bad = jit_check(record, emitted[0], there, wide)
        shown.append(np.asarray(mend(emitted[0], streams.reference, bad))[:, first >= 0])
        seen.append(bad.tolist())
        if np.any(bad):
            state = jit_reanchor(plan, state, bad)
    assert seen == [[n == 5, False] for n in range(8)]
    assert all(np.all(np.isfinite(block)) for block in shown)
