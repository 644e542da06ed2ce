"""Tables of parameter names, and moving weights along them in both directions without changing a bit.

A table lists one `Key` for every parameter. Layers that Flax stacks on a leading axis are separate tensors in
checkpoints: their names hold "{}" where the layer's number stands.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from knotjax.errors import InputError
from knotjax.weights import flatten, unflatten

LINEAR = (1, 0)  # [out, in] -> [in, out]
CONV1D = (2, 1, 0)  # [out, in, k] -> [k, in, out]
CONV2D = (2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]
LISTED = 20  # names of one kind that an error lists


@dataclasses.dataclass(frozen=True)
class Key:
    """One parameter under both of its names."""

    ours: str  # "blocks/q/kernel"
    theirs: str  # "blocks.{}.attn.q.weight"
    axes: tuple[int, ...] | None = None  # their axes in our order; None: the same order


def import_weights(table: Iterable[Key], shapes: Mapping, tensors: Mapping[str, np.ndarray], what: str) -> dict:
    """Checkpoint tensors to a parameter tree of the same kinds (float32, bfloat16, ...).

    Args:
      table: a key for every parameter.
      shapes: the parameter tree's shapes, from `jax.eval_shape`.
      tensors: the checkpoint.
      what: what it is, for the error.

    Raises:
      InputError: tensors are missing, unknown or of another shape; all of them are named.
    """
    wanted = {_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    places = {}  # their name -> (key, its layer)
    expected = {}  # their name -> the shape that it must have
    for key in table:
        shape = wanted[key.ours]
        stacked = "{}" in key.theirs
        order = np.argsort(key.axes) if key.axes else range(len(shape) - stacked)
        single = tuple(shape[stacked:][axis] for axis in order)
        for layer in range(shape[0]) if stacked else (None,):
            name = key.theirs.format(layer)
            places[name], expected[name] = (key, layer), single
    check_tensors(expected, {name: np.shape(tensor) for name, tensor in tensors.items()}, what)
    flat = {}
    for name, (key, layer) in places.items():
        tensor = np.asarray(tensors[name])
        tensor = tensor.transpose(key.axes) if key.axes else tensor
        if layer is None:
            flat[key.ours] = np.array(tensor)
            continue
        if layer == 0:
            flat[key.ours] = np.empty(wanted[key.ours], tensor.dtype)
        elif flat[key.ours].dtype != tensor.dtype:
            kinds = f"{name} is {tensor.dtype}, layer 0 {flat[key.ours].dtype}"
            raise InputError(f"{what} mixes kinds of numbers ({kinds}): convert it to one")
        flat[key.ours][layer] = tensor
    return unflatten(flat)


def export_weights(table: Iterable[Key], params: Mapping) -> dict[str, np.ndarray]:
    """The checkpoint tensors that `import_weights` turned into `params`."""
    flat = flatten(params)
    tensors = {}
    for key in table:
        whole = flat[key.ours]
        parts = enumerate(whole) if "{}" in key.theirs else [(None, whole)]
        for layer, part in parts:
            part = part.transpose(np.argsort(key.axes)) if key.axes else part
            tensors[key.theirs.format(layer)] = np.ascontiguousarray(part)
    return tensors


def check_tensors(expected: Mapping[str, tuple], found: Mapping[str, tuple], what: str) -> None:
    """Refuses a checkpoint whose names or shapes are not exactly the expected ones.

    Args:
      expected, found: shapes under their names.
      what: what the checkpoint is, for the error.

    Raises:
      InputError: one line that names every tensor that is missing, unknown or of another shape (20 of each kind).
    """
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    faults = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of the wrong shape": wrong,
    }
    told = [f"{kind}: {_list(names)}" for kind, names in faults.items() if names]
    if told:
        raise InputError(f"{what} does not fit ({'; '.join(told)}): give the checkpoint that belongs to this size")


def strip_prefix(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors with `prefix` taken off the names that have it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _list(names: list[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(sorted(names)[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _name(path) -> str:
    return "/".join(part.key for part in path)
