"""The training objective sees what a stream sees."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models.dit import Conditions, DiT, DiTConfig, undriven
from knotjax.streaming import cache, passes, step
from knotjax.streaming.methods import knot_forcing
from knotjax.training.objectives import FlowConfig, stream_flow
from knotjax.training.objectives import flow as objectives

SIZES = DiTConfig(
    latent_channels=4, dim=24, ffn_dim=32, heads=2, layers=2, freq_dim=16, text_dim=8,
    audio_tokens=2, audio_width=8, audio_hidden=16, audio_window=(8, 6),
    motion_tokens=2, motion_window=(4, 5), motion_every=2, prediction="x0", given_residual=True,
)  # fmt: skip
PLAN = knot_forcing(start=4, stride=1, shift=3.0, given_reference=True)
EXACT = FlowConfig(history_noise=0.0, drop_history=0.0, drop_knot=0.0, max_lead=1)


@pytest.fixture(scope="module")
def setup():
    model, rng = DiT(SIZES), np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    latents = normal(2, 10, 4, 4, 4)
    one, zero = latents[:, :1], jnp.zeros((2, 1))
    still = undriven(SIZES, normal(2, 2, 8), 1)
    params = jax.jit(model.init)(jax.random.key(0), one, one, zero, zero, zero.astype(jnp.int32), still)["params"]
    params = jax.tree.map(lambda a: a + 0.1 * normal(*a.shape), params)
    assert all(bool(jnp.all(a != 0)) for a in jax.tree.leaves(params))
    batch = {
        "latents": latents,
        "mouth": jnp.zeros(latents.shape[:-1], bool).at[:, :, 1].set(True),
        "reference": normal(2, 1, 4, 4, 4),
        "audio": normal(2, 10, 8, 6),
        "motion": normal(2, 10, 4, 5),
    }
    return model, params, batch, normal(2, 2, 8)


def test_contexts_are_those_of_the_stream(setup, monkeypatch):
    """Chunk i is denoised against the reference and ring that a stream holds after emitting the chunks before it."""
    model, params, batch, text = setup
    caught = {}

    def capture(model, plan, params, x, t, reference, knot, knot_valid, position, conditions, contexts):
        caught.update(knot=knot, knot_valid=knot_valid, position=position, conditions=conditions, contexts=contexts)
        return x, None

    @jax.jit
    def captured(params, batch):
        stream_flow(model, PLAN, EXACT, params, batch, text, jax.random.key(1))
        return dict(caught)

    monkeypatch.setattr(objectives.passes, "denoise_pass", capture)
    seen = captured(params, batch)
    monkeypatch.undo()

    init, commit = (jax.jit(function, static_argnums=(0, 1)) for function in (step.init_stream, passes.commit_pass))
    state = init(model, PLAN, params, batch["reference"], text, jax.random.split(jax.random.key(2), 2))
    for chunk in range(3):
        contexts = step.contexts(PLAN, state, jnp.zeros((), jnp.int32), jnp.zeros(2, jnp.int32))
        for mine, theirs in zip(seen["contexts"], contexts, strict=True):
            rows = slice(chunk, None, 3)  # rows are samples x chunks
            np.testing.assert_array_equal(mine.valid[rows], theirs.valid)
            for name in ("k", "v"):
                held = jnp.where(theirs.valid[None, :, :, None, None, None], getattr(theirs, name)[:, 0], 0)
                np.testing.assert_allclose(getattr(mine, name)[:, rows], held, atol=2e-5)
            where = np.where(np.asarray(theirs.valid), theirs.position, mine.position[rows])
            np.testing.assert_array_equal(mine.position[rows], where)
        first = 3 * chunk
        np.testing.assert_array_equal(seen["position"][chunk::3], np.tile(np.arange(4), (2, 1)))
        np.testing.assert_array_equal(seen["knot_valid"][chunk::3], [chunk > 0] * 2)
        np.testing.assert_array_equal(seen["knot"][chunk::3], batch["latents"][:, first : first + 1])
        np.testing.assert_array_equal(seen["conditions"].audio[chunk::3], batch["audio"][:, first : first + 4])
        emitted = batch["latents"][:, first : first + 3]
        here = jnp.broadcast_to(jnp.arange(3), (2, 3))
        heard = Conditions(text, batch["audio"][:, first : first + 3], batch["motion"][:, first : first + 3])
        k, v = commit(model, PLAN, params, emitted, batch["reference"], here, heard, contexts)
        ring = cache.append(state.ring, (k, v), 0, state.written)
        state = dataclasses.replace(state, ring=ring, written=state.written + 3, block=state.block + 1)


def test_loss_is_the_weighted_error(setup, monkeypatch):
    """A prediction that is off by d everywhere costs d^2 / (floor + sigma), averaged over chunks."""
    model, params, batch, text = setup
    seen = {}

    def off(model, plan, params, x, t, *rest):
        seen["sigma"] = t[:, 0] / 1000.0
        target = jnp.stack([batch["latents"][:, 3 * i : 3 * i + 4] for i in range(3)], 1)
        return target.reshape(x.shape) + 0.5, None

    @partial(jax.jit, static_argnums=0)
    def flow(config, weight=1.0):
        return *stream_flow(model, PLAN, config, params, batch, text, jax.random.key(1), weight), seen["sigma"]

    monkeypatch.setattr(objectives.passes, "denoise_pass", off)
    loss, scalars, sigma = flow(EXACT)
    np.testing.assert_allclose(loss, np.mean(0.25 / (0.1 + np.asarray(sigma))), rtol=1e-5)
    np.testing.assert_allclose(scalars["error"], 0.25, rtol=1e-5)
    assert np.ptp(sigma) > 0.05
    weighted, scalars, _ = flow(EXACT, jnp.array([0.5, 1.0, 1.5, 3.0]))
    np.testing.assert_allclose(weighted, 1.5 * loss, rtol=1e-5)
    np.testing.assert_allclose(scalars["error"], 1.5 * 0.25, rtol=1e-5)
    at_mouth, scalars, _ = flow(dataclasses.replace(EXACT, mouth=4.0))  # one row of four lies at the mouth
    np.testing.assert_allclose(at_mouth, 2.0 * loss, rtol=1e-5)
    np.testing.assert_allclose(scalars["error"], 0.25, rtol=1e-5)


def test_gradient_reaches_every_input(setup):
    model, params, batch, text = setup
    inputs = {name: batch[name] for name in ("latents", "reference", "audio", "motion")}

    def loss(inputs):
        return stream_flow(model, PLAN, FlowConfig(), params, batch | inputs, text, jax.random.key(1))[0]

    for name, gradient in jax.jit(jax.grad(loss))(inputs).items():
        assert float(jnp.abs(gradient).max()) > 1e-6, name


def test_window_must_hold_one_chunk(setup):
    model, params, batch, text = setup
    with pytest.raises(ValueError, match="history 6"):
        stream_flow(model, knot_forcing(window=9), EXACT, params, batch, text, jax.random.key(1))
