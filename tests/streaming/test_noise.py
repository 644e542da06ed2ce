"""Noise levels, conversions and keyed noise."""

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.streaming.noise import add_noise, block_noise, renoise, to_x0
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

    def three_at(key, block, step):
        return np.asarray(drawn(key, jnp.full(3, block), jnp.full(3, step)))

    three = three_at(keys, 6, 2)
    for i in range(3):
        expected = jax.random.normal(jax.random.fold_in(jax.random.fold_in(keys[i], 6), 2), shape, jnp.float32)
        np.testing.assert_array_equal(three[i], expected)
    swapped = three_at(keys[::-1], 6, 2)
    np.testing.assert_array_equal(swapped[::-1], three)
    draws = [three[0], three[1]]
    draws += [three_at(keys, block, step)[0] for block, step in ((7, 2), (6, 3), (2, 6))]
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.5
    mixed = np.asarray(drawn(keys, jnp.array([6, 7, 6]), jnp.array([2, 2, 3])))
    np.testing.assert_array_equal(mixed[0], three[0])
    np.testing.assert_array_equal(mixed[1], three_at(keys, 7, 2)[1])
    np.testing.assert_array_equal(mixed[2], three_at(keys, 6, 3)[2])


def test_euler_follows_the_line_and_renoising_forgets_it():
    rng = np.random.default_rng(2)
    x0, eps, fresh = (normal(rng, (1, 2, 2, 2, 3)) for _ in range(3))
    t, after = jnp.array([[1000.0, 500.0]]), jnp.array([[400.0, 0.0]])
    x = add_noise(x0, eps, t)
    np.testing.assert_allclose(renoise("euler", x0, x, t, after, fresh), add_noise(x0, eps, after), atol=1e-6)
    np.testing.assert_allclose(renoise("renoise", x0, x, t, after, fresh), add_noise(x0, fresh, after), atol=1e-6)
