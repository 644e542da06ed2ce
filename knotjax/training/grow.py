"""A larger model that computes what a smaller one does (Net2Net, arXiv 1511.05641), so that training goes on from it.

Width: every channel and every head stands twice (or `ratio` times) and each copy is read with a share of the weight.
Norms, softmax and rotary angles do not notice. Depth: further layers begin as copies of the last ones that add nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.models.dit import DiTConfig

# How many tables of model channels stand side by side on a kernel's axes: module -> (input, output); 0: an axis of
# another width.
_KERNELS = {
    **{name: (1, 1) for name in ("q", "k", "v", "o", "text_q", "text_k", "text_v", "text_o")},
    **{name: (1, 1) for name in ("ffn_in", "ffn_out", "text_out", "time_out")},
    **{name: (1, 1) for name in ("image_k", "image_v")},
    **{name: (0, 1) for name in ("patch_embedding", "text_in", "time_in", "audio_add")},
    **{name: (1, 0) for name in ("head", "given_gate")},
    "time_projection": (1, 6),
    "kv": (0, 2),
}
_ADDS = ("o", "text_o", "ffn_out")  # what a block adds to its input goes through one of these


def _repeat(array, axis: int, pieces: int, ratio: int):
    """Every piece of an axis, `ratio` times in a row."""
    array = jnp.moveaxis(array, axis, -1)
    split = array.reshape(*array.shape[:-1], pieces, -1)
    return jnp.moveaxis(jnp.concatenate([split] * ratio, -1).reshape(*array.shape[:-1], -1), -1, axis)


def _widen(names: list[str], array, ratio: int):
    """One parameter of the wider model."""
    module, kind = names[-2] if len(names) > 1 else "", names[-1]
    if names[0] in ("audio_tokens", "motion_tokens"):  # their width is their own
        return array
    if names[0] == "image_tokens":
        return _repeat(array, -1, 1, ratio) if module in ("output", "norm_out") else array
    if kind in ("kernel", "bias"):
        if module.startswith("norm"):
            return _repeat(array, -1, 1, ratio)
        pieces_in, pieces_out = _KERNELS[module]
        if kind == "kernel" and pieces_in:
            array = _repeat(array, -2, pieces_in, ratio) / ratio
        return _repeat(array, -1, pieces_out, ratio) if pieces_out else array
    return _repeat(array, -1, 1, ratio)  # norm weights, modulation tables, memory weights


def _deepen(names: list[str], array, groups: int):
    """One stacked parameter of the deeper model: the new layers add nothing yet."""
    extra = groups - array.shape[0]
    added = jnp.repeat(array[-1:], extra, 0)
    if names[-2] in _ADDS and names[-1] in ("kernel", "bias"):
        added = jnp.zeros_like(added)
    return jnp.concatenate([array, added])


def ratio(old: DiTConfig, new: DiTConfig) -> int:
    """How many times every channel of `old` stands in `new`.

    Raises:
      ValueError: `new` is not `old` with more channels and heads in one proportion, and as many layers or more.
    """
    times = new.dim // old.dim
    sizes = dict(dim=old.dim * times, ffn_dim=old.ffn_dim * times, heads=old.heads * times, layers=new.layers)
    if times < 1 or new.layers < old.layers or new != dataclasses.replace(old, **sizes):
        raise ValueError("dim, ffn_dim and heads must grow by one whole factor, and only they and layers may differ")
    return times


def grow(old: DiTConfig, new: DiTConfig, params, noise: float = 0.1, seed: int = 0):
    """Parameters of a `new` DiT that computes what `params` of an `old` one do.

    Args:
      noise: parts the copies of a channel, which would learn the same for ever: every kernel of the wider layers gets
        normal noise of this share of its own spread. With 0 the function is the same to rounding.

    Raises:
      ValueError: see `ratio`.
    """
    times, rng = ratio(old, new), np.random.default_rng(seed)

    def one(path, array):
        names = [part.key for part in path]
        grown = _widen(names, jnp.asarray(array), times)
        if times > 1 and names[-1] == "kernel" and noise:
            grown = grown + noise * jnp.std(grown) * jnp.asarray(rng.standard_normal(grown.shape), grown.dtype)
        if names[0] == "blocks":
            grown = _deepen(names, grown, new.layers // new.motion_every)
        if names[0] == "audio_add":  # blocks that had no sound get linear layers of zeros
            more = len(new.added_layers) - len(old.added_layers)
            grown = jnp.pad(grown, ((0, more), *((0, 0) for _ in grown.shape[1:])))
        return grown

    return jax.tree_util.tree_map_with_path(one, params)
