"""UMT5 encoder weights under the names of Hugging Face (`UMT5EncoderModel`) and of Wan 2.1's own checkpoint.

Wan's file is `models_t5_umt5-xxl-enc-bf16.pth`; save its tensors as safetensors first.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.convert.keymap import LINEAR, Key, Renamed, export_weights, import_weights
from knotjax.errors import InputError
from knotjax.models.umt5 import XXL, UMT5Config, UMT5Encoder

_SELF = "encoder.block.{}.layer.0."
_FFN = "encoder.block.{}.layer.1."
HUGGING_FACE = (
    Key("tokens/embedding", "shared.weight"),
    Key("blocks/norm_attention/weight", _SELF + "layer_norm.weight"),
    *(Key(f"blocks/{name}/kernel", f"{_SELF}SelfAttention.{name}.weight", LINEAR) for name in "qkvo"),
    Key("blocks/position_bias", _SELF + "SelfAttention.relative_attention_bias.weight"),
    Key("blocks/norm_ffn/weight", _FFN + "layer_norm.weight"),
    Key("blocks/gate/kernel", _FFN + "DenseReluDense.wi_0.weight", LINEAR),
    Key("blocks/ffn_in/kernel", _FFN + "DenseReluDense.wi_1.weight", LINEAR),
    Key("blocks/ffn_out/kernel", _FFN + "DenseReluDense.wo.weight", LINEAR),
    Key("norm/weight", "encoder.final_layer_norm.weight"),
)
WAN = (
    Key("tokens/embedding", "token_embedding.weight"),
    Key("blocks/norm_attention/weight", "blocks.{}.norm1.weight"),
    *(Key(f"blocks/{name}/kernel", f"blocks.{{}}.attn.{name}.weight", LINEAR) for name in "qkvo"),
    Key("blocks/position_bias", "blocks.{}.pos_embedding.embedding.weight"),
    Key("blocks/norm_ffn/weight", "blocks.{}.norm2.weight"),
    Key("blocks/gate/kernel", "blocks.{}.ffn.gate.0.weight", LINEAR),
    Key("blocks/ffn_in/kernel", "blocks.{}.ffn.fc1.weight", LINEAR),
    Key("blocks/ffn_out/kernel", "blocks.{}.ffn.fc2.weight", LINEAR),
    Key("norm/weight", "norm.weight"),
)


def shapes(config: UMT5Config) -> dict:
    """The shapes of all parameters; nothing is computed."""
    init = UMT5Encoder(config).init
    ids, valid = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    return jax.eval_shape(init, jax.random.key(0), ids, valid)["params"]


def from_hugging_face(tensors: Mapping[str, np.ndarray], config: UMT5Config = XXL) -> dict:
    """Parameters from `UMT5EncoderModel` tensors; the token table may stand under either of its names, or both.

    Raises:
      InputError: tensors are missing, unknown or of another shape, or the two token tables differ.
    """
    return import_weights(HUGGING_FACE, shapes(config), prepare(tensors), "UMT5 checkpoint (Hugging Face names)")


def prepare(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """With one token table, under `shared.weight`.

    Raises:
      InputError: the two token tables differ.
    """
    encoder = "encoder.embed_tokens.weight"
    if encoder not in tensors:
        return tensors
    if "shared.weight" not in tensors:
        return Renamed(tensors, lambda name: "shared.weight" if name == encoder else name)
    if not np.array_equal(tensors["shared.weight"], tensors[encoder]):
        raise InputError("UMT5: shared.weight and encoder.embed_tokens.weight differ: keep the encoder's one only")
    return Renamed(tensors, lambda name: None if name == encoder else name)


def to_hugging_face(params: Mapping) -> dict[str, np.ndarray]:
    """`UMT5EncoderModel` tensors; the token table stands under `shared.weight`."""
    return export_weights(HUGGING_FACE, params)


def from_wan(tensors: Mapping[str, np.ndarray], config: UMT5Config = XXL) -> dict:
    """Parameters from the tensors of Wan 2.1's own text encoder.

    Raises:
      InputError: tensors are missing, unknown or of another shape.
    """
    return import_weights(WAN, shapes(config), tensors, "UMT5 checkpoint (Wan names)")


def to_wan(params: Mapping) -> dict[str, np.ndarray]:
    """Tensors under the names of Wan 2.1's own text encoder."""
    return export_weights(WAN, params)
