"""Weights of TAEHV for Wan 2.1: the names of `taew2_1.pth` and ours.

The file numbers the layers of encoder and decoder in order, those without weights included. Functions move bits and
change none. Tensors are numpy arrays in the layout of the file.
"""

import functools
from collections.abc import Mapping

import jax
import numpy as np

from knotjax.convert.keymap import Key, convolution, export_weights, import_weights, paths
from knotjax.models.taehv import TAEHV, TAEHVConfig

PUBLISHED = TAEHVConfig()

INNER = {"": "", "conv0": ".conv.0", "conv1": ".conv.2", "conv2": ".conv.4"}
LEAF = {"kernel": "weight", "bias": "bias"}


def from_original(state: Mapping[str, np.ndarray], config: TAEHVConfig = PUBLISHED) -> dict:
    """Tensors by their original names -> parameters of `TAEHV(config)`.

    Raises:
      InputError: tensors are missing, unknown or have another shape; they are named.
    """
    return import_weights(table(config), shapes(config), state, "TAEHV checkpoint")


def to_original(params: Mapping, config: TAEHVConfig = PUBLISHED) -> dict[str, np.ndarray]:
    """Parameters of `TAEHV(config)` -> tensors by their original names.

    Raises:
      InputError: parameters are missing or unknown; they are named.
    """
    return export_weights(table(config), params)


def shapes(config: TAEHVConfig) -> dict:
    """The shapes of all parameters; nothing is computed."""
    return jax.eval_shape(TAEHV(config).init_params, jax.random.key(0))


@functools.lru_cache(maxsize=16)
def table(config: TAEHVConfig) -> tuple[Key, ...]:
    """All tensors under both names."""
    layers = _layers(config)
    rows = []
    for path, shape in paths(shapes(config)).items():
        part, layer, *inner, leaf = path.split("/")
        name = f"{part}.{layers[part][layer]}{INNER['/'.join(inner)]}.{LEAF[leaf]}"
        rows.append(Key(path, name, convolution(len(shape)) if leaf == "kernel" else None))
    return tuple(rows)


def _layers(config: TAEHVConfig) -> dict[str, dict[str, str]]:
    """Part -> our layer -> its number, with ".conv" where the file wraps the convolution."""
    blocks = range(config.blocks)
    encoder, decoder = ["conv_in", "relu"], ["clamp", "conv_in", "relu"]
    for stage in range(3):
        memory = [f"stage{stage}_block{block}" for block in blocks]
        encoder += [f"stage{stage}_pool", f"stage{stage}_conv", *memory]
        decoder += [*memory, "upsample", f"stage{stage}_grow", f"stage{stage}_conv"]
    layers = {"encoder": [*encoder, "conv_out"], "decoder": [*decoder, "relu", "conv_out"]}
    wrapped = ("_pool", "_grow")
    return {
        part: {name: f"{i}.conv" if name.endswith(wrapped) else f"{i}" for i, name in enumerate(names)}
        for part, names in layers.items()
    }
