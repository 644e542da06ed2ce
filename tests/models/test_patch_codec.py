"""The patch codec: streaming in any split equals the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.drive import pixel_count
from knotjax.models.patch_codec import CodecConfig, PatchCodec, Synthesis, from_patches, to_patches
from tests.helpers import normal, relative

CONFIG = CodecConfig(size=16, patch=4, channels=5, widths=(8, 6, 4))
CODEC = PatchCodec(CONFIG)
FRAMES = 6  # latents of the test clip
SPLITS = [[6], [1] * 6, [1, 5], [5, 1], [2, 3, 1], [3, 3]]


@pytest.fixture(scope="module")
def params():
    """Random parameters, none of them zero."""
    rng = np.random.default_rng(0)
    size = 4 * CONFIG.patch**2 * 3
    still = jnp.zeros((1, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    picture, group = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4, 16, 16, 3))
    shapes = jax.eval_shape(Synthesis(CONFIG).init, jax.random.key(0), still, still, still, picture, group)["params"]

    def draw(leaf):
        fan = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4.0
        return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(fan), jnp.float32)

    basis, _ = np.linalg.qr(rng.standard_normal((size, CONFIG.channels)))
    return {
        "mean": normal(rng, (size,)) * 0.1,
        "basis": jnp.asarray(basis, jnp.float32),
        "scale": jnp.asarray(rng.uniform(0.5, 2.0, CONFIG.channels), jnp.float32),
        "synthesis": jax.tree.map(draw, shapes),
    }


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
    picture = jnp.clip(normal(np.random.default_rng(seed), (batch, 16, 16, 3)), -1, 1)
    return CODEC.init_decode(params, picture)


def test_patches_there_and_back():
    video = normal(np.random.default_rng(1), (2, 12, 16, 24, 3))
    patches = to_patches(video, 4)
    assert patches.shape == (2, 3, 4, 6, 4 * 4 * 4 * 3)
    np.testing.assert_array_equal(from_patches(patches, 4), video)
    np.testing.assert_array_equal(patches[1, 2, 3, 5].reshape(4, 4, 4, 3), video[1, 8:12, 12:16, 20:24])


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_decoding_in_pieces(params, split):
    latents = normal(np.random.default_rng(2), (2, FRAMES, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    whole = pieces(DECODE, params, fresh_decoder(params, 2), latents, [FRAMES], 1)
    assert whole.shape == (2, 4 * FRAMES, 16, 16, 3) and whole.std() > 0.1
    error = np.max(np.abs(pieces(DECODE, params, fresh_decoder(params, 2), latents, split, 1) - whole))
    print("decode", split, error)
    assert error <= 1e-5


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_encoding_in_pieces(params, split):
    video = jnp.clip(normal(np.random.default_rng(3), (2, 4 * FRAMES, 16, 16, 3)), -1, 1)
    whole = pieces(ENCODE, params, CODEC.init_encode(2), video, [FRAMES], 4)
    assert whole.shape == (2, FRAMES, CONFIG.grid, CONFIG.grid, CONFIG.channels)
    assert relative(pieces(ENCODE, params, CODEC.init_encode(2), video, split, 4), whole) <= 1e-5


def test_only_the_last_of_the_first_four_frames_counts(params):
    rng = np.random.default_rng(4)
    video = jnp.clip(normal(rng, (1, 8, 16, 16, 3)), -1, 1)
    _, plain = ENCODE(params, CODEC.init_encode(1), video)
    for frame in range(8):
        _, other = ENCODE(params, CODEC.init_encode(1), video.at[:, frame].multiply(-0.5))
        changed = [relative(other[:, f], plain[:, f]) > 1e-3 for f in range(2)]
        assert changed == [frame == 3, frame >= 4], frame
    _, picture = ENCODE(params, CODEC.init_encode(1), jnp.repeat(video[:, 3:4], 4, 1))
    np.testing.assert_allclose(picture[:, 0], plain[:, 0], atol=1e-6)
    np.testing.assert_allclose(CODEC.encode_picture(params, video[:, 3])[:, 0], plain[:, 0], atol=1e-6)


def test_a_running_stream_uses_all_four_frames(params):
    video = jnp.clip(normal(np.random.default_rng(5), (1, 8, 16, 16, 3)), -1, 1)
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


def test_linear_part_restores_what_its_basis_spans(params):
    """encode(linear_decode(latents)) gives the latents back."""
    latents = 0.05 * normal(np.random.default_rng(8), (1, 3, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    pixels = CODEC.linear_decode(params, latents)
    state, _ = ENCODE(params, CODEC.init_encode(1), pixels[:, :4])
    _, again = ENCODE(params, state, pixels[:, 4:])
    assert relative(again, latents[:, 1:]) <= 1e-5
    assert pixel_count(3) == pixels.shape[1] - 3


def test_the_mask_blends_portrait_and_reconstruction(params):
    """With a silent network the soft mask is one half: the mean of the portrait and the linear reconstruction."""
    silent = {**params, "synthesis": jax.tree.map(jnp.zeros_like, params["synthesis"])}
    latents = 0.05 * normal(np.random.default_rng(8), (1, 3, CONFIG.grid, CONFIG.grid, CONFIG.channels))
    state = fresh_decoder(silent, 1)
    _, pixels = DECODE(silent, state, latents)
    expected = 0.5 * (state.picture[:, None] + CODEC.linear_decode(silent, latents))
    np.testing.assert_allclose(pixels, jnp.clip(expected, -1, 1), atol=1e-5)
    _, plain = DECODE(params, state, latents)
    assert relative(DECODE(params, fresh_decoder(params, 1, seed=10), latents)[1], plain) > 1e-2
