"""The ring against a plain list."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from knotjax.streaming import cache

APPEND = jax.jit(cache.append)
NEWEST = jax.jit(cache.newest, static_argnums=1)
AGES = jax.jit(cache.ages, static_argnums=0)


def block(first, unit):
    """Keys that carry their frame number, values that carry its negative."""
    k = jnp.arange(first, first + unit, dtype=jnp.float32).reshape(1, 1, 1, unit, 1, 1, 1) + 1.0
    return cache.KeyValues(k, -k)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 7), st.integers(1, 3), st.integers(1, 14))
def test_ring_equals_list(budget, unit, writes):
    slots = cache.capacity(budget, unit)
    ring = cache.empty(1, slots, block(0, unit).k)
    assert slots % unit == 0 and budget <= slots < budget + unit
    history = []
    for b in range(writes):
        ring = APPEND(ring, block(b * unit, unit), jnp.int32(b * unit))
        history.extend(range(b * unit, b * unit + unit))
        written = jnp.int32(len(history))
        age = np.asarray(AGES(slots, written))
        assert np.all(age < 0), "no slot stands at or after the next frame"
        frame = len(history) + age
        held = (age >= -budget) & (frame >= 0)
        assert sorted(frame[held].tolist()) == (history[-budget:] if budget else [])
        np.testing.assert_array_equal(np.asarray(ring.k).ravel()[held], frame[held] + 1.0)
        np.testing.assert_array_equal(np.asarray(ring.v).ravel()[held], -frame[held] - 1.0)
        known = min(budget, len(history))
        ordered = np.asarray(NEWEST(ring, budget, written).k).ravel()[budget - known :]
        np.testing.assert_array_equal(ordered, np.asarray(history[len(history) - known :]) + 1.0)


def test_write_in_double_precision():
    with jax.enable_x64(True):
        new = block(0, 3).map(lambda a: a.astype(jnp.float64))
        ring = cache.append(cache.empty(1, 3, new.k), new, jnp.int32(3))
        assert ring.k.dtype == jnp.float64
        np.testing.assert_array_equal(ring.k, new.k)
