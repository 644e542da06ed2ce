"""Live sound: what a window of a stream shares with the features of the whole clip, and how far the rest is off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models.wav2vec2 import BASE, LARGE, Wav2Vec2
from knotjax.models.wav2vec2_live import live_states, normalize
from tests.helpers import relative
from tests.models.encoders import SHAPES, WAV2VEC2, random_params

SECONDS = 4
# 8 taps of the tiny positional convolution: 4 rows to the left and 3 to the right are its reach
REACH = {50: (4 / 50, 3 / 50), 25: (4 / 25, 3 / 25)}


def speech(seconds=SECONDS):
    """Noise whose loudness and colour change, so that no piece of it is like the whole."""
    rng = np.random.default_rng(0)
    n = 16_000 * seconds
    wave = rng.standard_normal(n) * (1.2 + np.sin(np.linspace(0, 9 * seconds / 4, n)))
    wave = wave + np.cumsum(wave) * 0.05 * np.linspace(0, 1, n)
    return np.asarray(normalize(jnp.asarray(wave, jnp.float32)))


def whole(layout, wave, fps):
    params = random_params(SHAPES[f"wav2vec2_{layout}"])
    model = Wav2Vec2(WAV2VEC2[layout])
    rows = model.config.conv_frames(len(wave))
    frames = None if fps == 50 else (rows + 1) // 2
    return model, params, jax.jit(lambda p, w: model.apply({"params": p}, w, frames))(params, wave[None])[:, 0]


def test_normalize():
    wave = np.float32(3.0) + 2 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    out = np.asarray(normalize(wave))
    assert abs(out.mean()) < 1e-5 and abs(out.std() - 1) < 1e-5
    assert relative(normalize(wave[2000:], heard=wave), out[2000:]) < 1e-6


@pytest.mark.parametrize("fps", [50, 25])
@pytest.mark.parametrize("layout", list(WAV2VEC2))
def test_with_the_whole_clip_as_context_it_is_the_whole_clip(layout, fps):
    wave = speech()[: -640 + 400]  # ends with the last sample that the last row looks at, at either rate
    model, params, clip = whole(layout, wave, fps)
    rows = clip.shape[1]
    assert rows == SECONDS * fps - (fps == 50)
    live = live_states(model, params, wave, 3, rows - 5, left=SECONDS, right=SECONDS, fps=fps)
    error = relative(live, clip[:, 3 : rows - 2])
    print(layout, fps, "whole clip as context:", error)
    assert error <= 1e-5


@pytest.mark.parametrize("fps", [50, 25])
def test_what_enters_the_transformer_is_exact_in_the_layer_normalised_layout(fps):
    wave = speech()
    left, right = REACH[fps]
    model, params, clip = whole("large", wave, fps)
    exact = live_states(model, params, wave, 40, 6, left=left, right=right, fps=fps)
    assert relative(exact[0], clip[0, 40:46]) <= 1e-5
    assert relative(exact[-1], clip[-1, 40:46]) > 1e-2  # attention misses the rest of the clip
    for less in (dict(left=left - 1 / fps, right=right), dict(left=left, right=right - 1 / fps)):
        short = live_states(model, params, wave, 40, 6, fps=fps, **less)
        assert relative(short[0], clip[0, 40:46]) > 1e-3, less
    model, params, clip = whole("base", wave, fps)
    never = live_states(model, params, wave, 40, 6, left=left, right=right, fps=fps)
    assert relative(never[0], clip[0, 40:46]) > 1e-2


def test_a_buffer_cut_at_a_row_gives_the_same_window():
    wave = speech()
    model, params, _ = whole("large", wave, 25)
    from_start = live_states(model, params, wave, 60, 4, left=0.8, right=0.2, fps=25)
    from_buffer = live_states(model, params, wave[40 * 640 :], 20, 4, left=0.8, right=0.2, fps=25)
    np.testing.assert_array_equal(from_start, from_buffer)


def test_sound_beyond_the_context_has_no_influence():
    wave = speech()
    model, params, _ = whole("base", wave, 25)
    kept = live_states(model, params, wave, 40, 4, left=0.4, right=0.2, fps=25)  # rows 30 .. 48
    other = wave.copy()
    other[: 30 * 640] = 9.0
    other[48 * 640 + 400 :] = 9.0
    np.testing.assert_array_equal(kept, live_states(model, params, other, 40, 4, left=0.4, right=0.2, fps=25))
    other[48 * 640 + 399] += 9.0
    assert relative(live_states(model, params, other, 40, 4, left=0.4, right=0.2, fps=25), kept) > 1e-4


def test_impossible_windows_are_refused():
    wave = speech(1)
    model, params, _ = whole("base", wave, 25)
    for fps in (0, 16, 100):
        with pytest.raises(ValueError, match="must divide 50"):
            live_states(model, params, wave, 0, 1, left=1, right=0, fps=fps)
    for start, count in ((-1, 2), (0, 0), (24, 2)):
        with pytest.raises(ValueError, match=r"sound is there for rows 0 \.\. 24"):
            live_states(model, params, wave, start, count, left=1, right=0, fps=25)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), [("base", BASE), ("large", LARGE)])
def test_mismatch_at_full_size(name, config):
    """Prints the mismatch to the whole clip (10 s, random weights) for several contexts; asserts what cannot be less.

    Random weights attend almost evenly; trained ones differ. The figures compare contexts, they do not predict quality.
    """
    from knotjax.convert import wav2vec2

    wave = speech(10)
    model = Wav2Vec2(config)
    params = random_params(wav2vec2.shapes(config))
    clip = jax.jit(lambda p, w: model.apply({"params": p}, w, 250))(params, wave[None])[:, 0, 120:132]
    for left, right in ((0.5, 0.0), (2.0, 0.0), (2.0, 0.2), (2.0, 2.56), (2.56, 2.56), (4.0, 4.0)):
        live = live_states(model, params, wave, 120, 12, left=left, right=right, fps=25)
        first, last = relative(live[0], clip[0]), relative(live[-1], clip[-1])
        rms = float(jnp.sqrt(jnp.mean((live[1:] - clip[1:]) ** 2) / jnp.mean(clip[1:] ** 2)))
        print(f"{name} left {left} s right {right} s: enters {first:.1e}, leaves {last:.1e}, all layers rms {rms:.1e}")
        exact = name == "large" and min(left, right) >= 2.56
        assert (first <= 1e-5) == exact
        assert last > 1e-4
