"""Streams of any length: every frame once, one program, the same memory and time, however far in."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.streaming import noise
from knotjax.streaming.methods import METHODS, avatar_forcing, knot_forcing, live_act
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.step import jit_init, jit_step, stream_step
from tests.helpers import GRID, UNDRIVEN, normal, random_conditions, random_params, relative, tiny

MODEL = tiny(layers=1, **UNDRIVEN)


def begin(plan: StreamPlan, batch=1, model=MODEL):
    rng = np.random.default_rng(0)
    params = random_params(model, 1)
    reference = normal(rng, (batch, 1, *GRID, model.config.latent_channels))
    drive = random_conditions(model.config, rng, batch, plan.span)
    return (
        params,
        drive,
        jit_init(model, plan, params, reference, drive.text, jax.random.split(jax.random.key(0), batch)),
    )


@pytest.mark.parametrize("name", METHODS)
def test_one_program_in_constant_memory(name):
    plan = METHODS[name]()
    params, drive, state = begin(plan)
    sizes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    state, _ = jit_step(MODEL, plan, params, state, drive)
    compiled = jit_step._cache_size()
    for _ in range(2 if name == "bidirectional" else 11):
        state, emitted = jit_step(MODEL, plan, params, state, drive)
    assert jit_step._cache_size() == compiled, "start, filling window and steady state are one program"
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)] == sizes
    assert np.all(np.isfinite(emitted))
    moved = dataclasses.replace(state, end=state.end * 0 + 40)
    jit_step(MODEL, plan, params, moved, drive)
    assert jit_step._cache_size() == compiled, "so are flush and a part-filled last block"


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"bidirectional"}))
def test_ten_million_frames_in(name):
    """Frame numbers enter through differences alone: a stream moved far along goes on as it would have."""
    plan = METHODS[name]()
    params, drive, state = begin(plan)
    early = 12 * plan.chunk * plan.anchor.stride
    shift = 10_000_000 // early * early // plan.chunk  # steps: the reference's grid of jumps is met again
    for _ in range(14):
        state, _ = jit_step(MODEL, plan, params, state, drive)
    real = noise.block_noise

    def go(state, moved):
        def drawn(key, block, step, shape, dtype):
            return real(key, block - moved, step, shape, dtype)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("knotjax.streaming.step.block_noise", drawn)
            if plan.anchor.place == "drawn":
                patch.setattr("knotjax.streaming.anchor.positions", lambda plan, first, *_: first[:, None] * 0 + 7)
            step = jax.jit(lambda params, state, drive: stream_step(MODEL, plan, params, state, drive))
            out = []
            for _ in range(3):
                state, emitted = step(params, state, drive)
                out.append(np.asarray(emitted))
        return np.stack(out)

    far = dataclasses.replace(state, block=state.block + shift)
    assert int(plan.first_frame(far.block)[0]) > 9_900_000
    error = relative(go(far, shift), go(state, 0))
    print(name, "ten million frames in", error)
    assert error <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"bidirectional"}))
def test_a_thousand_steps_take_the_same_time(name):
    """Median of steps 950-1000 over that of 50-100, milliseconds each.

    What else the machine does moves plain medians by tens of percent, so in both stretches each step is timed beside
    one of a copy that starts at step 50 again, and the medians are of these quotients.
    """
    plan, model = METHODS[name](), tiny(layers=4, dim=192, ffn_dim=384, heads=4, **UNDRIVEN)
    params, drive, state = begin(plan, model=model)
    compiled, size = jit_step._cache_size(), sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    def timed(state):
        began = time.perf_counter()
        state, emitted = jit_step(model, plan, params, state, drive)
        assert np.all(np.isfinite(emitted))
        return state, time.perf_counter() - began

    times, quotients = [], {}
    for n in range(1000):
        if n == 50:
            kept = jax.tree.map(jnp.copy, state)
        if n in (50, 950):
            young = jax.tree.map(jnp.copy, kept)
        state, own = timed(state)
        times.append(own)
        if 50 <= n < 100 or n >= 950:
            young, other = timed(young)
            quotients.setdefault(n >= 950, []).append(own / other)
    assert jit_step._cache_size() <= compiled + 2
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == size
    plain = np.median(times[950:]) / np.median(times[50:100])
    ratio = np.median(quotients[True]) / np.median(quotients[False])
    print(f"{name}: {ratio:.3f} (plain medians {plain:.3f}), {1000 * np.median(times[50:]):.2f} ms a step")
    assert ratio <= 1.05


INVALID = [
    (lambda: live_act(reference=7), "anchor.frames 7"),
    (lambda: live_act(memory=3), "memory.frames 3"),
    (lambda: live_act(parity="public"), "parity 'public'"),
    (lambda: knot_forcing(chunk=3, knot=3), "knot.frames 3"),
    (lambda: knot_forcing(window=2), "window 2"),
    (lambda: knot_forcing(stride=0), "stride must be at least 1"),
    (lambda: avatar_forcing(blocks=3, passes=2, steps=(1000, 500)), "timesteps: 2"),
    (lambda: METHODS["causal_forcing"](count=3), "count 3"),
    (lambda: METHODS["live_avatar"](lead=(2, 30)), "anchor.lead"),
    (lambda: METHODS["longlive"](window=4), "window 4"),
]


@pytest.mark.parametrize(("make", "message"), INVALID, ids=[message for _, message in INVALID])
def test_plans_that_cannot_work_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
