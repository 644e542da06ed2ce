"""Where the reference stands."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from knotjax.models.dit import Context
from knotjax.streaming import anchor
from knotjax.streaming.plan import AnchorPolicy
from tests.helpers import GRID, normal, precision, random_conditions, random_params, relative, tiny

AHEAD = jax.jit(jax.vmap(anchor.ahead, in_axes=(None, 0, None)), static_argnums=(0, 2))


def by_loop(start, stride, chunk, knot, blocks):
    """Lines 6-7 of Algorithm 1 with `while`."""
    n, positions = start, []
    for b in range(blocks):
        while b * chunk + chunk + knot > n:
            n += stride
        positions.append(n)
    return np.array(positions)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 8), st.integers(0, 7), st.integers(1, 40))
def test_runs_ahead(start, stride, chunk, knot, blocks):
    knot = min(knot, chunk - 1)
    span, first = chunk + knot, chunk * np.arange(blocks, dtype=np.int32)
    # Not compiled: every example has other static numbers.
    policy = AnchorPolicy(start=start, stride=stride)
    n = first + np.array([int(anchor.ahead(policy, np.int32(i), span)) for i in first])
    assert np.all(n > first + span - 1), "strictly ahead of every denoised frame"
    assert np.all((n - start) % stride == 0) and np.all(n >= start)
    smaller = n - stride
    assert np.all((smaller < start) | (smaller < first + span)), "minimal"
    np.testing.assert_array_equal(n, by_loop(start, stride, chunk, knot, blocks))


def test_far_into_a_stream():
    """After years at 25 frames per second the position is still exact, and only the small lead enters any angle."""
    first = np.int32(2**31 - 100) - np.arange(0, 30, 3, dtype=np.int32)
    leads = np.asarray(AHEAD(AnchorPolicy(start=8, stride=4), first, 4))
    assert leads.dtype == np.int32
    for i, lead in zip(first.tolist(), leads.tolist()):
        n = i + lead
        assert n >= i + 4 > n - 4 and n % 4 == 0


def test_when_turning_is_not_encoding_anew():
    """Two frames that look only at each other may move together; moved apart, or past what they saw, they differ."""
    with precision("float64"):
        model, rng = tiny(), np.random.default_rng(5)
        params = random_params(model, dtype="float64")
        z = model.config.latent_channels
        frames, other = (normal(rng, (1, 2, *GRID, z), "float64") for _ in range(2))
        conditions = random_conditions(model.config, rng, 1, 2, "float64")
        still = np.zeros((1, 2))

        @jax.jit
        def encode(x, at, contexts=()):
            return model.apply({"params": params}, x, x, still, still, at, conditions, contexts)[1]

        def off(one, two):
            return max(relative(a, b) for a, b in zip(one, two))

        here = np.array([[0, 1]], np.int32)
        seen = Context(*encode(other, here), here - 4, np.ones((1, 2), bool))
        alone, beside = encode(frames, here), encode(frames, here, (seen,))
        figures = {
            "moved together": off(encode(frames, here + 1000), alone),
            "moved apart": off(encode(frames, here * 6), alone),
            "moved away from its context": off(encode(frames, here + 9, (seen,)), beside),
        }
        print({name: f"{figure:.1e}" for name, figure in figures.items()})
        assert figures["moved together"] < 1e-9
        assert figures["moved apart"] > 1e-2 and figures["moved away from its context"] > 1e-2
