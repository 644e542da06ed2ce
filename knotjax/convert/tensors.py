"""Checkpoint files, read and written tensor by tensor: what a file is, is found from its first bytes."""

import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from knotjax.convert.keymap import Renamed, sizes
from knotjax.errors import InputError
from knotjax.files import commit
from knotjax.weights import STORED

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
CODES = {kind: code for code, kind in STORED.items()}
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
STATES = ("generator_ema", "generator", "state_dict", "model")  # of a training checkpoint, the best one first


class SafeTensors(Mapping):
    """The tensors of one safetensors file. Each is mapped into memory when it is asked for, and only as long as it is
    used, so that a large file is never in memory as a whole."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as handle:
                length = int.from_bytes(handle.read(8), "little")
                if not 2 <= length <= MAX_HEADER:
                    raise ValueError("its header has no sensible length")
                header = json.loads(handle.read(length))
            self.metadata = header.pop("__metadata__", {})
            room = os.path.getsize(path) - 8 - length
            self._where = {name: self._checked(name, facts, 8 + length, room) for name, facts in header.items()}
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path} is damaged or no safetensors file ({error}): download it again") from None
        self.shapes = {name: shape for name, (_, shape, _) in self._where.items()}

    @staticmethod
    def _checked(name: str, facts: dict, start: int, room: int):
        """Kind, shape and place of a tensor, all of it inside the file."""
        kind, shape, (begin, end) = facts["dtype"], tuple(facts["shape"]), facts["data_offsets"]
        if kind not in STORED:
            raise ValueError(f"tensor {name} has the unknown kind {kind}")
        if not all(type(side) is int and side >= 0 for side in (*shape, begin, end)) or end > room:
            raise ValueError(f"tensor {name} reaches beyond the end: the file is cut")
        if end - begin != math.prod(shape) * STORED[kind].itemsize:
            raise ValueError(f"tensor {name} has another size than its shape says")
        return STORED[kind], shape, start + begin

    def kind(self, name: str) -> np.dtype:
        return self._where[name][0]

    def __getitem__(self, name: str) -> np.ndarray:
        kind, shape, start = self._where[name]
        if not math.prod(shape):
            return np.empty(shape, kind)
        return np.memmap(self.path, kind, "r", start, shape or (1,)).reshape(shape).view(np.ndarray)

    def __iter__(self):
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


class Joined(Mapping):
    """Several groups of tensors as one; of a name that stands twice, the later group counts."""

    def __init__(self, groups: Iterable[Mapping[str, np.ndarray]]):
        self._from = {name: group for group in groups for name in group}
        self.shapes = {name: sizes(group)[name] for name, group in self._from.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._from[name][name]

    def __iter__(self):
        return iter(self._from)

    def __len__(self) -> int:
        return len(self._from)


def open_tensors(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
    """The tensors of a checkpoint: a safetensors file, a folder of them, or a file of torch (`.pt`, `.pth`).

    Of a training checkpoint the averaged generator is taken when there is one. Prefixes that wrappers put before the
    names are taken off.

    Raises:
      InputError: nothing is there, it is damaged, or it is a torch file and torch is not installed.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise InputError(f"{path} holds no .safetensors file: give the folder or file of a checkpoint")
        tensors = Joined([SafeTensors(file) for file in files]) if len(files) > 1 else SafeTensors(files[0])
    elif _of_torch(path):
        tensors = _torch(path)
    else:
        tensors = SafeTensors(path)
    return tensors if metadata(tensors) else Renamed(tensors, _unwrapped)


def metadata(tensors: Mapping[str, np.ndarray]) -> dict:
    """What knotjax wrote about a file of its own, else nothing.

    Raises:
      InputError: it cannot be read.
    """
    text = getattr(tensors, "metadata", {}).get("knotjax")
    try:
        return json.loads(text) if text else {}
    except ValueError:
        raise InputError(f"{tensors.path} is damaged (its description cannot be read): convert it again") from None


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    for prefix in ("module.", "model.diffusion_model.", "diffusion_model.", "model."):
        name = name.removeprefix(prefix)
    return name


def _of_torch(path: Path) -> bool:
    try:
        with open(path, "rb") as handle:
            start = handle.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from None
    return start[:2] == b"\x80\x02" or start == b"PK\x03\x04"  # a bare pickle, or a zip file of torch's


def _torch(path: Path) -> Mapping[str, np.ndarray]:
    """A torch file, through torch's loader that runs no code of the file."""
    try:
        import torch
    except ImportError:
        raise InputError(f"{path} is a torch file: install torch (pip install 'knotjax[convert]') to read it") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path} cannot be loaded as weights alone ({reason}): convert it to safetensors") from None
    for name in STATES:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise InputError(f"{path} holds more than tensors under names: give the file of a model's weights")
    return _TorchTensors(state)


class _TorchTensors(Mapping):
    """Tensors of torch as numpy arrays, without a copy."""

    def __init__(self, state: Mapping):
        self._state = state
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        import torch

        tensor = self._state[name].detach()
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    def __iter__(self):
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def write_tensors(
    path: Path,
    facts: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    tensors: Iterable[tuple[str, np.ndarray]],
    description: dict | None = None,
) -> None:
    """Write a safetensors file tensor by tensor; the file appears under its name when it is whole.

    Args:
      facts: kind and shape of every tensor, in the order in which they come.
      tensors: name and array.
      description: of knotjax's own files, see `metadata`.

    Raises:
      InputError: the disk refused.
      ValueError: `tensors` are not what `facts` says.
    """
    header, at = {}, 0
    for name, (kind, shape) in facts.items():
        size = math.prod(shape) * np.dtype(kind).itemsize
        header[name] = {"dtype": CODES[np.dtype(kind)], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    if description:
        header["__metadata__"] = {"knotjax": json.dumps(description)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as handle:
            handle.write(len(text).to_bytes(8, "little") + text)
            left = iter(facts.items())
            for name, tensor in tensors:
                if next(left, None) != (name, (tensor.dtype, tensor.shape)):
                    raise ValueError(f"tensor {name} {tensor.dtype} {tensor.shape} is not the one announced")
                handle.write(memoryview(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)))
            if next(left, None):
                raise ValueError("tensors are missing at the end")
        commit(part, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another place") from None
    finally:
        part.unlink(missing_ok=True)
