"""Weights of the public codecs go to our names and back without losing a bit, and misfits are named."""

import ml_dtypes
import numpy as np
import pytest

from knotjax.convert import taehv, wan_vae
from knotjax.convert.keymap import places
from knotjax.errors import InputError
from knotjax.weights import flatten
from tests.models.codec_tools import TINY_TAEHV, TINY_WAN, taehv_state, wan_state

ROUTES = {
    "wan": (wan_vae.from_original, wan_vae.to_original, TINY_WAN, wan_state),
    "taehv": (taehv.from_original, taehv.to_original, TINY_TAEHV, taehv_state),
}


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda dtype: dtype.__name__)
def test_there_and_back_bit_for_bit(name, dtype):
    read, write, config, draw = ROUTES[name]
    state = {key: tensor.astype(dtype) for key, tensor in draw(config, 1).items()}
    params = read(state, config)
    back = write(params, config)
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert back[key].dtype == dtype and back[key].shape == tensor.shape
        assert back[key].tobytes() == tensor.tobytes()
    again = flatten(read(back, config))
    assert all(again[path].tobytes() == leaf.tobytes() for path, leaf in flatten(params).items())


def test_diffusers_names_there_and_back():
    state = wan_state(TINY_WAN, 2)
    params = wan_vae.from_original(state, TINY_WAN)
    theirs = wan_vae.to_diffusers(params, TINY_WAN)
    back = wan_vae.to_original(wan_vae.from_diffusers(theirs, TINY_WAN), TINY_WAN)
    assert all(back[key].tobytes() == tensor.tobytes() for key, tensor in state.items())
    for original, name in {
        "conv1.weight": "quant_conv.weight",
        "encoder.downsamples.0.residual.0.gamma": "encoder.down_blocks.0.norm1.gamma",
        "encoder.middle.1.to_qkv.bias": "encoder.mid_block.attentions.0.to_qkv.bias",
        "encoder.head.2.weight": "encoder.conv_out.weight",
        "decoder.middle.2.residual.6.weight": "decoder.mid_block.resnets.1.conv2.weight",
        "decoder.upsamples.2.time_conv.weight": "decoder.up_blocks.0.upsamplers.0.time_conv.weight",
        "decoder.upsamples.3.shortcut.weight": "decoder.up_blocks.1.resnets.0.conv_shortcut.weight",
    }.items():
        np.testing.assert_array_equal(theirs[name], state[original])


def test_names_and_shapes_of_the_published_files():
    def published(module, config, *which):
        return dict(
            row for rows in places(module.table(config, *which), module.shapes(config)).values() for row in rows
        )

    rows = published(wan_vae, wan_vae.PUBLISHED, 0)
    assert len(rows) == 194
    for name, shape in {
        "encoder.conv1.weight": (96, 3, 3, 3, 3),
        "encoder.downsamples.2.resample.1.weight": (96, 96, 3, 3),
        "encoder.downsamples.5.time_conv.weight": (192, 192, 3, 1, 1),
        "encoder.downsamples.10.residual.6.bias": (384,),
        "conv1.weight": (32, 32, 1, 1, 1),
        "conv2.weight": (16, 16, 1, 1, 1),
        "decoder.middle.1.norm.gamma": (384, 1, 1),
        "decoder.middle.1.to_qkv.weight": (1152, 384, 1, 1),
        "decoder.upsamples.3.time_conv.weight": (768, 384, 3, 1, 1),
        "decoder.upsamples.4.shortcut.weight": (384, 192, 1, 1, 1),
        "decoder.upsamples.11.resample.1.weight": (96, 192, 3, 3),
        "decoder.upsamples.14.residual.3.gamma": (96, 1, 1, 1),
        "decoder.head.2.weight": (3, 96, 3, 3, 3),
    }.items():
        assert rows[name] == shape, name
    rows = published(taehv, taehv.PUBLISHED)
    for name, shape in {
        "encoder.2.conv.weight": (64, 128, 1, 1),
        "encoder.3.weight": (64, 64, 3, 3),
        "encoder.16.conv.4.bias": (64,),
        "encoder.17.weight": (16, 64, 3, 3),
        "decoder.1.weight": (256, 16, 3, 3),
        "decoder.7.conv.weight": (256, 256, 1, 1),
        "decoder.13.conv.weight": (256, 128, 1, 1),
        "decoder.17.conv.0.weight": (64, 128, 3, 3),
        "decoder.22.bias": (3,),
    }.items():
        assert rows[name] == shape, name
    assert not {"encoder.3.bias", "decoder.8.bias", "decoder.2.weight"} & rows.keys()


@pytest.mark.parametrize("name", ROUTES)
def test_every_misfit_is_named_in_one_line(name):
    read, write, config, draw = ROUTES[name]
    state = draw(config, 3)
    first, second, third, *_ = state
    broken = {key: tensor for key, tensor in state.items() if key != first} | {"model.extra": np.ones(2, np.float32)}
    broken[second] = broken[second][None]
    broken[third] = broken[third][..., :1]
    with pytest.raises(InputError) as error:
        read(broken, config)
    message = str(error.value)
    assert "\n" not in message and f"missing: {first}" in message and "unknown: model.extra" in message
    for key in (second, third):
        assert f"{key} {broken[key].shape} instead of {state[key].shape}" in message
    assert len(state) == len(broken) and list(state)[4] not in message

    params = read(state, config)
    del params["encoder"]["conv_in"]
    with pytest.raises(InputError, match=r"parameter tree.*missing: encoder/conv_in"):
        write(params, config)


def test_a_wholly_different_file_gives_a_short_message():
    theirs = wan_vae.to_diffusers(wan_vae.from_original(wan_state(TINY_WAN), TINY_WAN), TINY_WAN)
    with pytest.raises(InputError, match=r"missing: conv1.bias, .* and \d+ more; unknown: .* and \d+ more") as error:
        wan_vae.from_original(theirs, TINY_WAN)
    assert len(str(error.value)) < 3000
