"""The wav2vec2 encoders: shapes, interpolation, padding, sensitivity, and stored PyTorch outputs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from knotjax.convert import wav2vec2
from knotjax.models.wav2vec2 import BASE, LARGE, Wav2Vec2, interpolate
from tests.helpers import relative
from tests.models.encoders import SHAPES, WAV2VEC2, count, every_parameter_matters, golden, random_params

SAMPLES = 6400  # 19 rows
LAYOUTS = list(WAV2VEC2)


@functools.cache
def compiled(layout, frames):
    model = Wav2Vec2(WAV2VEC2[layout])
    return jax.jit(lambda params, wave, valid: model.apply({"params": params}, wave, frames, valid))


def states(layout, params, wave, frames=None, valid=None):
    return compiled(layout, frames)(params, wave, valid)


def noise(seed=0, shape=(2, SAMPLES)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("config", "parameters"), [(BASE, 94_371_712 - 768), (LARGE, 315_438_720 - 1024)])
def test_published_number_of_parameters(config, parameters):
    """The published counts hold one more vector, which only masks sound in training."""
    assert count(wav2vec2.shapes(config)) == parameters


def test_rows_and_reach():
    assert (BASE.hop, BASE.reach) == (320, 400)
    assert [BASE.conv_frames(n) for n in (399, 400, 719, 720, 16_000)] == [0, 1, 1, 2, 49]
    with pytest.raises(ValueError, match="too short: one row needs 400"):
        states("base", random_params(SHAPES["wav2vec2_base"]), noise(shape=(1, 399)))


@pytest.mark.parametrize("field", [{"conv_norm": "batch"}, {"strides": (5, 2)}])
def test_impossible_layouts_are_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        dataclasses.replace(BASE, **field)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stored_pytorch_output(layout):
    weights, arrays = golden(f"wav2vec2_{layout}")
    params = wav2vec2.from_hugging_face(weights, WAV2VEC2[layout])
    for name, frames in (("states", None), ("interpolated", int(arrays["frames"]))):
        error = relative(states(layout, params, arrays["wave"], frames), arrays[name])
        print(layout, name, "stored output:", error)
        assert error <= 2e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_sample_and_clip(layout):
    c = WAV2VEC2[layout]
    params, wave = random_params(SHAPES[f"wav2vec2_{layout}"]), noise()
    out = np.asarray(states(layout, params, wave))
    assert out.shape == (c.layers + 1, 2, 19, c.width)
    for place in (0, 3000, 320 * 18 + 399):  # the last one that a row looks at
        changed = wave.copy()
        changed[0, place] += 10.0
        difference = np.max(np.abs(states(layout, params, changed) - out), (0, 3))
        assert np.all(difference[0] > 1e-6) and np.all(difference[1] == 0), place


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_matters(layout):
    wave = noise()
    every_parameter_matters(lambda p: states(layout, p, wave), random_params(SHAPES[f"wav2vec2_{layout}"]))


def test_interpolation_keeps_ends_and_lines():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1, 9, 4)).astype(np.float32)
    np.testing.assert_array_equal(interpolate(rows, 5), rows[:, ::2])  # the pixel frames of 25 per second
    np.testing.assert_array_equal(interpolate(rows, 9), rows)
    out = np.asarray(interpolate(rows, 4))  # at 0, 8/3, 16/3, 8
    assert relative(out[:, 1], rows[:, 2] / 3 + 2 * rows[:, 3] / 3) <= 1e-6
    np.testing.assert_array_equal(out[:, [0, 3]], rows[:, [0, 8]])
    np.testing.assert_array_equal(interpolate(rows, 1), rows[:, :1])
    np.testing.assert_array_equal(interpolate(rows[:, :1], 3), np.repeat(rows[:, :1], 3, 1))


def test_rows_that_do_not_exist_change_nothing_in_the_layer_normalised_layout():
    c = WAV2VEC2["large"]
    params, wave = random_params(SHAPES["wav2vec2_large"]), noise()
    rows = 11
    samples = c.hop * (rows - 1) + c.reach
    valid = np.broadcast_to(np.arange(19) < rows, (2, 19))
    short = states("large", params, wave[:, :samples])
    padded = states("large", params, np.where(np.arange(SAMPLES) < samples, wave, 7.0), valid=valid)
    assert relative(padded[:, :, :rows], short) <= 1e-5
    assert relative(states("large", params, wave)[:, :, :rows], short) > 1e-2  # unmasked sound would


def test_group_norm_runs_over_the_whole_clip():
    """Why features of the base layout cannot be computed piece by piece: sound far away changes the first row."""
    wave = noise()
    louder = np.where(np.arange(SAMPLES) < 3200, wave, 3.0 * wave)
    for layout, moved in (("base", True), ("large", False)):
        params = random_params(SHAPES[f"wav2vec2_{layout}"])
        before, after = (states(layout, params, w, valid=np.arange(19)[None] < 1)[0, :, 0] for w in (wave, louder))
        assert (relative(after, before) > 1e-2) == moved, layout
