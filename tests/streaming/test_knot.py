"""Fusing the knot."""

import jax.numpy as jnp
import numpy as np

from knotjax.streaming.knot import fuse
from knotjax.streaming.plan import KnotPolicy
from tests.helpers import normal


def test_only_the_first_frames_of_running_streams_change():
    rng = np.random.default_rng(0)
    x0, knot = normal(rng, (2, 5, 2, 2, 3)), normal(rng, (2, 2, 2, 2, 3))
    fused = np.asarray(fuse(KnotPolicy(2, 0.25), x0, knot, jnp.array([True, False])))
    np.testing.assert_allclose(fused[0, :2], 0.25 * knot[0] + 0.75 * x0[0, :2], atol=1e-6)
    np.testing.assert_array_equal(fused[0, 2:], x0[0, 2:])
    np.testing.assert_array_equal(fused[1], x0[1])


def test_half_weight_is_the_average_of_equation_5():
    rng = np.random.default_rng(1)
    x0, knot = normal(rng, (1, 4, 2, 2, 3)), normal(rng, (1, 1, 2, 2, 3))
    fused = np.asarray(fuse(KnotPolicy(1), x0, knot, jnp.array([True])))
    np.testing.assert_allclose(fused[:, :1], (knot + x0[:, :1]) / 2.0, atol=1e-6)


def test_no_knot():
    x0 = jnp.ones((1, 3, 2, 2, 3))
    np.testing.assert_array_equal(fuse(KnotPolicy(0), x0, x0[:, :0], jnp.array([True])), x0)
