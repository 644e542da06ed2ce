"""Weights of the Wan 2.1 VAE: the original names (`Wan2.1_VAE.pth`), those of diffusers' AutoencoderKLWan, and ours.

All functions move bits and change none. Tensors are numpy arrays in the layout of the file.
"""

import functools
from collections.abc import Mapping

import jax
import numpy as np

from knotjax.convert.keymap import Key, convolution, export_weights, import_weights, paths
from knotjax.models.wan_vae import WanVAE, WanVAEConfig

PUBLISHED = WanVAEConfig()

# our name inside a layer -> (original, diffusers)
INNER = {
    "": ("", ""),
    "norm1": (".residual.0", ".norm1"),
    "conv1": (".residual.2", ".conv1"),
    "norm2": (".residual.3", ".norm2"),
    "conv2": (".residual.6", ".conv2"),
    "shortcut": (".shortcut", ".conv_shortcut"),
    "space": (".resample.1", ".resample.1"),
    "time_conv": (".time_conv", ".time_conv"),
    "norm": (".norm", ".norm"),
    "to_qkv": (".to_qkv", ".to_qkv"),
    "proj": (".proj", ".proj"),
}
LEAF = {"kernel": "weight", "bias": "bias", "gamma": "gamma"}


def from_original(state: Mapping[str, np.ndarray], config: WanVAEConfig = PUBLISHED) -> dict:
    """Tensors by their original names -> parameters of `WanVAE(config)`.

    Raises:
      InputError: tensors are missing, unknown or have another shape; they are named.
    """
    return import_weights(table(config, 0), shapes(config), state, "Wan VAE checkpoint")


def to_original(params: Mapping, config: WanVAEConfig = PUBLISHED) -> dict[str, np.ndarray]:
    """Parameters of `WanVAE(config)` -> tensors by their original names.

    Raises:
      InputError: parameters are missing or unknown; they are named.
    """
    return export_weights(table(config, 0), params)


def from_diffusers(state: Mapping[str, np.ndarray], config: WanVAEConfig = PUBLISHED) -> dict:
    """As `from_original`, for the names of diffusers."""
    return import_weights(table(config, 1), shapes(config), state, "Wan VAE checkpoint")


def to_diffusers(params: Mapping, config: WanVAEConfig = PUBLISHED) -> dict[str, np.ndarray]:
    """As `to_original`, for the names of diffusers."""
    return export_weights(table(config, 1), params)


def shapes(config: WanVAEConfig) -> dict:
    """The shapes of all parameters; nothing is computed."""
    return jax.eval_shape(WanVAE(config).init_params, jax.random.key(0))


@functools.lru_cache(maxsize=16)
def table(config: WanVAEConfig, which: int) -> tuple[Key, ...]:
    """All tensors; `which` is 0 for the original names, 1 for those of diffusers."""
    layers = _layers(config)
    rows = []
    for path, shape in paths(shapes(config)).items():
        part, layer, *inner, leaf = path.split("/")
        inner = "/".join(name for name in inner if name != "conv")  # a causal convolution holds a plain one
        name = f"{layers[part, layer][which]}{INNER[inner][which]}.{LEAF[leaf]}"
        ones = (1, 1) if layer == "middle_attention" else (1, 1, 1)
        unfolded = (-1, *ones) if leaf == "gamma" else None
        rows.append(Key(path, name, convolution(len(shape)) if leaf == "kernel" else None, unfolded))
    return tuple(rows)


def _layers(config: WanVAEConfig) -> dict[tuple[str, str], tuple[str, str]]:
    """(part, our layer) -> (original, diffusers)."""
    names = {("encoder", "quant"): ("conv1", "quant_conv"), ("decoder", "post_quant"): ("conv2", "post_quant_conv")}
    for part in ("encoder", "decoder"):
        names |= {
            (part, "conv_in"): (f"{part}.conv1", f"{part}.conv_in"),
            (part, "middle_block0"): (f"{part}.middle.0", f"{part}.mid_block.resnets.0"),
            (part, "middle_attention"): (f"{part}.middle.1", f"{part}.mid_block.attentions.0"),
            (part, "middle_block1"): (f"{part}.middle.2", f"{part}.mid_block.resnets.1"),
            (part, "norm_out"): (f"{part}.head.0", f"{part}.norm_out"),
            (part, "conv_out"): (f"{part}.head.2", f"{part}.conv_out"),
        }
    down, up = 0, 0
    for level in range(4):
        for block in range(config.blocks):
            theirs = f"encoder.downsamples.{down}", f"encoder.down_blocks.{down}"
            names["encoder", f"down{level}_block{block}"] = theirs
            down += 1
        for block in range(config.blocks + 1):
            theirs = f"decoder.upsamples.{up}", f"decoder.up_blocks.{level}.resnets.{block}"
            names["decoder", f"up{level}_block{block}"] = theirs
            up += 1
        if level < 3:
            theirs = f"encoder.downsamples.{down}", f"encoder.down_blocks.{down}"
            names["encoder", f"down{level}_sample"] = theirs
            theirs = f"decoder.upsamples.{up}", f"decoder.up_blocks.{level}.upsamplers.0"
            names["decoder", f"up{level}_sample"] = theirs
            down, up = down + 1, up + 1
    return names
