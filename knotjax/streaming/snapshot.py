"""Saving a running stream, and going on with it in another process, bit for bit."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from knotjax.errors import InputError
from knotjax.files import commit

FORMAT = "knotjax stream 1"


def _named(tree) -> dict[str, jax.Array]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save_snapshot(path: str | Path, tree, about: dict | None = None) -> None:
    """Write any pytree of arrays (a `StreamState`, or one together with a codec's state) as safetensors.

    Args:
      path: the file, replaced as a whole.
      about: whatever identifies the stream, such as its plan; `load_snapshot` compares it.
    """
    arrays = {name: np.asarray(jax.random.key_data(a) if _is_key(a) else a) for name, a in _named(tree).items()}
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(arrays, {"format": FORMAT, "about": json.dumps(about or {}, sort_keys=True)}))
    commit(part, path)


def load_snapshot(path: str | Path, like, about: dict | None = None):
    """Read what `save_snapshot` wrote.

    Args:
      like: a pytree of the same structure, shapes and dtypes, such as a fresh state or `jax.eval_shape` of one.

    Raises:
      InputError: the file cannot be read, or belongs to another stream.
    """
    try:
        data = Path(path).read_bytes()
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a saved stream ({error}); start a new one") from error
    if header.get("format") != FORMAT or header.get("about") != json.dumps(about or {}, sort_keys=True):
        raise InputError(f"{path}: saved by another stream or another version; start a new one")
    wanted = _named(like)
    if arrays.keys() != wanted.keys():
        raise InputError(f"{path}: saved by another stream; start a new one")

    def restore(way, leaf):
        name = jax.tree_util.keystr(way)
        array = jnp.asarray(arrays[name])
        array = jax.random.wrap_key_data(array) if _is_key(leaf) else array
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise InputError(f"{path}: {name} is {array.dtype}{list(array.shape)}, not {leaf.dtype}{list(leaf.shape)}")
        return array

    return jax.tree_util.tree_map_with_path(restore, like)
