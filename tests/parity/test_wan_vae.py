"""The Wan VAE against diffusers' AutoencoderKLWan, with the same random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from knotjax.convert import wan_vae as convert
from knotjax.models.wan_vae import WanVAE, WanVAEConfig
from tests.helpers import relative
from tests.models.codec_tools import TINY_WAN, pieces, wan_state
from tests.parity.torch_wan_vae import TorchWanVAE

pytestmark = pytest.mark.parity

CONFIGS = {
    "tiny, odd": (dataclasses.replace(TINY_WAN, blocks=2), 4),
    "tiny, one latent": (dataclasses.replace(TINY_WAN, height=8, width=8), 1),
    "published, few pixels": (WanVAEConfig(16, 24), 3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_diffusers(name):
    config, frames = CONFIGS[name]
    state, rng = wan_state(config, 30), np.random.default_rng(31)
    theirs, codec, params = TorchWanVAE(config, state), WanVAE(config), convert.from_original(state, config)
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


def test_names_agree_with_the_public_conversion():
    """diffusers' own table from original names to its own ends at the names that we give the same tensors."""
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    config = WanVAEConfig(8, 8, widths=(2, 4, 8, 8))  # the public table is for two blocks per level
    state = wan_state(config, 32)
    theirs = convert_wan_vae_to_diffusers(dict(state))
    ours = convert.to_diffusers(convert.from_original(state, config), config)
    assert theirs.keys() == ours.keys()
    for key, tensor in ours.items():
        np.testing.assert_array_equal(theirs[key], tensor)
