"""TAEHV against a plain PyTorch implementation, with the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

from knotjax.convert import taehv as convert
from knotjax.models.taehv import TAEHV, TAEHVConfig
from tests.helpers import relative
from tests.models.codec_tools import TINY_TAEHV, pieces, taehv_state
from tests.parity.torch_taehv import TorchTAEHV

pytestmark = pytest.mark.parity

CONFIGS = {"tiny, odd": (TINY_TAEHV, 4), "published, few pixels": (TAEHVConfig(24, 40), 3)}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_torch(name):
    config, frames = CONFIGS[name]
    state, rng = taehv_state(config, 30), np.random.default_rng(31)
    theirs, codec, params = TorchTAEHV(config, state), TAEHV(config), convert.from_original(state, config)
    video = rng.uniform(-1, 1, (2, 4 * frames - 3, config.height, config.width, 3)).astype(np.float32)
    latents = rng.standard_normal((2, frames, *config.grid, config.channels)).astype(np.float32)

    filled = jnp.concatenate([jnp.zeros_like(video[:, :1])] * 3 + [video], 1)
    encoder, decoder = codec.init_encode(2), codec.init_decode(params, video[:, 0])
    _, encoded = pieces(jax.jit(codec.encode_step), params, encoder, filled, [1] * frames, 4)
    _, pixels = pieces(jax.jit(codec.decode_step), params, decoder, latents, [1] * frames, 1)
    expected = theirs.encode(video), theirs.decode(latents)
    assert np.mean(np.abs(expected[1]) == 1.0) < 0.1
    assert expected[0].std() > 0.05 and expected[1].std() > 0.05
    errors = relative(encoded, expected[0]), relative(pixels[:, 3:], expected[1])
    print(name, "relative errors of encode and decode:", errors)
    assert max(errors) <= 1e-4
