"""The warp codec: streaming in any split equals the whole, and its warp equals a plain look-up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models.warp_codec import CodecConfig, WarpCodec, fold, unfold, warp
from tests.helpers import normal, relative

CONFIG = CodecConfig(size=32, channels=5, widths=(8, 6, 4))
SIZE = CONFIG.size
CODEC = WarpCodec(CONFIG)
FRAMES = 6  # latents of the test clip
SPLITS = [[6], [1] * 6, [1, 5], [5, 1], [2, 3, 1], [3, 3]]


@pytest.fixture(scope="module")
def params():
    """Random parameters, none of them zero."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(CODEC.init_params, jax.random.key(0))

    def draw(leaf):
        fan = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4.0
        return jnp.asarray(rng.standard_normal(leaf.shape) * fan**-0.5, jnp.float32)

    params = jax.tree.map(draw, shapes) | {"scale": jnp.asarray(rng.uniform(0.5, 2.0, CONFIG.channels), jnp.float32)}
    assert all(np.all(np.asarray(leaf) != 0.0) for leaf in jax.tree.leaves(params))
    return params


ENCODE, DECODE = jax.jit(CODEC.encode_step), jax.jit(CODEC.decode_step)


def pieces(step, params, state, whole, split, stride):
    out, at = [], 0
    for count in split:
        state, piece = step(params, state, whole[:, at * stride : (at + count) * stride])
        out.append(np.asarray(piece))
        at += count
    assert at * stride == whole.shape[1]
    return np.concatenate(out, 1)


def fresh_decoder(params, batch, seed=9):
    picture = jnp.clip(normal(np.random.default_rng(seed), (batch, SIZE, SIZE, 3)), -1, 1)
    return CODEC.init_decode(params, picture)


def test_fold_there_and_back():
    x = normal(np.random.default_rng(1), (2, 8, 12, 3))
    folded = fold(x, 4)
    assert folded.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(unfold(folded, 4), x)
    np.testing.assert_array_equal(folded[1, 1, 2].reshape(4, 4, 3), x[1, 4:8, 8:12])


def plain_warp(picture, flow):
    """Pixel by pixel, for one picture [H, W, 3] and one field [H, W, 2]."""
    rows, columns, _ = picture.shape
    out = np.zeros(picture.shape)
    for row in range(rows):
        for column in range(columns):
            y = min(max(row + flow[row, column, 0], 0.0), rows - 1.0)
            x = min(max(column + flow[row, column, 1], 0.0), columns - 1.0)
            for i in range(rows):
                for j in range(columns):
                    out[row, column] += max(0.0, 1.0 - abs(y - i)) * max(0.0, 1.0 - abs(x - j)) * picture[i, j]
    return out


def test_warp_is_a_bilinear_look_up_with_repeated_edges():
    rng = np.random.default_rng(2)
    picture, flow = normal(rng, (2, 6, 7, 3)), 3.0 * normal(rng, (2, 2, 6, 7, 2))
    warped = warp(picture, flow)
    for stream in range(2):
        for frame in range(2):
            expected = plain_warp(np.asarray(picture[stream]), np.asarray(flow[stream, frame]))
            np.testing.assert_allclose(warped[stream, frame], expected, atol=1e-5)
    np.testing.assert_allclose(warp(picture, jnp.zeros_like(flow))[:, 1], picture, atol=1e-6)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_decoding_in_pieces(params, split):
    latents = normal(np.random.default_rng(2), (2, FRAMES, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    whole = pieces(DECODE, params, fresh_decoder(params, 2), latents, [FRAMES], 1)
    assert whole.shape == (2, 4 * FRAMES, SIZE, SIZE, 3) and whole.std() > 0.1
    error = np.max(np.abs(pieces(DECODE, params, fresh_decoder(params, 2), latents, split, 1) - whole))
    print("decode", split, error)
    assert error <= 1e-5


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_encoding_in_pieces(params, split):
    video = jnp.clip(normal(np.random.default_rng(3), (2, 4 * FRAMES, SIZE, SIZE, 3)), -1, 1)
    whole = pieces(ENCODE, params, CODEC.init_encode(2), video, [FRAMES], 4)
    assert whole.shape == (2, FRAMES, CONFIG.grid, CONFIG.grid, CONFIG.channels)
    assert relative(pieces(ENCODE, params, CODEC.init_encode(2), video, split, 4), whole) <= 1e-5


def test_only_the_last_of_the_first_four_frames_counts(params):
    rng = np.random.default_rng(4)
    video = jnp.clip(normal(rng, (1, 8, SIZE, SIZE, 3)), -1, 1)
    _, plain = ENCODE(params, CODEC.init_encode(1), video)
    for frame in range(8):
        _, other = ENCODE(params, CODEC.init_encode(1), video.at[:, frame].multiply(-0.5))
        changed = [relative(other[:, f], plain[:, f]) > 1e-3 for f in range(2)]
        assert changed == [frame == 3, frame >= 4], frame
    _, picture = ENCODE(params, CODEC.init_encode(1), jnp.repeat(video[:, 3:4], 4, 1))
    np.testing.assert_allclose(picture[:, 0], plain[:, 0], atol=1e-5)
    np.testing.assert_allclose(CODEC.encode_picture(params, video[:, 3])[:, 0], plain[:, 0], atol=1e-5)


def test_a_running_stream_uses_all_four_frames(params):
    video = jnp.clip(normal(np.random.default_rng(5), (1, 8, SIZE, SIZE, 3)), -1, 1)
    state, _ = ENCODE(params, CODEC.init_encode(1), video[:, :4])
    assert not bool(state.first[0])
    _, plain = ENCODE(params, state, video[:, 4:])
    for frame in range(4, 8):
        _, other = ENCODE(params, state, video[:, 4:].at[:, frame - 4].multiply(-0.5))
        assert relative(other, plain) > 1e-3


def test_streams_of_a_batch_may_be_at_different_points(params):
    rng = np.random.default_rng(6)
    latents = normal(rng, (2, 2, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    fresh = fresh_decoder(params, 1)
    running, _ = DECODE(params, fresh, latents[1:, :1])
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), fresh, running)
    _, pixels = DECODE(params, mixed, jnp.stack([latents[0, 0], latents[1, 1]])[:, None])
    _, first = DECODE(params, fresh, latents[:1, :1])
    _, second = DECODE(params, running, latents[1:, 1:])
    np.testing.assert_allclose(pixels, jnp.concatenate([first, second]), atol=1e-5)
    assert relative(DECODE(params, fresh, latents[1:, 1:])[1], second) > 1e-3


def test_a_latent_looks_back_one_latent_and_never_ahead(params):
    latents = normal(np.random.default_rng(7), (1, 4, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    _, plain = DECODE(params, fresh_decoder(params, 1), latents)
    for f in range(4):
        _, other = DECODE(params, fresh_decoder(params, 1), latents.at[:, f].add(1.0))
        moved = np.abs(np.asarray(other - plain)).reshape(1, 4, 4, -1).max((0, 2, 3)) > 1e-3
        assert moved.tolist() == [g in (f, f + 1) for g in range(4)]


def test_decoding_looks_at_the_portrait_and_its_latent(params):
    latents = normal(np.random.default_rng(8), (1, 3, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    state = fresh_decoder(params, 1)
    _, plain = DECODE(params, state, latents)
    for change in (dict(picture=state.picture * 0.9), dict(portrait=state.portrait * 0.9)):
        assert relative(DECODE(params, dataclasses.replace(state, **change), latents)[1], plain) > 1e-2


def test_with_a_silent_head_the_portrait_shows_still(params):
    """Without flow, and with a mask that keeps the portrait, every frame is the portrait."""
    decoder = params["decoder"]
    flow = jax.tree.map(jnp.zeros_like, decoder["flow"])
    output = {
        "kernel": jnp.zeros_like(decoder["output"]["kernel"]),
        "bias": jnp.full_like(decoder["output"]["bias"], 9),
    }
    silent = {**params, "decoder": {**decoder, "flow": flow, "output": output}}
    latents = normal(np.random.default_rng(8), (1, 2, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    state = fresh_decoder(silent, 1)
    pixels = DECODE(silent, state, latents)[1]
    np.testing.assert_allclose(pixels, jnp.broadcast_to(state.picture[:, None], pixels.shape), atol=1e-3)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="size 100"):
        CodecConfig(size=100)
