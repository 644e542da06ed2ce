"""How arrays are spread over devices: one mesh, and one table from parameter names to mesh axes.

The axes: `data` and `fsdp` split the batch, `fsdp` also every matrix (it is gathered where it is used), `tensor` splits
heads and hidden channels, `sequence` the tokens of the frames that are computed. Caches are never split by time or by
token. Programs say little of it: with no mesh set (`jax.set_mesh`), every function here leaves arrays as they are.
"""

import math
import re

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from knotjax.errors import InputError

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH = ("data", "fsdp")

# The first pattern found in an array's path says how it is split; optimiser states and averages carry the path of their
# parameter at their end. Stacked layers come first in `blocks`.
RULES = (
    (r"blocks/.*\b(q|k|v|kv|text_q|text_k|text_v|image_k|image_v|ffn_in)/kernel$", P(None, "fsdp", "tensor")),
    (r"blocks/.*\b(o|text_o|ffn_out)/kernel$", P(None, "tensor", "fsdp")),
    (r"blocks/.*\b(q|k|v|kv|text_q|text_k|text_v|image_k|image_v|ffn_in)/bias$", P(None, "tensor")),
    (r"blocks/.*\b(norm_q|norm_k|text_norm_q|text_norm_k|image_norm_k)/weight$", P(None, "tensor")),
    (r"\b(time_in|text_in)/(kernel)$", P("fsdp", "tensor")),
    (r"\b(time_out|text_out|time_projection)/kernel$", P("tensor", "fsdp")),
    (r"\bpatch_embedding/kernel$", P(None, "fsdp")),
    (r"\bhead/kernel$", P("fsdp", None)),
    (r"_tokens/(input|first|later|middle|output|pack)/kernel$", P("fsdp", "tensor")),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, sequence: int = 1, devices=None) -> Mesh:
    """A mesh over `devices` (all of every process, unless told); one size may be -1: whatever is left.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor, sequence]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        told = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes))
        raise InputError(f"mesh {told} does not fit {len(devices)} devices: their product must be that number")
    # On a pod no axis has to be one of the network's own (v6e: 16 x 16, v5p: 4 x 4 x 4), as `jax.make_mesh` asks for.
    ordered = mesh_utils.create_device_mesh(sizes, list(devices), allow_split_physical_axes=True)
    return Mesh(ordered, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _fitting(spec: P, shape: tuple[int, ...], sizes: dict[str, int]) -> P:
    """`spec` without the axes that do not divide their dimension."""
    if len(spec) > len(shape):
        return P()

    def fits(axes, length: int) -> bool:
        names = axes if isinstance(axes, tuple) else (axes,)
        return axes is not None and length % math.prod(sizes[name] for name in names) == 0

    return P(*(axes if fits(axes, length) else None for axes, length in zip(spec, shape)))


def spec_of(path: str, shape: tuple[int, ...], sizes: dict[str, int]) -> P:
    """How the array of a path "a/b/c" is split over a mesh with these axis sizes; what no rule names is copied.

    An axis that does not divide its dimension is left out.
    """
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return _fitting(spec, shape, sizes)
    return P()


def _mesh():
    """The mesh that is set, when it is one of ours."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.axis_names == AXES else None


def constrain(tree):
    """Split parameters, their optimiser state and averages by the table (inside jit, under `jax.set_mesh`)."""
    mesh = _mesh()
    if mesh is None:
        return tree

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.lax.with_sharding_constraint(leaf, spec_of(name, leaf.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(one, tree)


def place(tree):
    """Arrays that every process holds alike, spread over the mesh that is set; those that are spread already stay."""
    if _mesh() is None:
        return tree
    devices = set(jax.sharding.get_mesh().devices.flat)

    def one(leaf):
        spread = isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices
        return leaf if spread else np.asarray(leaf)

    return jax.jit(constrain)(jax.tree.map(one, tree))


def _constrain(array, spec: P):
    mesh = _mesh()
    if mesh is None:
        return array
    return jax.lax.with_sharding_constraint(array, _fitting(spec, array.shape, mesh.shape))


def split_tokens(x):
    """Tokens of the frames that are computed, [B, F, S, C]: by batch and sequence."""
    return _constrain(x, P(BATCH, None, "sequence", None))


def join_tokens(kv):
    """Keys or values [B, F, N, S, D]: by batch and heads, whole along the sequence."""
    return _constrain(kv, P(BATCH, None, "tensor", None, None))


def split_caches(kv):
    """Cached keys or values [L, P, B, F, N, S, D]: by batch and heads, never by frame or token."""
    return _constrain(kv, P(None, None, BATCH, None, "tensor", None, None))


def split_batch(tree):
    """Arrays [B, ...]: by batch."""
    return jax.tree.map(lambda array: _constrain(array, P(BATCH)), tree)


def parts(length: int, *axes: str) -> int:
    """In how many parts these axes of the mesh that is set split a dimension of this length; 1 without a mesh."""
    mesh = _mesh()
    count = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in axes)
    return count if length % count == 0 else 1


def data_shard(mesh: Mesh) -> tuple[int, int]:
    """Which part of every batch this process loads, as (index, count); processes that share rows get the same index."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    owners = mesh.devices.reshape(rows, -1)
    held = {}  # process -> rows of the batch it holds
    for row in range(rows):
        for device in owners[row]:
            held.setdefault(device.process_index, set()).add(row)
    parts = sorted({tuple(sorted(part)) for part in held.values()})
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def global_batch(mesh: Mesh, batch):
    """A batch over all processes from the rows [b, ...] that each has loaded, see `data_shard`.

    Raises:
      InputError: the rows do not divide over the mesh's data and fsdp axes.
    """
    count, shards = data_shard(mesh)[1], mesh.shape["data"] * mesh.shape["fsdp"]
    sharding = NamedSharding(mesh, P(BATCH))

    def one(array):
        array = np.asarray(array)
        rows = len(array) * count
        if rows % shards:
            raise InputError(f"batch {rows} does not divide over data x fsdp = {shards} devices: change one of them")
        return jax.make_array_from_process_local_data(sharding, array, (rows, *array.shape[1:]))

    return jax.tree.map(one, batch)


def gather(tree):
    """The whole of every array, in every process, as numpy."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
