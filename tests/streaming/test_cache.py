"""The ring against a plain list."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from knotjax.streaming import cache

APPEND = jax.jit(cache.append)
VALID = jax.jit(cache.valid, static_argnums=(0, 1))
FRAMES = jax.jit(cache.frames, static_argnums=0)


def block(first, unit):
    """Keys that carry their frame number, values that carry its negative."""
    k = jnp.arange(first, first + unit, dtype=jnp.float32).reshape(1, 1, unit, 1, 1, 1) + 1.0
    return k, -k


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 7), st.integers(1, 3), st.integers(1, 14))
def test_ring_equals_list(budget, unit, writes):
    ring = cache.init(budget, unit, block(0, unit)[0])
    capacity = ring.k.shape[2]
    assert capacity % unit == 0 and budget <= capacity < budget + unit
    history = []
    for b in range(writes):
        end = jnp.int32(b * unit)
        ring = APPEND(ring, *block(b * unit, unit), end)
        history.extend(range(b * unit, b * unit + unit))
        end = jnp.int32(len(history))
        held = np.asarray(VALID(capacity, budget, end))
        frame = len(history) + np.asarray(FRAMES(capacity, end))
        assert sorted(frame[held].tolist()) == (history[-budget:] if budget else [])
        np.testing.assert_array_equal(np.asarray(ring.k).ravel()[held], frame[held] + 1.0)
        np.testing.assert_array_equal(np.asarray(ring.v).ravel()[held], -frame[held] - 1.0)
        assert np.all(np.asarray(FRAMES(capacity, end)) < 0), "no slot stands at or after the queries"


def test_nothing_is_valid_at_first():
    for budget, unit in ((3, 3), (5, 3), (1, 1)):
        capacity = cache.init(budget, unit, block(0, unit)[0]).k.shape[2]
        assert not np.any(np.asarray(cache.valid(capacity, budget, jnp.int32(0))))


def test_write_in_double_precision():
    with jax.enable_x64(True):
        k = jnp.arange(3.0).reshape(1, 1, 3, 1, 1, 1)
        ring = cache.append(cache.init(3, 3, k), k, k, jnp.int32(3))
        assert ring.k.dtype == jnp.float64
        np.testing.assert_array_equal(ring.k, k)
