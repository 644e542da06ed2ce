"""Rotary positions against complex numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models import rope
from tests.helpers import normal, precision, relative
from tests.models.numpy_dit import rope_factors, rotated


def test_axes_of_a_128_wide_head():
    assert rope.axis_pairs(128) == (22, 21, 21)


@pytest.mark.parametrize("head_dim", [2, 8, 12, 32, 64, 128])
def test_pairs_cover_the_head(head_dim):
    time, height, width = rope.axis_pairs(head_dim)
    assert time + height + width == head_dim // 2
    assert height == width == head_dim // 6 and time >= height


@pytest.mark.parametrize("head_dim", [12, 32, 128])
def test_equals_complex_multiplication(head_dim):
    times, grid = np.array([[0, 3, -7], [1024, 5, 100_000]], np.int32), (3, 5)
    with precision("float64") as dtype:
        x = normal(np.random.default_rng(0), (2, 3, 2, 15, head_dim), dtype)
        actual = rope.rotate(x, rope.angles(jnp.asarray(times), grid, head_dim, dtype))
        expected = np.array(
            [
                [
                    rotated(np.asarray(x[b, f]).swapaxes(0, 1), rope_factors(times[b, f], *grid, head_dim))
                    for f in range(3)
                ]
                for b in range(2)
            ]
        ).swapaxes(2, 3)
        print(head_dim, relative(actual, expected))
        assert relative(actual, expected) <= 1e-9
    single = rope.rotate(x.astype(np.float32), rope.angles(jnp.asarray(times[:1]), grid, head_dim))
    assert single.dtype == jnp.float32 and relative(single[0], expected[0]) <= 1e-5


def test_scores_depend_on_differences_only():
    grid, head_dim = (2, 3), 12
    with precision("float64") as dtype:
        rng = np.random.default_rng(1)
        q, k = (normal(rng, (1, 2, 2, 6, head_dim), dtype) for _ in range(2))

        def scores(q_times, k_times):
            turned = [
                rope.rotate(x, rope.angles(jnp.array([t], jnp.int32), grid, head_dim, dtype))
                for x, t in ((q, q_times), (k, k_times))
            ]
            return jnp.einsum("bfnsd,bgntd->bnfsgt", *turned)

        plain = scores([0, 1], [-3, 8])
        for shift in (1, 21, 5000):
            assert relative(scores([shift, shift + 1], [shift - 3, shift + 8]), plain) <= 1e-9
        assert relative(scores([0, 1], [-3, 9]), plain) >= 0.01
        assert relative(scores([0, 2], [-3, 8]), plain) >= 0.01


def test_rotation_keeps_lengths_and_low_precision_dtype():
    x = normal(np.random.default_rng(2), (1, 2, 1, 6, 12), jnp.bfloat16)
    turned = rope.rotate(x, rope.angles(jnp.array([[4, 5]], jnp.int32), (2, 3), 12))
    assert turned.dtype == jnp.bfloat16
    lengths = [np.linalg.norm(np.asarray(a, np.float32), axis=-1) for a in (x, turned)]
    np.testing.assert_allclose(*lengths, rtol=0.01)


def test_rows_and_columns_are_told_apart():
    angle = np.asarray(rope.angles(jnp.array([[2]], jnp.int32), (2, 3), 12))[0, 0]  # [6, 6]
    time, height, width = angle[:, :2], angle[:, 2:4], angle[:, 4:]
    np.testing.assert_allclose(time[:, 0], 2.0)
    np.testing.assert_allclose(height[:, 0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(width[:, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_allclose(width[:, 1], 0.01 * width[:, 0], rtol=1e-6)
