"""CLIP vision weights under the names of Hugging Face (`CLIPVisionModel`) and of Wan's own OpenCLIP file.

That file (`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`) also holds the text tower and the projection that
compares the two; they are left out by name.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.convert.keymap import CONV2D, LINEAR, Key, Renamed, export_weights, import_weights
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

_BLOCK = "transformer.{}."
_OPEN_NORMS = {
    "norm_in": "pre_norm",
    "blocks/norm_attention": _BLOCK + "norm1",
    "blocks/norm_ffn": _BLOCK + "norm2",
    "norm_out": "post_norm",
}
_OPEN_LINEARS = {"q": "attn.q", "k": "attn.k", "v": "attn.v", "o": "attn.proj", "ffn_in": "mlp.0", "ffn_out": "mlp.2"}


def open_clip_table(width: int) -> tuple[Key, ...]:
    """A key for every parameter of a tower with so many channels, after `split_open_clip`."""
    return (
        Key("class_token", "cls_embedding", unfolded=(1, 1, -1)),
        Key("patches/kernel", "patch_embedding.weight", CONV2D),
        Key("positions", "pos_embedding", unfolded=(1, -1, width)),
        *(Key(f"{ours}/scale", f"{theirs}.weight") for ours, theirs in _OPEN_NORMS.items()),
        *(Key(f"{ours}/bias", f"{theirs}.bias") for ours, theirs in _OPEN_NORMS.items()),
        *(Key(f"blocks/{ours}/kernel", _BLOCK + f"{theirs}.weight", LINEAR) for ours, theirs in _OPEN_LINEARS.items()),
        *(Key(f"blocks/{ours}/bias", _BLOCK + f"{theirs}.bias") for ours, theirs in _OPEN_LINEARS.items()),
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
    return import_weights(TABLE, shapes(config), prepare(tensors), "CLIP vision checkpoint")


def to_hugging_face(params: Mapping) -> dict[str, np.ndarray]:
    """`CLIPVisionModel` tensors under the names of the published files (prefix `vision_model.`)."""
    return finish(export_weights(TABLE, params))


def prepare(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Without the prefix, and without the numbers 0, 1, 2 ... that older files store."""

    def rename(name):
        name = name.removeprefix(PREFIX)
        return None if name == "embeddings.position_ids" else name

    return Renamed(tensors, rename)


def finish(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With the prefix of the published files."""
    return {PREFIX + name: tensor for name, tensor in tensors.items()}


def split_open_clip(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The vision tower's tensors, with the three parts of every `to_qkv` apart; of the rest, nothing."""
    parts = {}
    for name in tensors:
        short = name.removeprefix("visual.")
        if short == name or short == "head":
            if not re.match(r"textual\.|log_scale$|visual\.head$", name):
                parts[name] = tensors[name]  # to be refused by name
        elif ".to_qkv." in short:
            for part, tensor in zip("qkv", np.split(tensors[name], 3)):
                parts[short.replace("to_qkv", part)] = tensor
        else:
            parts[short] = tensors[name]
    return parts


def join_open_clip(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reverse of `split_open_clip`, without what that left out."""
    joined = {}
    for name, tensor in tensors.items():
        layer, found, kind = name.partition(".attn.q.")
        if found:
            whole = [tensors[f"{layer}.attn.{part}.{kind}"] for part in "qkv"]
            joined[f"visual.{layer}.attn.to_qkv.{kind}"] = np.concatenate(whole)
        elif ".attn.k." not in name and ".attn.v." not in name:
            joined["visual." + name] = tensor
    return joined


def from_open_clip(tensors: Mapping[str, np.ndarray], config: CLIPVisionConfig = VIT_H) -> dict:
    """Parameters from the tensors of Wan's OpenCLIP file.

    Raises:
      InputError: tensors are missing, unknown or of another shape.
    """
    table = open_clip_table(config.width)
    return import_weights(table, shapes(config), split_open_clip(tensors), "CLIP vision checkpoint (OpenCLIP)")


def to_open_clip(params: Mapping) -> dict[str, np.ndarray]:
    """The vision tower's tensors under the names of Wan's OpenCLIP file."""
    return join_open_clip(export_weights(open_clip_table(params["positions"].shape[-1]), params))
