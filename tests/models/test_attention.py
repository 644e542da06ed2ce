"""Attention against plain softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models import attention
from knotjax.models.attention import attend
from tests.helpers import normal, precision, relative
from tests.models.numpy_dit import softmax_attention


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_plain_softmax(dtype, limit, masked):
    rng = np.random.default_rng(0)
    with precision(dtype) as dtype:
        q = 3.0 * normal(rng, (2, 5, 3, 8), dtype)
        k, v = (normal(rng, (2, 7, 3, 8), dtype) for _ in range(2))
        valid = np.array([[1, 1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0]], bool) if masked else np.ones((2, 7), bool)
        actual = attend(q, k, v, jnp.asarray(valid) if masked else None)
        expected = [softmax_attention(*(np.asarray(a[b], np.float64) for a in (q, k, v)), valid[b]) for b in range(2)]
        assert actual.dtype == dtype
        print(dtype, masked, relative(actual, expected))
        assert relative(actual, expected) <= limit


def test_keys_that_do_not_exist_have_no_influence():
    rng = np.random.default_rng(1)
    q, k, v = (normal(rng, (1, n, 2, 8)) for n in (4, 6, 6))
    valid = jnp.array([[True, False, True, True, False, True]])
    plain = attend(q, k, v, valid)
    spoiled = attend(q, k.at[:, 1].set(50.0), v.at[:, 4].set(-1e6), valid)
    np.testing.assert_array_equal(plain, spoiled)


def test_low_precision_keeps_its_dtype():
    rng = np.random.default_rng(2)
    q, k, v = (normal(rng, (1, 300, 2, 8), jnp.bfloat16) for _ in range(3))
    actual = attend(q, k, v)
    assert actual.dtype == jnp.bfloat16
    expected = softmax_attention(*(np.asarray(a[0], np.float64) for a in (q, k, v)))
    assert relative(actual[0], expected) <= 0.02


def test_bias_and_scale():
    rng = np.random.default_rng(3)
    q, k, v = (normal(rng, (2, n, 3, 8)) for n in (4, 6, 6))
    bias = normal(rng, (3, 4, 6))
    valid = np.arange(6) < np.array([[6], [4]])
    scores = np.einsum("bqnd,bknd->bnqk", q, k) * 0.7 + np.asarray(bias)
    weight = np.exp(scores) * valid[:, None, None]
    expected = np.einsum("bnqk,bknd->bqnd", weight / weight.sum(-1, keepdims=True), v)
    actual = attend(q, k, v, jnp.asarray(valid), bias=bias, scale=0.7)
    assert relative(actual, expected) <= 2e-6
    for other in (attend(q, k, v, jnp.asarray(valid), scale=0.7), attend(q, k, v, jnp.asarray(valid), bias=bias)):
        assert relative(other, expected) > 1e-2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 7])  # of 13 queries
def test_groups_of_queries_equal_all_at_once(masked, rows, monkeypatch):
    rng = np.random.default_rng(4)
    with precision("float64") as dtype:
        q, k, v = (normal(rng, (2, n, 3, 8), dtype) for n in (13, 9, 9))
        valid = jnp.asarray(np.arange(9) < np.array([[9], [4]])) if masked else None

        def value(*inputs):
            return jnp.sum(jnp.sin(attend(*inputs, valid)))

        whole, slopes = attend(q, k, v, valid), jax.grad(value, (0, 1, 2))(q, k, v)
        monkeypatch.setattr(attention, "SCORES", rows * 2 * 3 * 9 * 8)
        program = str(jax.make_jaxpr(lambda *inputs: attend(*inputs, valid))(q, k, v))
        assert f"f64[2,3,{rows},9]" in program and "f64[2,3,13,9]" not in program
        assert relative(attend(q, k, v, valid), whole) <= 1e-14
        for group, plain in zip(jax.grad(value, (0, 1, 2))(q, k, v), slopes):
            assert relative(group, plain) <= 1e-13
