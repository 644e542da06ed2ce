"""The UMT5 encoder: shapes, groups of distances, padding, sensitivity, and stored PyTorch outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.convert import umt5
from knotjax.models.umt5 import XXL, UMT5Encoder, distance_buckets
from tests.helpers import relative
from tests.models.encoders import SHAPES, UMT5, count, every_parameter_matters, golden, random_params

MODEL = UMT5Encoder(UMT5)
APPLY = jax.jit(lambda params, ids, valid: MODEL.apply({"params": params}, ids, valid))
LENGTHS = (9, 5)
VALID = np.arange(9) < np.array(LENGTHS)[:, None]


def tokens(seed=0):
    return np.random.default_rng(seed).integers(1, UMT5.vocabulary, VALID.shape).astype(np.int32)


def test_xxl_has_the_published_number_of_parameters():
    assert count(umt5.shapes(XXL)) == 5_680_910_336


def test_groups_of_distances():
    bucket = distance_buckets(300, 32, 128)
    # own groups up to 7; 8 wider ones whose borders double every second group; keys after the query 16 higher
    assert list(bucket[:9, 0]) == [*range(8), 8]
    for distance, group in ((11, 8), (12, 9), (16, 10), (23, 11), (32, 12), (64, 14), (90, 14), (91, 15), (299, 15)):
        assert (bucket[distance, 0], bucket[0, distance]) == (group, group + 16), distance
    assert bucket[5, 5] == 0


def test_stored_pytorch_output():
    weights, arrays = golden("umt5")
    out = np.asarray(APPLY(umt5.from_hugging_face(weights, UMT5), arrays["ids"], arrays["valid"]))
    error = relative(out[arrays["valid"]], arrays["out"][arrays["valid"]])
    print("umt5, stored output:", error)
    assert error <= 1e-5


def test_padding_changes_nothing_and_comes_out_as_zeros():
    params, ids = random_params(SHAPES["umt5"]), tokens()
    out = APPLY(params, ids, VALID)
    assert out.shape == (2, 9, UMT5.width)
    np.testing.assert_array_equal(out, APPLY(params, np.where(VALID, ids, 0), VALID))
    assert np.all(np.asarray(out)[~VALID] == 0)
    short = APPLY(params, ids[1:, :5], VALID[1:, :5])
    assert relative(out[1, :5], short[0]) <= 1e-5
    everything = APPLY(params, ids, np.ones_like(VALID))
    assert relative(everything[1, :5], short[0]) > 1e-2  # without the mask it would


def test_every_token_reaches_every_row():
    params, ids = random_params(SHAPES["umt5"]), tokens()
    out = APPLY(params, ids, VALID)
    for place in range(9):
        changed = ids.copy()
        changed[0, place] = 1 + changed[0, place] % (UMT5.vocabulary - 1)
        difference = np.max(np.abs(APPLY(params, changed, VALID) - out), -1)
        assert np.all(difference[0] > 1e-5) and np.all(difference[1] == 0), place


def test_order_matters():
    params, ids = random_params(SHAPES["umt5"]), tokens()
    valid = np.ones_like(VALID)
    turned = APPLY(params, ids[:, ::-1], valid)[:, ::-1]
    assert relative(turned, APPLY(params, ids, valid)) > 1e-2


def test_every_parameter_matters():
    params = random_params(SHAPES["umt5"])
    ids = np.arange(UMT5.vocabulary, dtype=np.int32)[None]
    every_parameter_matters(lambda p: APPLY(p, ids, ids >= 0), params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_keeps_its_kind(dtype):
    params, ids = random_params(SHAPES["umt5"]), tokens()
    low = APPLY(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params), ids, VALID)
    assert low.dtype == dtype
    assert relative(low, APPLY(params, ids, VALID)) <= 0.1
