"""The ring against a plain list."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from knotjax.streaming import cache

APPEND = jax.jit(cache.append)
LEAVING = jax.jit(cache.leaving, static_argnums=(2, 3))
AGES = jax.jit(cache.ages, static_argnums=0)


def block(first, unit):
    """Keys that carry their frame number, values that carry its negative."""
    k = jnp.arange(first, first + unit, dtype=jnp.float32).reshape(1, 1, unit, 1, 1, 1) + 1.0
    return k, -k


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 7), st.integers(1, 3), st.integers(1, 14))
def test_ring_equals_list(budget, unit, writes):
    """The second of two sets is written; the first one stays empty."""
    slots = cache.capacity(budget, unit)
    ring = cache.empty(2, slots, block(0, unit)[0])
    assert slots % unit == 0 and budget <= slots < budget + unit
    history = []
    for b in range(writes):
        ring = APPEND(ring, block(b * unit, unit), jnp.int32(1), jnp.int32(b * unit))
        history.extend(range(b * unit, b * unit + unit))
        written = jnp.int32(len(history))
        age = np.asarray(AGES(slots, written))
        assert np.all(age < 0), "no slot stands at or after the next frame"
        frame = len(history) + age
        held = (age >= -budget) & (frame >= 0)
        assert sorted(frame[held].tolist()) == (history[-budget:] if budget else [])
        np.testing.assert_array_equal(np.asarray(ring.k)[0, 1].ravel()[held], frame[held] + 1.0)
        np.testing.assert_array_equal(np.asarray(ring.v)[0, 1].ravel()[held], -frame[held] - 1.0)
        assert not np.any(np.asarray(ring.k)[0, 0])
        first = len(history) - budget + np.arange(min(budget, unit))
        there = first >= 0
        ordered = np.asarray(LEAVING(ring, jnp.int32(1), budget, len(first), written)[0]).ravel()
        np.testing.assert_array_equal(ordered[there], first[there] + 1.0)


def test_write_in_double_precision():
    with jax.enable_x64(True):
        k, v = (a.astype(jnp.float64) for a in block(0, 3))
        ring = cache.append(cache.empty(1, 3, k), (k, v), jnp.int32(0), jnp.int32(3))
        assert ring.k.dtype == jnp.float64
        np.testing.assert_array_equal(ring.k[:, 0], k)
