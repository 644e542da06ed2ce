"""Kernels of accelerators against the plain attention, as far as a CPU can run them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models.attention import attend
from knotjax.models.kernels import existing_first, splash
from tests.helpers import normal, relative


@pytest.mark.parametrize("masked", [False, True])
def test_splash_interpreted(masked):
    rng = np.random.default_rng(0)
    q = 3 * normal(rng, (2, 150, 2, 128))
    k, v = (normal(rng, (2, 200, 2, 128)) for _ in range(2))
    valid = jnp.asarray(rng.integers(0, 2, (2, 200)), bool) if masked else None
    error = relative(splash(q, k, v, valid, block=128, interpret=True), attend(q, k, v, valid))
    print("splash, interpreted", masked, error)
    assert error <= 1e-5


def test_existing_keys_in_front():
    rng = np.random.default_rng(1)
    q, k, v = (normal(rng, (2, n, 2, 8)) for n in (5, 7, 7))
    valid = jnp.asarray([[1, 0, 0, 1, 1, 0, 1], [0, 1, 0, 0, 0, 0, 0]], bool)
    front_k, front_v, count = existing_first(k, v, valid)
    np.testing.assert_array_equal(count, [4, 1])
    assert relative(attend(q, front_k, front_v, jnp.arange(7) < count[:, None]), attend(q, k, v, valid)) <= 1e-6
    assert relative(front_k[1, 0], k[1, 1]) == 0.0 and not jnp.array_equal(front_k, k)
    jax.eval_shape(lambda *inputs: splash(*inputs), *(normal(rng, (1, n, 1, 128)) for n in (600, 700, 700)))
