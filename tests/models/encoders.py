"""Tiny encoders, random weights for them, and the stored outputs of their PyTorch twins."""

from pathlib import Path

import jax
import numpy as np

from knotjax.convert import clip_vision, umt5, wav2vec2
from knotjax.models.clip_vision import CLIPVisionConfig
from knotjax.models.umt5 import UMT5Config
from knotjax.models.wav2vec2 import Wav2Vec2Config

GOLDEN = Path(__file__).parent.parent / "golden"

UMT5 = UMT5Config(vocabulary=40, width=16, heads=2, head_dim=12, ffn_dim=24, layers=3)
_SHORT = dict(width=16, ffn_dim=24, heads=2, layers=3, conv_width=8, positions=8, position_groups=2)
WAV2VEC2 = {
    "base": Wav2Vec2Config(**_SHORT),
    "large": Wav2Vec2Config(**_SHORT, conv_bias=True, conv_norm="layer", stable_layer_norm=True),
}
CLIP = CLIPVisionConfig(image=12, patch=4, width=16, ffn_dim=24, heads=2, layers=3)
SHAPES = {
    "umt5": umt5.shapes(UMT5),
    "wav2vec2_base": wav2vec2.shapes(WAV2VEC2["base"]),
    "wav2vec2_large": wav2vec2.shapes(WAV2VEC2["large"]),
    "clip_vision": clip_vision.shapes(CLIP),
}


def random_params(shapes, seed: int = 0, dtype="float32"):
    """Parameters of which none is zero: kernels that keep the size of what passes, norm weights around 1.5."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape)
        if name == "kernel":
            stacked = path[0].key == "blocks"
            noise = noise * 1.4 * np.prod(leaf.shape[stacked:-1]) ** -0.5
            if path[-2].key == "q" and "position_bias" in shapes["blocks"]:
                noise = 0.3 * noise  # UMT5 does not scale its scores
        elif name in ("weight", "scale", "length"):
            noise = 1.5 + 0.3 * noise
        elif name == "bias":
            noise = 0.3 * noise
        return np.asarray(noise, dtype)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(params))
    return params


def count(shapes) -> int:
    """How many numbers a tree of shapes holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def golden(name: str) -> tuple[dict, dict]:
    """What `tests/parity/make_golden_encoders.py` stored: weights under Hugging Face names, and all other arrays."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    weights = {key.removeprefix("weight/"): arrays.pop(key) for key in list(arrays) if key.startswith("weight/")}
    assert weights and all(np.all(weight != 0) for weight in weights.values())
    return weights, arrays


def every_parameter_matters(apply, params) -> None:
    """Asserts that changing any one parameter tensor (any layer of a stacked one) changes the output.

    Key biases are left out: they add one number to all scores of a query, which the softmax takes away again.
    """
    before = np.asarray(apply(params))
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten_with_path(params)
    for place, (path, leaf) in enumerate(leaves):
        if [part.key for part in path[-2:]] == ["k", "bias"]:
            continue
        for layer in range(leaf.shape[0]) if path[0].key == "blocks" else (...,):
            changed = np.array(leaf)
            changed[layer] *= rng.uniform(0.5, 1.5, changed[layer].shape)  # uneven: norms undo even changes
            values = [value for _, value in leaves]
            values[place] = changed
            after = np.asarray(apply(jax.tree.unflatten(tree, values)))
            assert np.max(np.abs(after - before)) > 1e-4, (jax.tree_util.keystr(path), layer)
