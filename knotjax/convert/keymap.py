"""Tables of parameter names, and moving weights along them in both directions without changing a bit.

A table lists one `Key` for every parameter. Layers that Flax stacks on a leading axis are separate tensors in
checkpoints: their names hold "{}" where the layer's number stands.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np

from knotjax.errors import InputError
from knotjax.weights import flatten, unflatten

LISTED = 20  # names of one kind that an error lists


def convolution(rank: int) -> tuple[int, ...]:
    """[out, in, *window] -> [*window, in, out]."""
    return (*range(2, rank), 1, 0)


LINEAR, CONV1D, CONV2D, CONV3D = (convolution(rank) for rank in (2, 3, 4, 5))


@dataclasses.dataclass(frozen=True)
class Key:
    """One parameter under both of its names."""

    ours: str  # "blocks/q/kernel"
    theirs: str  # "blocks.{}.attn.q.weight"
    axes: tuple[int, ...] | None = None  # their axes in our order; None: the same order
    unfolded: tuple[int, ...] | None = None  # their shape with axes in our order, if ours has other axes; one may be -1

    def expected(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Their shape of our (single layer's) `shape`."""
        return self.outward(np.broadcast_to(np.zeros((), np.int8), shape)).shape

    def outward(self, array: np.ndarray) -> np.ndarray:
        """Our (single layer's) array as theirs; a view where possible."""
        array = array if self.unfolded is None else array.reshape(self.unfolded)
        return array.transpose(np.argsort(self.axes)) if self.axes else array

    def inward(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Their array as ours, of `shape`; a view where possible."""
        return (array.transpose(self.axes) if self.axes else array).reshape(shape)


def paths(tree) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every leaf of a nested dict."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(part.key for part in path): tuple(leaf.shape) for path, leaf in leaves}


def places(table: Iterable[Key], shapes: Mapping) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Our path -> (their name, their shape) of every layer, in order."""
    wanted, found = paths(shapes), {}
    for key in table:
        shape = wanted[key.ours]
        stacked = "{}" in key.theirs
        theirs = key.expected(shape[1:] if stacked else shape)
        found[key.ours] = [(key.theirs.format(layer), theirs) for layer in range(shape[0] if stacked else 1)]
    return found


class Parameters(Mapping):
    """A checkpoint's tensors as our parameters, path -> array, each made when it is asked for.

    Only what is asked for is in memory: layers are stacked straight into the array that is given out, and what need not
    be stacked is a view of the checkpoint's tensor.

    Raises:
      InputError: tensors are missing, unknown or of another shape; all of them are named.
    """

    def __init__(self, table: Iterable[Key], shapes: Mapping, tensors: Mapping[str, np.ndarray], what: str, dtype=None):
        """Compares names and shapes; reads nothing yet.

        Args:
          table: a key for every parameter.
          shapes: the parameter tree's shapes, from `jax.eval_shape`.
          tensors: the checkpoint; it may read a tensor when it is asked for it.
          what: what it is, for the error.
          dtype: of the arrays; None: as in the checkpoint.
        """
        self.shapes, self._tensors, self._what, self._dtype = paths(shapes), tensors, what, dtype
        self._keys, self._places = {key.ours: key for key in table}, places(table, shapes)
        check_tensors({name: shape for rows in self._places.values() for name, shape in rows}, sizes(tensors), what)

    def kind(self, path: str) -> np.dtype:
        """Kind of number of a parameter."""
        return np.dtype(self._dtype or kind(self._tensors, self._places[path][0][0]))

    def __getitem__(self, path: str) -> np.ndarray:
        key, shape, names = self._keys[path], self.shapes[path], [name for name, _ in self._places[path]]
        if "{}" not in key.theirs:
            return np.asarray(key.inward(self._tensors[names[0]], shape), self._dtype)
        whole = np.empty(shape, self.kind(path))
        for layer, name in enumerate(names):
            tensor = self._tensors[name]
            if self._dtype is None and whole.dtype != tensor.dtype:
                kinds = f"{name} is {tensor.dtype}, layer 0 {whole.dtype}"
                raise InputError(f"{self._what} mixes kinds of numbers ({kinds}): convert it to one with --dtype")
            whole[layer] = key.inward(tensor, shape[1:])
        return whole

    def __iter__(self):
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def import_weights(
    table: Iterable[Key], shapes: Mapping, tensors: Mapping[str, np.ndarray], what: str, dtype=None
) -> dict:
    """Checkpoint tensors to a parameter tree of the same kinds (float32, bfloat16, ...); see `Parameters`.

    Raises:
      InputError: tensors are missing, unknown or of another shape (all of them are named), or the layers of one
        parameter are of several kinds.
    """
    found = Parameters(table, shapes, tensors, what, dtype)
    return unflatten({path: array if array.flags.owndata else np.array(array) for path, array in found.items()})


def export_tensors(table: Iterable[Key], flat: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Their tensors one by one, from our arrays under their paths: the reverse of `Parameters`.

    Raises:
      InputError: parameters are missing or unknown; they are named.
    """
    found = sizes(flat)
    check_tensors({key.ours: found.get(key.ours, ()) for key in table}, found, "the parameter tree")
    for key in table:
        whole = flat[key.ours]
        parts = enumerate(whole) if "{}" in key.theirs else [(None, whole)]
        for layer, part in parts:
            yield key.theirs.format(layer), np.ascontiguousarray(key.outward(part))


def export_weights(table: Iterable[Key], params: Mapping) -> dict[str, np.ndarray]:
    """The checkpoint tensors that `import_weights` turned into `params`.

    Raises:
      InputError: parameters are missing or unknown; they are named.
    """
    return dict(export_tensors(table, flatten(params)))


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


def sizes(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Name -> shape. What reads its tensors on demand has an attribute `shapes`, so that nothing is read here."""
    found = getattr(tensors, "shapes", None)
    return {name: np.shape(tensor) for name, tensor in tensors.items()} if found is None else found


def kind(tensors: Mapping[str, np.ndarray], name: str) -> np.dtype:
    """Kind of number of a tensor, without computing it where it is computed on demand."""
    known = getattr(tensors, "kind", None)
    return known(name) if known else tensors[name].dtype


class Renamed(Mapping):
    """Tensors under other names; those for which `rename` gives None are left out. Reads nothing before it is asked."""

    def __init__(self, tensors: Mapping[str, np.ndarray], rename: Callable[[str], str | None]):
        self._tensors = tensors
        self._names = {new: old for old in tensors if (new := rename(old)) is not None}
        found = sizes(tensors)
        self.shapes = {new: found[old] for new, old in self._names.items()}

    def kind(self, name: str) -> np.dtype:
        return kind(self._tensors, self._names[name])

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._names[name]]

    def __iter__(self):
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _list(names: list[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(sorted(names)[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
