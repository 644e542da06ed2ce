"""Changing words and portrait in mid-stream, and saving a running stream."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.errors import InputError
from knotjax.models.dit import Conditions, Context
from knotjax.streaming.methods import knot_forcing, live_act, longlive
from knotjax.streaming.snapshot import load_snapshot, save_snapshot
from knotjax.streaming.step import jit_init, jit_step
from knotjax.streaming.switch import jit_switch, switch
from tests.helpers import GRID, normal, precision, random_conditions, random_params, relative, tiny

MODEL = tiny()
BEFORE = 3  # steps before the change
TIMES = (1000.0, 500.0)
PLANS = {
    "knot_forcing": dataclasses.replace(knot_forcing(), timesteps=TIMES),
    "longlive": dataclasses.replace(longlive(window=9, sink=2), timesteps=TIMES),
}


class Stream:
    """A stream with random inputs, two sets of words and two portraits."""

    def __init__(self, plan, dtype="float64", batch=1):
        rng = np.random.default_rng(3)
        self.plan, config = plan, MODEL.config
        self.params = random_params(MODEL, 2, dtype)
        self.portraits = [normal(rng, (batch, 1, *GRID, config.latent_channels), dtype) for _ in range(2)]
        self.words = [normal(rng, (batch, 2, config.text_dim), dtype) for _ in range(2)]
        self.drive = random_conditions(config, rng, batch, plan.span, dtype)
        self.keys = jax.random.split(jax.random.key(1), batch)

    def begin(self, steps=BEFORE, words=0, portrait=0):
        state = jit_init(
            MODEL, self.plan, self.params, jnp.copy(self.portraits[portrait]), self.words[words], jnp.copy(self.keys)
        )
        for _ in range(steps):
            state, _ = self.go(state, words)
        return state

    def go(self, state, words):
        drive = dataclasses.replace(self.drive, text=self.words[words])
        return jit_step(MODEL, self.plan, self.params, state, drive)

    def turn(self, state, words, portrait=None, **how):
        reference = None if portrait is None else self.portraits[portrait]
        return jit_switch(MODEL, self.plan, self.params, state, self.words[words], reference, **how)


def copied(state):
    return jax.tree.map(jnp.copy, state)


def test_new_words_take_effect_at_the_next_step_under_every_policy():
    with precision("float64"):
        stream = Stream(PLANS["knot_forcing"])
        state = stream.begin()
        old = stream.go(copied(state), 0)[1]
        keep = stream.go(copied(state), 1)[1]
        turned = stream.go(stream.turn(copied(state), 1), 1)[1]
        assert relative(keep, old) >= 0.01 and relative(turned, keep) >= 0.01


def test_the_reference_is_encoded_with_the_new_words_and_picture():
    with precision("float64"):
        stream = Stream(PLANS["knot_forcing"])
        state = stream.turn(stream.begin(), 1, portrait=1)
        fresh = stream.begin(steps=0, words=1, portrait=1)
        assert relative(state.anchor.k, fresh.anchor.k) <= 1e-9 and relative(state.anchor.v, fresh.anchor.v) <= 1e-9
        np.testing.assert_array_equal(state.reference, stream.portraits[1])
        words_only = stream.turn(stream.begin(), 1)
        assert relative(words_only.anchor.k, stream.begin().anchor.k) >= 0.01, "turning the old keys would be wrong"


def test_recache_equals_a_plain_forward():
    with precision("float64") as dtype:
        stream = Stream(PLANS["longlive"])
        state = stream.begin(steps=4)
        kept = copied(state)
        new = stream.turn(state, 1, recache=True)
        assert kept.ring.frames == 6 and stream.plan.history == 4  # frames 6 .. 11, of which 8 .. 11 count
        slots = np.asarray(jnp.argsort((jnp.arange(6) - kept.written) % 6))  # in order of time
        past = [a[:, slots] for a in (kept.past.latents, kept.past.audio, kept.past.motion)]
        position = jnp.arange(6, 12, dtype=jnp.int32)[None]
        valid = jnp.arange(6, 12)[None] >= 12 - stream.plan.history
        at = jnp.array([[6, 7]], jnp.int32)  # directly before frame 8
        sink = Context(kept.anchor.k[:, 0], kept.anchor.v[:, 0], at, jnp.ones((1, 2), bool))
        zero = jnp.zeros((1, 6), dtype)
        given = jnp.zeros_like(past[0])
        _, (k, v) = jax.jit(MODEL.apply)(
            {"params": stream.params}, past[0], given, zero + 1, zero, position,
            Conditions(stream.words[1], past[1], past[2]), (sink,), valid,
        )  # fmt: skip
        assert relative(new.ring.k[:, 0][:, :, slots], k) <= 1e-9 and relative(new.ring.v[:, 0][:, :, slots], v) <= 1e-9
        assert relative(new.ring.k, kept.ring.k) >= 0.01
        np.testing.assert_array_equal(new.anchor.k, kept.anchor.k)


def test_recache_before_anything_was_emitted():
    stream = Stream(PLANS["longlive"], "float32")
    state = stream.turn(stream.begin(steps=0), 1, recache=True)
    assert np.all(np.isfinite(stream.go(state, 1)[1]))


def test_recache_needs_a_plan_that_keeps_the_past():
    stream = Stream(PLANS["knot_forcing"], "float32")
    with pytest.raises(ValueError, match="recache: this plan"):
        switch(MODEL, stream.plan, stream.params, stream.begin(0), stream.words[0], recache=True)


@pytest.mark.parametrize("name", ["knot_forcing", "longlive", "live_act"])
def test_a_saved_stream_goes_on_bit_for_bit(tmp_path, name):
    plan = PLANS.get(name) or dataclasses.replace(live_act(chunk=4, first=4, reference=1, memory=1, recent=1))
    stream = Stream(plan, "float32", batch=2)
    state = stream.begin()
    path = tmp_path / "stream.safetensors"
    save_snapshot(path, state, {"method": name})
    expected = [np.asarray(stream.go(state, 0)[1])]
    restored = load_snapshot(path, jax.eval_shape(lambda: stream.begin(0)), {"method": name})
    np.testing.assert_array_equal(stream.go(restored, 0)[1], expected[0])
    assert not list(tmp_path.glob("*.part"))


def test_a_snapshot_of_something_else_is_refused(tmp_path):
    stream = Stream(PLANS["knot_forcing"], "float32")
    like = stream.begin(0)
    path = tmp_path / "stream.safetensors"
    with pytest.raises(InputError, match="not a saved stream"):
        load_snapshot(path, like)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="not a saved stream"):
        load_snapshot(path, like)
    save_snapshot(path, like, {"method": "a"})
    with pytest.raises(InputError, match="another stream"):
        load_snapshot(path, like, {"method": "b"})
    other = Stream(PLANS["knot_forcing"], "float32", batch=2).begin(0)
    with pytest.raises(InputError, match=r"key is key.*\[1\], not key.*\[2\]"):
        load_snapshot(path, other, {"method": "a"})
