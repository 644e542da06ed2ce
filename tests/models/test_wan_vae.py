"""The Wan VAE: streaming in any split equals a plain whole-clip implementation, and answers to every input."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.convert import wan_vae as convert
from knotjax.models.wan_vae import STD, WanVAE
from tests.helpers import normal, precision, relative
from tests.models import numpy_wan_vae
from tests.models.codec_tools import TINY_WAN as CONFIG
from tests.models.codec_tools import pieces, stack, wan_state

CODEC = WanVAE(CONFIG)
FRAMES = 4  # latents of the test clip
SPLITS = [[4], [1] * 4, [1, 3], [3, 1], [2, 2], [1, 2, 1], [2, 1, 1]]
ENCODE, DECODE = jax.jit(CODEC.encode_step), jax.jit(CODEC.decode_step)
GOLDEN = Path(__file__).parents[1] / "golden" / "wan_vae.npz"


@pytest.fixture(scope="module")
def params():
    return convert.from_original(wan_state(CONFIG), CONFIG)


def random_latents(seed, batch=2, frames=FRAMES, dtype="float32"):
    return normal(np.random.default_rng(seed), (batch, frames, *CONFIG.grid, CONFIG.channels), dtype)


def random_video(seed, batch=2, frames=FRAMES, dtype="float32"):
    shape = (batch, 4 * frames, CONFIG.height, CONFIG.width, 3)
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), dtype)


def fresh_decoder(params, batch, dtype="float32"):
    return CODEC.init_decode(params, jnp.zeros((batch, CONFIG.height, CONFIG.width, 3), dtype))


def test_parameter_count_of_the_published_size():
    shapes = jax.eval_shape(WanVAE().init_params, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 126_892_531


@pytest.mark.parametrize("size, blocks", [((24, 40), 1), ((16, 8), 2)], ids=str)
def test_equals_the_plain_whole_clip(size, blocks):
    config = dataclasses.replace(CONFIG, height=size[0], width=size[1], blocks=blocks)
    codec, scale = WanVAE(config), (np.array(config.mean), np.array(config.std))
    with precision("float64") as dtype:
        state = wan_state(config, 1, dtype)
        params, rng = convert.from_original(state, config), np.random.default_rng(2)
        latents = rng.standard_normal((2, 4, *config.grid, config.channels))
        video = rng.uniform(-1, 1, (2, 16, *size, 3))
        _, pixels = jax.jit(codec.decode_step)(params, codec.init_decode(params, video[:, 0]), latents)
        _, encoded = jax.jit(codec.encode_step)(params, codec.init_encode(2, dtype), video)
        assert pixels.dtype == encoded.dtype == dtype
        assert pixels.shape == (2, 16, *size, 3) and encoded.shape == latents.shape
        for stream in range(2):
            expected = numpy_wan_vae.decode(state, *scale, latents[stream])
            assert np.mean(np.abs(expected) == 1.0) < 0.1 < expected.std()
            assert relative(pixels[stream, 3:], expected) <= 1e-10
            expected = numpy_wan_vae.encode(state, *scale, video[stream, 3:])
            assert relative(encoded[stream], expected) <= 1e-10


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_decoding_in_pieces(params, split):
    latents = random_latents(3)
    _, whole = pieces(DECODE, params, fresh_decoder(params, 2), latents, [FRAMES], 1)
    assert whole.shape == (2, 4 * FRAMES, CONFIG.height, CONFIG.width, 3) and whole.std() > 0.1
    _, pixels = pieces(DECODE, params, fresh_decoder(params, 2), latents, split, 1)
    assert np.max(np.abs(pixels - whole)) <= 1e-5


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_encoding_in_pieces(params, split):
    video = random_video(4)
    _, whole = pieces(ENCODE, params, CODEC.init_encode(2), video, [FRAMES], 4)
    assert whole.shape == (2, FRAMES, *CONFIG.grid, CONFIG.channels)
    _, latents = pieces(ENCODE, params, CODEC.init_encode(2), video, split, 4)
    assert relative(latents, whole) <= 1e-5


def test_one_program_serves_every_chunk(params):
    encode, decode = jax.jit(CODEC.encode_step), jax.jit(CODEC.decode_step)
    pieces(encode, params, CODEC.init_encode(2), random_video(5), [1] * FRAMES, 4)
    pieces(decode, params, fresh_decoder(params, 2), random_latents(5), [1] * FRAMES, 1)
    assert encode._cache_size() == decode._cache_size() == 1


def test_streams_of_a_batch_may_be_at_different_points(params):
    """Stream i has i latents behind it: first, second and later meet in one batch."""
    latents, video = random_latents(6, 4, 4), random_video(6, 4, 4)
    decoders, encoders, alone = [], [], []
    for i in range(4):
        decoder, encoder = fresh_decoder(params, 1), CODEC.init_encode(1)
        for f in range(i):
            decoder, _ = DECODE(params, decoder, latents[i : i + 1, f : f + 1])
            encoder, _ = ENCODE(params, encoder, video[i : i + 1, 4 * f : 4 * f + 4])
        decoders.append(decoder)
        encoders.append(encoder)
        now = latents[i : i + 1, i : i + 1], video[i : i + 1, 4 * i : 4 * i + 4]
        alone.append((DECODE(params, decoder, now[0])[1][:, 3:], ENCODE(params, encoder, now[1])[1]))
    own = np.arange(4)
    _, pixels = DECODE(params, stack(*decoders), latents[own, own][:, None])
    _, encoded = ENCODE(params, stack(*encoders), video.reshape(4, 4, 4, *video.shape[2:])[own, own])
    np.testing.assert_allclose(pixels[:, 3:], np.concatenate([a for a, _ in alone]), atol=1e-5)
    np.testing.assert_allclose(encoded, np.concatenate([b for _, b in alone]), atol=1e-5)
    for i in range(3):  # the same latent, one step later in a stream, looks different
        _, other = DECODE(params, decoders[i + 1], latents[i : i + 1, i : i + 1])
        assert relative(other[:, 3:], alone[i][0]) > 1e-3


def test_only_the_last_of_the_first_four_frames_counts(params):
    video = random_video(7, 1, 2)
    _, plain = ENCODE(params, CODEC.init_encode(1), video)
    _, other = ENCODE(params, CODEC.init_encode(1), video.at[:, :3].set(jnp.nan))
    np.testing.assert_array_equal(other, plain)
    np.testing.assert_allclose(CODEC.encode_picture(params, video[:, 3]), plain[:, :1], atol=1e-5)


def test_every_frame_moves_its_latent_and_none_before(params):
    video = random_video(8, 1, 4)
    _, plain = ENCODE(params, CODEC.init_encode(1), video)
    for frame in range(3, 16):
        _, other = ENCODE(params, CODEC.init_encode(1), video.at[:, frame].multiply(-0.5))
        own = frame // 4
        change = [relative(other[:, f], plain[:, f]) for f in range(4)]
        assert all(c == 0.0 for c in change[:own]) and change[own] > 1e-3, (frame, change)


def test_every_latent_moves_its_frames_and_none_before(params):
    latents = random_latents(9, 1, 4)
    _, plain = DECODE(params, fresh_decoder(params, 1), latents)
    for f in range(4):
        for channel in range(CONFIG.channels):
            _, other = DECODE(params, fresh_decoder(params, 1), latents.at[:, f, 1, 2, channel].add(1.0))
            change = np.abs(np.asarray(other - plain))[0].max((1, 2, 3))
            first = 4 * f if f else 3  # frames 0 .. 2 do not exist
            assert np.all(change[3:first] == 0.0) and np.all(change[first : 4 * f + 4] > 1e-3), (f, channel, change)


def test_what_is_remembered_matters(params):
    """Every remembered frame of a running stream moves what comes next."""
    decoder, _ = DECODE(params, fresh_decoder(params, 1), random_latents(10, 1, 3))
    encoder, _ = ENCODE(params, CODEC.init_encode(1), random_video(10, 1, 3))
    latents, video = random_latents(11, 1, 1), random_video(11, 1, 1)
    for step, state, given in ((DECODE, decoder, latents), (ENCODE, encoder, video)):
        _, plain = step(params, state, given)
        leaves, tree = jax.tree.flatten(state.past)
        assert len(leaves) == {DECODE: 24, ENCODE: 16}[step]
        for i, leaf in enumerate(leaves):
            for frame in range(leaf.shape[1]):
                changed = jax.tree.unflatten(tree, [*leaves[:i], leaf.at[:, frame].add(1.0), *leaves[i + 1 :]])
                _, other = step(params, dataclasses.replace(state, past=changed), given)
                assert relative(other, plain) > 1e-5, (i, frame)


def test_bfloat16_stays_bfloat16_and_near(params):
    video = random_video(12, 1, 2)
    _, plain = ENCODE(params, CODEC.init_encode(1), video)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    state, latents = ENCODE(half, CODEC.init_encode(1, jnp.bfloat16), video.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.past)} == {latents.dtype} == {jnp.dtype("bfloat16")}
    assert 0 < relative(latents, plain) < 0.1
    _, plain = DECODE(params, fresh_decoder(params, 1), plain)
    _, pixels = DECODE(half, fresh_decoder(half, 1, "bfloat16"), latents)
    assert pixels.dtype == jnp.bfloat16 and 0 < relative(pixels[:, 3:], plain[:, 3:]) < 0.2


def test_gradients_are_finite_where_frames_do_not_exist(params):
    def loss(params, video, latents):
        _, encoded = CODEC.encode_step(params, CODEC.init_encode(1), video)
        _, decoded = CODEC.decode_step(params, fresh_decoder(params, 1), latents)
        return jnp.sum(encoded**2) + jnp.sum(decoded[:, 3:] ** 2)

    black = jnp.zeros((1, 4, CONFIG.height, CONFIG.width, 3))
    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params, black, random_latents(13, 1, 1))):
        assert np.all(np.isfinite(leaf))


def test_equals_the_public_implementation_on_stored_arrays():
    """Outputs of diffusers' AutoencoderKLWan; tests/parity/make_golden_wan_vae.py wrote them."""
    config = dataclasses.replace(CONFIG, height=16, width=8)
    codec, params = WanVAE(config), convert.from_original(wan_state(config, 20), config)
    with np.load(GOLDEN, allow_pickle=False) as golden:
        video = jnp.concatenate([golden["video"][:, :1]] * 3 + [golden["video"]], 1)
        _, latents = codec.encode_step(params, codec.init_encode(1), video)
        _, pixels = codec.decode_step(params, codec.init_decode(params, video[:, 0]), golden["latents"])
        errors = relative(latents, golden["encoded"]), relative(pixels[:, 3:], golden["decoded"])
    print("relative errors", errors)
    assert max(errors) <= 1e-4


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(height=100), "size 100 x 40"),
        (dict(width=12), "size 24 x 12"),
        (dict(std=STD), "std 16"),
        (dict(widths=(3, 8, 8, 8)), "even"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(CONFIG, **changes)
