"""Streams that join, wait and leave in a batch are what they are alone, for every kind of plan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.live import slots
from knotjax.live.engine import LIMITS
from knotjax.models.patch_codec import DecodeState
from knotjax.streaming.methods import METHODS
from knotjax.streaming.step import jit_init, jit_step
from tests.helpers import GRID, UNDRIVEN, normal, random_conditions, random_params, relative, tiny

TWO = dict(steps=(1000, 500))
PLANS = {
    "knot_convkv": METHODS["knot_convkv"](**TWO),
    "longlive": METHODS["longlive"](chunk=2, window=9, sink=2, **TWO),  # a ring of several writes, and a kept past
    "avatar_forcing": METHODS["avatar_forcing"](blocks=2, chunk=2, history=2),
    "live_act": METHODS["live_act"](chunk=4, first=3, reference=1, memory=2, recent=1, **TWO),
}
RUNS = ((True, False), (True, False), (True, True), (False, True), (False, True), (False, True), (True, True))


class Streams:
    """Two streams of one plan, alone or together."""

    def __init__(self, plan):
        rng = np.random.default_rng(7)
        self.plan, self.model = plan, tiny(layers=1, memory_ratio=plan.ratio, **UNDRIVEN)
        self.params = random_params(self.model, 3)
        self.reference = normal(rng, (2, 1, *GRID, self.model.config.latent_channels))
        self.drive = random_conditions(self.model.config, rng, 2, plan.span)
        self.keys = jax.random.split(jax.random.key(2), 2)

    def begin(self, n):
        one = jax.tree.map(lambda a: jnp.copy(a[n : n + 1]), (self.reference, self.drive.text, self.keys))
        return jit_init(self.model, self.plan, self.params, *one)

    def alone(self, n, steps):
        state, out = self.begin(n), []
        drive = jax.tree.map(lambda a: a[n : n + 1], self.drive)
        for _ in range(steps):
            state, latents = jit_step(self.model, self.plan, self.params, state, drive)
            out.append(np.asarray(latents[0]))
        return out

    def one(self, n):
        still = self.reference[n : n + 1, 0]
        picture = jnp.zeros((1, 8, 8, 3))
        return slots.gather(self.begin(n), DecodeState(jnp.ones(1, bool), still, picture, still))

    def turn(self, held, active):
        args = self.model, self.plan, self.params, held, self.drive, np.array(active), LIMITS
        return slots.turn(*args)


@functools.cache
def streams(name):
    return Streams(PLANS[name])


@pytest.mark.parametrize("name", PLANS)
def test_streams_that_wait_and_join_equal_streams_alone(name):
    both = streams(name)
    held = slots.put(slots.empty(both.one(0), 2), both.one(0), np.int32(0))
    made = [[], []]
    for n, active in enumerate(RUNS):
        if n == 2:
            held = slots.put(held, both.one(1), np.int32(1))
        held, latents, bad = both.turn(held, active)
        assert not np.any(bad)
        for slot in range(2):
            if active[slot]:
                made[slot].append(np.asarray(latents[slot]))
    for slot in range(2):
        wanted = both.alone(slot, len(made[slot]))
        for step, (got, want) in enumerate(zip(made[slot], wanted)):
            assert relative(got, want) <= 1e-5, f"slot {slot}, step {step}"
    assert relative(made[1][0], both.alone(0, 1)[0]) > 0.01, "the streams differ"


def test_a_slot_that_moves_to_another_batch_goes_on():
    """One whose ring stands elsewhere."""
    both = streams("longlive")
    held = slots.put(slots.empty(both.one(0), 2), both.one(0), np.int32(0))
    other = slots.put(slots.empty(both.one(0), 2), both.one(1), np.int32(1))
    for _ in range(3):
        held, *_ = both.turn(held, (True, False))
    other, *_ = both.turn(other, (False, True))
    other = slots.put(other, slots.take(held, np.int32(0)), np.int32(0))
    for _ in range(3):
        held, wanted, _ = both.turn(held, (True, False))
        other, made, _ = both.turn(other, (True, True))
        assert relative(made[0], wanted[0]) <= 1e-5


def test_every_leaf_has_a_place_in_the_batch():
    """A new field of the state that `slots` does not know would be caught here."""
    both = streams("longlive")
    one = both.one(0)
    three = slots.empty(one, 3)
    for (path, leaf), more in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(three)):
        name = jax.tree_util.keystr(path)
        grown = [a != b for a, b in zip(leaf.shape, more.shape)]
        assert sum(grown) == (name != ".stream.written"), name
    two = slots.put(three, both.one(1), np.int32(2))
    back = slots.take(two, np.int32(2))
    data = [jax.random.key_data(a.stream.key) for a in (back, both.one(1))]
    np.testing.assert_array_equal(*data)
    np.testing.assert_array_equal(back.stream.reference, both.one(1).stream.reference)
