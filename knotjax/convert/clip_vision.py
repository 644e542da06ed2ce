"""CLIP vision weights under the names of Hugging Face (`CLIPVisionModel`)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.convert.keymap import CONV2D, LINEAR, Key, export_weights, import_weights, strip_prefix
from knotjax.models.clip_vision import VIT_H, CLIPVision, CLIPVisionConfig

PREFIX = "vision_model."
_LAYER = "encoder.layers.{}."
_NORMS = {
    "norm_in": "pre_layrnorm",  # spelt so in the published files
    "blocks/norm_attention": _LAYER + "layer_norm1",
    "blocks/norm_ffn": _LAYER + "layer_norm2",
    "norm_out": "post_layernorm",
}
_LINEARS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    "ffn_in": "mlp.fc1",
    "ffn_out": "mlp.fc2",
}
TABLE = (
    Key("class_token", "embeddings.class_embedding"),
    Key("patches/kernel", "embeddings.patch_embedding.weight", CONV2D),
    Key("positions", "embeddings.position_embedding.weight"),
    *(Key(f"{ours}/scale", f"{theirs}.weight") for ours, theirs in _NORMS.items()),
    *(Key(f"{ours}/bias", f"{theirs}.bias") for ours, theirs in _NORMS.items()),
    *(Key(f"blocks/{ours}/kernel", _LAYER + f"{theirs}.weight", LINEAR) for ours, theirs in _LINEARS.items()),
    *(Key(f"blocks/{ours}/bias", _LAYER + f"{theirs}.bias") for ours, theirs in _LINEARS.items()),
)


def shapes(config: CLIPVisionConfig) -> dict:
    """The shapes of all parameters; nothing is computed."""
    pixels = jnp.zeros((1, config.image, config.image, 3))
    return jax.eval_shape(CLIPVision(config).init, jax.random.key(0), pixels)["params"]


def from_hugging_face(tensors: Mapping[str, np.ndarray], config: CLIPVisionConfig = VIT_H) -> dict:
    """Parameters from `CLIPVisionModel` tensors, with the prefix `vision_model.` or without.

    Raises:
      InputError: tensors are missing, unknown or of another shape.
    """
    tensors = strip_prefix(tensors, PREFIX)
    tensors.pop("embeddings.position_ids", None)  # older files store the numbers 0, 1, 2 ...
    return import_weights(TABLE, shapes(config), tensors, "CLIP vision checkpoint")


def to_hugging_face(params: Mapping) -> dict[str, np.ndarray]:
    """`CLIPVisionModel` tensors under the names of the published files (prefix `vision_model.`)."""
    return {PREFIX + name: tensor for name, tensor in export_weights(TABLE, params).items()}
