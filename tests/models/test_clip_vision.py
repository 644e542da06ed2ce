"""The CLIP vision tower: shapes, sensitivity, and stored PyTorch outputs."""

import jax
import numpy as np
import pytest

from knotjax.convert import clip_vision
from knotjax.models.clip_vision import VIT_H, CLIPVision, CLIPVisionConfig, normalize
from tests.helpers import relative
from tests.models.encoders import CLIP, SHAPES, count, every_parameter_matters, golden, random_params

MODEL = CLIPVision(CLIP)
APPLY = jax.jit(lambda params, pixels: MODEL.apply({"params": params}, pixels))


def pictures(seed=0):
    return np.random.default_rng(seed).standard_normal((2, CLIP.image, CLIP.image, 3)).astype(np.float32)


def test_vit_h_has_the_published_size():
    assert count(clip_vision.shapes(VIT_H)) == 630_766_080
    model = CLIPVision(VIT_H)
    pixels = jax.ShapeDtypeStruct((2, 224, 224, 3), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), pixels)
    tokens, pooled = jax.eval_shape(model.apply, params, pixels)
    assert tokens.shape == (2, 257, 1280) and pooled.shape == (2, 1280)


def test_stored_pytorch_output():
    weights, arrays = golden("clip_vision")
    tokens, pooled = APPLY(clip_vision.from_hugging_face(weights, CLIP), arrays["pixels"])
    errors = relative(tokens, arrays["tokens"]), relative(pooled, arrays["pooled"])
    print("clip vision, stored output:", errors)
    assert max(errors) <= 1e-5


def test_every_pixel_reaches_every_token():
    params, pixels = random_params(SHAPES["clip_vision"]), pictures()
    tokens, pooled = APPLY(params, pixels)
    assert tokens.shape == (2, CLIP.tokens, CLIP.width)
    for row, column in ((0, 0), (5, 7), (11, 11)):
        for channel in range(3):
            changed = pixels.copy()
            changed[0, row, column, channel] += 1.0
            other, other_pooled = APPLY(params, changed)
            difference = np.max(np.abs(other - tokens), -1)
            assert np.all(difference[0] > 1e-5) and np.all(difference[1] == 0), (row, column, channel)
            assert np.any(np.abs(other_pooled - pooled)[0] > 1e-5)


def test_every_parameter_matters():
    pixels = pictures()
    both = lambda p: np.concatenate([np.ravel(out) for out in APPLY(p, pixels)])  # noqa: E731
    every_parameter_matters(both, random_params(SHAPES["clip_vision"]))


def test_tokens_leave_the_last_layer_but_one():
    params, pixels = random_params(SHAPES["clip_vision"]), pictures()
    changed = jax.tree.map(np.array, params)
    for leaf in jax.tree.leaves(changed["blocks"]):
        leaf[-1] *= 1.5
    (tokens, pooled), (same, other) = APPLY(params, pixels), APPLY(changed, pixels)
    np.testing.assert_array_equal(tokens, same)
    assert relative(other, pooled) > 1e-2


def test_normalize():
    grey = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    np.testing.assert_array_equal(normalize(grey), np.zeros(3))
    assert relative(normalize(grey + np.float32(0.5))[0], 0.5 / 0.26862954) <= 1e-5


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="must be"):
        MODEL.init(jax.random.key(0), np.zeros((1, 8, 12, 3), np.float32))
    with pytest.raises(ValueError, match="patch 5"):
        CLIPVisionConfig(image=12, patch=5)
