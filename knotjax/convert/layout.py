"""Moving convolution weights between PyTorch's layout and Flax's, by a table of names, bit for bit.

PyTorch keeps a convolution's weight as [out, in, *window], Flax as [*window, in, out].
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from knotjax.errors import InputError
from knotjax.weights import flatten, unflatten

LISTED = 20  # names of one kind that an error lists


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


def read(state: Mapping[str, np.ndarray], table: Sequence[Row]) -> dict:
    """A checkpoint's tensors as parameters.

    Raises:
      InputError: tensors are missing, unknown or have another shape; they are named.
    """
    _check(state, {row.name: row.theirs for row in table}, "the checkpoint's tensors")
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
    _check(flat, {row.path: row.shape for row in table}, "the parameters")
    state = {}
    for row in table:
        leaf = flat[row.path]
        if leaf.ndim > 1:
            leaf = np.moveaxis(leaf, (-1, -2), (0, 1))
        state[row.name] = np.ascontiguousarray(leaf).reshape(row.theirs)
    return state


def _check(found: Mapping, wanted: Mapping[str, tuple], what: str) -> None:
    """Refuse unless names and shapes are exactly the wanted ones."""
    kinds = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unknown": sorted(found.keys() - wanted.keys()),
        "misshapen": [
            f"{name} {list(np.shape(found[name]))} instead of {list(wanted[name])}"
            for name in sorted(wanted.keys() & found.keys())
            if tuple(np.shape(found[name])) != tuple(wanted[name])
        ],
    }
    faults = [
        f"{kind} " + ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        for kind, names in kinds.items()
        if names
    ]
    if faults:
        raise InputError(f"{what} do not fit the model: {'; '.join(faults)}: give the file or the config that fits")
