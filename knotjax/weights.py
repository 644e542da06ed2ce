"""Model weights on disk: one safetensors file beside a `manifest.json` that pins every byte and shape.

The manifest guards against damage and mix-ups, not against a forger: whoever can write the folder can write a new one.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from knotjax.errors import InputError
from knotjax.files import commit
from knotjax.manifest import seal, unseal

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
CURE = "check the path, or download or install the weights again"

STORED = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_}
STORED |= {
    f"{kind[0].upper()}{bits}": getattr(np, f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
STORED = {code: np.dtype(kind) for code, kind in STORED.items()}


def flatten(tree: Mapping) -> dict[str, np.ndarray]:
    """Nested mapping of arrays to one mapping of "a/b/c" names, as numpy arrays; empty branches are dropped.

    Raises:
      ValueError: a key is empty, is not a string, or holds a slash.
    """
    flat = {}
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"parameter name {key!r} must be a non-empty string without '/'")
        if isinstance(value, Mapping):
            flat.update({f"{key}/{name}": leaf for name, leaf in flatten(value).items()})
        else:
            flat[key] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict:
    """The nested dict that `flatten` was given.

    Raises:
      ValueError: a name is both a tensor and a branch.
    """
    tree = {}
    for name, leaf in flat.items():
        *branches, last = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r} lies below a tensor")
        if last in node:
            raise ValueError(f"{name!r} is both a tensor and a branch")
        node[last] = leaf
    return tree


def save_weights(folder: str | os.PathLike, tensors: Mapping[str, np.ndarray], config: dict, name: str) -> None:
    """Write `tensors` and `config` into `folder` as `<name>-<hash>.safetensors` and `manifest.json`.

    The manifest is replaced last and in one step, so a folder that held weights before holds either those or these,
    whenever the process dies. Kinds: float32, float16, bfloat16, integers, bool.

    Raises:
      ValueError: a tensor has another kind, `config` is not plain JSON (tuples become lists), or `name` holds more than
        letters, digits, "_", "-" and ".".
      OSError: the disk refused.
    """
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise ValueError(f"weights name {name!r} must be letters, digits, '_', '-' and '.'")
    # asarray(order="C") and not ascontiguousarray, which turns a scalar into a vector
    arrays = {key: np.asarray(tensors[key], order="C") for key in sorted(tensors)}
    for key, array in arrays.items():
        if array.dtype not in STORED.values():
            raise ValueError(f"tensor {key!r} is {array.dtype}, which is not stored")
    data = safetensors.numpy.save(arrays)
    digest = hashlib.sha256(data).hexdigest()
    folder = Path(folder)
    path = folder / f"{name}-{digest[:12]}.safetensors"
    manifest = seal(
        {
            "format": FORMAT,
            "name": name,
            "files": {path.name: {"bytes": len(data), "sha256": digest}},
            "config": config,
            "tensors": {key: {"shape": list(array.shape), "dtype": array.dtype.name} for key, array in arrays.items()},
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, data)
    _write(folder / MANIFEST, manifest)
    for other in folder.iterdir():  # what the manifest before this one named, and what a killed save left
        if other != path and re.fullmatch(re.escape(name) + r"-[0-9a-f]{12}\.safetensors(\.part)?", other.name):
            other.unlink()


def load_weights(folder: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read what `save_weights` wrote, as (tensors, config), after checking every byte of it.

    Raises:
      InputError: anything is missing, cut short, altered, or not as the manifest says.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder / MANIFEST)
    tensors = {}
    for name, facts in manifest["files"].items():
        path = folder / name
        data = _read(path, facts["bytes"])
        if len(data) != facts["bytes"]:
            raise _bad(path, f"has {len(data)} bytes instead of {facts['bytes']}")
        if hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise _bad(path, "is damaged (its SHA-256 differs from the manifest)")
        try:
            stored = safetensors.deserialize(data)
        except safetensors.SafetensorError:
            raise _bad(path, "is not a safetensors file") from None
        for key, spec in stored:
            if spec["dtype"] not in STORED:
                raise _bad(path, f"holds tensor {key!r} of unknown kind {spec['dtype']}")
            tensors[key] = np.frombuffer(spec["data"], STORED[spec["dtype"]]).reshape(spec["shape"])
    _compare(folder / MANIFEST, manifest["tensors"], tensors)
    return tensors, manifest["config"]


def _compare(path: Path, wanted: dict, tensors: dict[str, np.ndarray]) -> None:
    """Refuse unless names, shapes and kinds are exactly those the manifest lists."""
    if wanted.keys() != tensors.keys():
        name = sorted(wanted.keys() ^ tensors.keys())[0]
        raise _bad(path, f"does not agree with the files about tensor {name!r}")
    for name, facts in wanted.items():
        found = {"shape": list(tensors[name].shape), "dtype": tensors[name].dtype.name}
        if facts != found:
            raise _bad(path, f"lists tensor {name!r} as {facts}, the file has {found}")


def _read_manifest(path: Path) -> dict:
    data = _read(path, MAX_MANIFEST_BYTES)
    if len(data) > MAX_MANIFEST_BYTES:
        raise _bad(path, f"is larger than {MAX_MANIFEST_BYTES} bytes")
    body = unseal(data)
    if body is None:
        raise _bad(path, "is damaged or was edited")
    if body.get("format") != FORMAT:
        raise InputError(f"weights {str(path)!r} have format {body.get('format')!r}, not {FORMAT}: update knotjax")
    if not _follows_schema(body):
        raise _bad(path, "does not describe weights")
    return body


def _follows_schema(body: dict) -> bool:
    """Whether every field is there, with the right type; file names must stay inside the folder."""
    if body.keys() != {"format", "name", "files", "config", "tensors"} or not isinstance(body["config"], dict):
        return False
    files, tensors = body["files"], body["tensors"]
    if not isinstance(files, dict) or not isinstance(tensors, dict) or not files:
        return False
    for name, facts in files.items():
        plain = re.fullmatch(r"\w[\w.-]*\.safetensors", name, re.ASCII)
        if not plain or not isinstance(facts, dict) or facts.keys() != {"bytes", "sha256"}:
            return False
        if type(facts["bytes"]) is not int or facts["bytes"] < 0 or not isinstance(facts["sha256"], str):
            return False
    return all(isinstance(facts, dict) and facts.keys() == {"shape", "dtype"} for facts in tensors.values())


def _read(path: Path, limit: int) -> bytes:
    """At most one byte beyond `limit`, which is enough to see that a file is too long."""
    try:
        with open(path, "rb") as handle:
            return handle.read(limit + 1)
    except OSError as error:
        raise _bad(path, f"cannot be read ({error.strerror})") from None


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        commit(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _bad(path: Path, reason: str) -> InputError:
    return InputError(f"weights {str(path)!r} {reason}: {CURE}")
