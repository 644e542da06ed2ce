"""Moving convolution weights between PyTorch's layout and Flax's, by a table of names, bit for bit.

PyTorch keeps a convolution's weight as [out, in, *window], Flax as [*window, in, out].
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from knotjax.convert.keymap import check_tensors
from knotjax.weights import flatten, unflatten


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor under both names."""

    path: str  # ours, "a/b/kernel"
    shape: tuple[int, ...]  # ours
    name: str  # theirs
    theirs: tuple[int, ...]  # their shape


def paths(tree) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every leaf of a nested dict."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): tuple(leaf.shape) for path, leaf in leaves}


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[*window, in, out] -> [out, in, *window]; a vector stays as it is."""
    return (shape[-1], shape[-2], *shape[:-2]) if len(shape) > 1 else shape


def _shapes(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(tensor) for name, tensor in tensors.items()}


def read(state: Mapping[str, np.ndarray], table: Sequence[Row]) -> dict:
    """A checkpoint's tensors as parameters.

    Raises:
      InputError: tensors are missing, unknown or have another shape; they are named.
    """
    check_tensors({row.name: row.theirs for row in table}, _shapes(state), "the checkpoint")
    flat = {}
    for row in table:
        tensor = np.asarray(state[row.name])
        if len(row.shape) > 1:
            tensor = np.moveaxis(tensor, (0, 1), (-1, -2))
        flat[row.path] = np.ascontiguousarray(tensor).reshape(row.shape)
    return unflatten(flat)


def write(params: Mapping, table: Sequence[Row]) -> dict[str, np.ndarray]:
    """Parameters as a checkpoint's tensors: the reverse of `read`.

    Raises:
      InputError: parameters are missing, unknown or have another shape; they are named.
    """
    flat = flatten(params)
    check_tensors({row.path: row.shape for row in table}, _shapes(flat), "the parameter tree")
    state = {}
    for row in table:
        leaf = flat[row.path]
        if leaf.ndim > 1:
            leaf = np.moveaxis(leaf, (-1, -2), (0, 1))
        state[row.name] = np.ascontiguousarray(leaf).reshape(row.theirs)
    return state
