"""TAEHV: streaming in any split equals a plain whole-clip implementation, and answers to every input."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.convert import taehv as convert
from knotjax.models.taehv import TAEHV
from tests.helpers import normal, relative
from tests.models import numpy_taehv
from tests.models.codec_tools import TINY_TAEHV as CONFIG
from tests.models.codec_tools import pieces, stack, taehv_state

CODEC = TAEHV(CONFIG)
FRAMES = 4  # latents of the test clip
SPLITS = [[4], [1] * 4, [1, 3], [3, 1], [2, 2], [1, 2, 1], [2, 1, 1]]
ENCODE, DECODE = jax.jit(CODEC.encode_step), jax.jit(CODEC.decode_step)
GOLDEN = Path(__file__).parents[1] / "golden" / "taehv.npz"


@pytest.fixture(scope="module")
def params():
    return convert.from_original(taehv_state(CONFIG), CONFIG)


def random_latents(seed, batch=2, frames=FRAMES):
    return normal(np.random.default_rng(seed), (batch, frames, *CONFIG.grid, CONFIG.channels))


def random_video(seed, batch=2, frames=FRAMES):
    shape = (batch, 4 * frames, CONFIG.height, CONFIG.width, 3)
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


def fresh_decoder(batch, dtype="float32"):
    return CODEC.init_decode(None, jnp.zeros((batch, CONFIG.height, CONFIG.width, 3), dtype))


def test_parameter_count_of_the_published_size():
    shapes = jax.eval_shape(TAEHV().init_params, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 11_315_539


@pytest.mark.parametrize("size", [(24, 40), (8, 8), (16, 24)], ids=str)
def test_equals_the_plain_whole_clip(size):
    config = dataclasses.replace(CONFIG, height=size[0], width=size[1])
    codec, state, rng = TAEHV(config), taehv_state(config, 1), np.random.default_rng(2)
    params = convert.from_original(state, config)
    latents = rng.standard_normal((2, 3, *config.grid, config.channels)).astype(np.float32)
    video = rng.uniform(-1, 1, (2, 12, *size, 3)).astype(np.float32)
    _, pixels = jax.jit(codec.decode_step)(params, codec.init_decode(params, video[:, 0]), latents)
    _, encoded = jax.jit(codec.encode_step)(params, codec.init_encode(2), video)
    assert pixels.shape == (2, 12, *size, 3) and encoded.shape == latents.shape
    wide = {name: tensor.astype(np.float64) for name, tensor in state.items()}
    for stream in range(2):
        expected = numpy_taehv.decode(wide, latents[stream].astype(np.float64))
        assert np.mean(np.abs(expected) == 1.0) < 0.1 < expected.std()
        assert relative(pixels[stream, 3:], expected) <= 1e-5
        expected = numpy_taehv.encode(wide, video[stream, 3:].astype(np.float64))
        assert relative(encoded[stream], expected) <= 1e-5


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_decoding_in_pieces(params, split):
    latents = random_latents(3)
    _, whole = pieces(DECODE, params, fresh_decoder(2), latents, [FRAMES], 1)
    assert whole.shape == (2, 4 * FRAMES, CONFIG.height, CONFIG.width, 3) and whole.std() > 0.1
    _, pixels = pieces(DECODE, params, fresh_decoder(2), latents, split, 1)
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
    pieces(decode, params, fresh_decoder(2), random_latents(5), [1] * FRAMES, 1)
    assert encode._cache_size() == decode._cache_size() == 1


def test_streams_of_a_batch_may_be_at_different_points(params):
    """Stream i has i latents behind it."""
    latents, video = random_latents(6, 3, 3), random_video(6, 3, 3)
    decoders, encoders, alone = [], [], []
    for i in range(3):
        decoder, encoder = fresh_decoder(1), CODEC.init_encode(1)
        for f in range(i):
            decoder, _ = DECODE(params, decoder, latents[i : i + 1, f : f + 1])
            encoder, _ = ENCODE(params, encoder, video[i : i + 1, 4 * f : 4 * f + 4])
        decoders.append(decoder)
        encoders.append(encoder)
        now = latents[i : i + 1, i : i + 1], video[i : i + 1, 4 * i : 4 * i + 4]
        alone.append((DECODE(params, decoder, now[0])[1], ENCODE(params, encoder, now[1])[1]))
    own = np.arange(3)
    _, pixels = DECODE(params, stack(*decoders), latents[own, own][:, None])
    _, encoded = ENCODE(params, stack(*encoders), video.reshape(3, 3, 4, *video.shape[2:])[own, own])
    np.testing.assert_allclose(pixels, np.concatenate([a for a, _ in alone]), atol=1e-5)
    np.testing.assert_allclose(encoded, np.concatenate([b for _, b in alone]), atol=1e-5)
    for i in range(2):  # the same latent, one step later in a stream, looks different
        _, other = DECODE(params, decoders[i + 1], latents[i : i + 1, i : i + 1])
        assert relative(other, alone[i][0]) > 1e-3


def test_only_the_last_of_the_first_four_frames_counts(params):
    video = random_video(7, 1, 2)
    _, plain = ENCODE(params, CODEC.init_encode(1), video)
    _, other = ENCODE(params, CODEC.init_encode(1), video.at[:, :3].set(jnp.nan))
    np.testing.assert_array_equal(other, plain)
    np.testing.assert_allclose(CODEC.encode_picture(params, video[:, 3]), plain[:, :1], atol=1e-5)


def test_every_frame_moves_its_latent_and_none_before(params):
    video = random_video(8, 1, 3)
    _, plain = ENCODE(params, CODEC.init_encode(1), video)
    for frame in range(3, 12):
        _, other = ENCODE(params, CODEC.init_encode(1), video.at[:, frame].multiply(-0.5))
        own = frame // 4
        change = [relative(other[:, f], plain[:, f]) for f in range(3)]
        assert all(c == 0.0 for c in change[:own]) and change[own] > 1e-3, (frame, change)


def test_every_latent_moves_its_frames_and_none_before(params):
    latents = random_latents(9, 1, 3)
    _, plain = DECODE(params, fresh_decoder(1), latents)
    for f in range(3):
        for channel in range(CONFIG.channels):
            _, other = DECODE(params, fresh_decoder(1), latents.at[:, f, 1, 2, channel].add(1.0))
            change = np.abs(np.asarray(other - plain))[0].max((1, 2, 3))
            assert np.all(change[: 4 * f] == 0.0) and np.all(change[4 * f : 4 * f + 4] > 1e-4), (f, channel, change)


def test_what_is_remembered_matters(params):
    """Every remembered frame of a running stream moves what comes next."""
    decoder, _ = DECODE(params, fresh_decoder(1), random_latents(10, 1, 3))
    encoder, _ = ENCODE(params, CODEC.init_encode(1), random_video(10, 1, 3))
    latents, video = random_latents(11, 1, 1), random_video(11, 1, 1)
    for step, state, given in ((DECODE, decoder, latents), (ENCODE, encoder, video)):
        _, plain = step(params, state, given)
        assert len(state.past) == 9
        for name, frame in state.past.items():
            changed = dataclasses.replace(state, past=state.past | {name: frame + 1.0})
            assert relative(step(params, changed, given)[1], plain) > 1e-5, name


def test_large_latents_are_limited_smoothly(params):
    latents = 100.0 * jnp.sign(random_latents(12, 1, 2))
    _, pixels = DECODE(params, fresh_decoder(1), latents)
    _, limited = DECODE(params, fresh_decoder(1), 10 * latents)
    np.testing.assert_allclose(pixels, limited, atol=1e-5)
    assert np.max(np.abs(pixels)) <= 1.0


def test_bfloat16_stays_bfloat16_and_near(params):
    video = random_video(13, 1, 2)
    _, plain = ENCODE(params, CODEC.init_encode(1), video)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    state, latents = ENCODE(half, CODEC.init_encode(1, jnp.bfloat16), video.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.past)} == {latents.dtype} == {jnp.dtype("bfloat16")}
    assert 0 < relative(latents, plain) < 0.1
    _, plain = DECODE(params, fresh_decoder(1), plain)
    _, pixels = DECODE(half, fresh_decoder(1, "bfloat16"), latents)
    assert pixels.dtype == jnp.bfloat16 and 0 < relative(pixels[:, 3:], plain[:, 3:]) < 0.2


def test_equals_torch_on_stored_arrays():
    """Outputs of a plain PyTorch implementation; tests/parity/make_golden_taehv.py wrote them."""
    config = dataclasses.replace(CONFIG, height=16, width=8)
    codec, params = TAEHV(config), convert.from_original(taehv_state(config, 20), config)
    with np.load(GOLDEN, allow_pickle=False) as golden:
        video = jnp.concatenate([golden["video"][:, :1]] * 3 + [golden["video"]], 1)
        _, latents = codec.encode_step(params, codec.init_encode(1), video)
        _, pixels = codec.decode_step(params, codec.init_decode(params, video[:, 0]), golden["latents"])
        errors = relative(latents, golden["encoded"]), relative(pixels[:, 3:], golden["decoded"])
    print("relative errors", errors)
    assert max(errors) <= 1e-4


@pytest.mark.parametrize("changes, named", [(dict(height=100), "size 100 x 40"), (dict(width=12), "size 24 x 12")])
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(CONFIG, **changes)
