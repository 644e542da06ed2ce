"""wav2vec2 weights under the names of Hugging Face (`Wav2Vec2Model`).

Published files carry a task beside the encoder: base-960h and xlsr-53-english a letter head, chinese-wav2vec2-base and
xlsr-53 the quantizer of their pre-training. What belongs to a task is left out by name.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.convert.keymap import CONV1D, LINEAR, Key, Renamed, export_weights, import_weights
from knotjax.models.wav2vec2 import BASE, Wav2Vec2, Wav2Vec2Config

LEFT_OUT = re.compile(r"masked_spec_embed$|(lm_head|quantizer|project_q|project_hid)\.")
_LAYER = "encoder.layers.{}."
_LINEARS = {
    "q": "attention.q_proj",
    "k": "attention.k_proj",
    "v": "attention.v_proj",
    "o": "attention.out_proj",
    "ffn_in": "feed_forward.intermediate_dense",
    "ffn_out": "feed_forward.output_dense",
}
_POSITIONS = "encoder.pos_conv_embed.conv."
_NEWER = {  # what newer torch versions call the two parts of the positional kernel
    _POSITIONS + "parametrizations.weight.original0": _POSITIONS + "weight_g",
    _POSITIONS + "parametrizations.weight.original1": _POSITIONS + "weight_v",
}


def key_table(config: Wav2Vec2Config) -> tuple[Key, ...]:
    """The name of every parameter of a layout."""

    def norm(ours, theirs):
        return (Key(f"{ours}/scale", f"{theirs}.weight"), Key(f"{ours}/bias", f"{theirs}.bias"))

    def linear(ours, theirs):
        return (Key(f"{ours}/kernel", f"{theirs}.weight", LINEAR), Key(f"{ours}/bias", f"{theirs}.bias"))

    keys = []
    for i in range(len(config.kernels)):
        theirs = f"feature_extractor.conv_layers.{i}"
        keys.append(Key(f"features/conv{i}/kernel", f"{theirs}.conv.weight", CONV1D))
        if config.conv_bias:
            keys.append(Key(f"features/conv{i}/bias", f"{theirs}.conv.bias"))
        if config.conv_norm == "layer" or i == 0:
            keys.extend(norm(f"features/norm{i}", f"{theirs}.layer_norm"))
    keys.extend(norm("feature_norm", "feature_projection.layer_norm"))
    keys.extend(linear("projection", "feature_projection.projection"))
    keys.append(Key("positions/direction", _POSITIONS + "weight_v", CONV1D))
    keys.append(Key("positions/length", _POSITIONS + "weight_g", CONV1D))
    keys.append(Key("positions/bias", _POSITIONS + "bias"))
    keys.extend(norm("norm", "encoder.layer_norm"))
    keys.extend(norm("blocks/norm_attention", _LAYER + "layer_norm"))
    keys.extend(norm("blocks/norm_ffn", _LAYER + "final_layer_norm"))
    for ours, theirs in _LINEARS.items():
        keys.extend(linear(f"blocks/{ours}", _LAYER + theirs))
    return tuple(keys)


def shapes(config: Wav2Vec2Config) -> dict:
    """The shapes of all parameters; nothing is computed."""
    init = Wav2Vec2(config).init
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, config.reach)))["params"]


def prepare(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The encoder's tensors alone, under the names of the published files."""

    def rename(name):
        name = name.removeprefix("wav2vec2.")
        return None if LEFT_OUT.match(name) else _NEWER.get(name, name)

    return Renamed(tensors, rename)


def from_hugging_face(tensors: Mapping[str, np.ndarray], config: Wav2Vec2Config = BASE) -> dict:
    """Parameters from `Wav2Vec2Model` tensors, or those of a model with a task on top (prefix `wav2vec2.`).

    Raises:
      InputError: tensors are missing, unknown or of another shape.
    """
    return import_weights(key_table(config), shapes(config), prepare(tensors), "wav2vec2 checkpoint")


def to_hugging_face(params: Mapping, config: Wav2Vec2Config = BASE) -> dict[str, np.ndarray]:
    """`Wav2Vec2Model` tensors under the names of the published files (`weight_g`, `weight_v`), without a task."""
    return export_weights(key_table(config), params)
