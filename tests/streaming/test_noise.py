"""Noise levels, conversions and keyed noise."""

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.streaming.noise import add_noise, block_noise, to_x0
from tests.helpers import normal


def test_flow_conversions():
    rng = np.random.default_rng(0)
    x0, eps = normal(rng, (2, 3, 4, 4, 5)), normal(rng, (2, 3, 4, 4, 5))
    t = jnp.array([[1000.0, 0.0, 250.0], [625.0, 937.5, 10.0]])
    x = np.asarray(add_noise(x0, eps, t))
    sigma = np.asarray(t)[..., None, None, None] / 1000.0
    np.testing.assert_allclose(x, (1 - sigma) * x0 + sigma * eps, atol=1e-6)
    np.testing.assert_array_equal(x[0, 0], eps[0, 0])
    np.testing.assert_array_equal(x[0, 1], x0[0, 1])
    np.testing.assert_allclose(to_x0(eps - x0, x, t, "v"), x0, atol=2e-6)
    np.testing.assert_array_equal(to_x0(x0, x, t, "x0"), x0)


def test_noise_depends_on_key_block_and_pass_alone():
    keys = jax.random.split(jax.random.key(5), 3)
    shape = (2, 4, 4, 3)

    @jax.jit
    def drawn(key, block, step):
        return block_noise(key, block, step, shape, jnp.float32)

    three = np.asarray(drawn(keys, 6, 2))
    for i in range(3):
        expected = jax.random.normal(jax.random.fold_in(jax.random.fold_in(keys[i], 6), 2), shape, jnp.float32)
        np.testing.assert_array_equal(three[i], expected)
    swapped = np.asarray(drawn(keys[::-1], 6, 2))
    np.testing.assert_array_equal(swapped[::-1], three)
    draws = [three[0], three[1]]
    draws += [np.asarray(drawn(keys, block, step))[0] for block, step in ((7, 2), (6, 3), (2, 6))]
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.5
