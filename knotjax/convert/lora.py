"""What fine-tunings ship instead of a whole model: low-rank updates and further tensors, laid over a base."""

import re
from collections.abc import Mapping

import numpy as np

from knotjax.convert.keymap import kind, sizes
from knotjax.errors import InputError

ALPHA = 64.0  # OmniAvatar's and AvatarForcing's; an update counts ALPHA / rank
_PART = re.compile(r"(?:base_model\.model\.)?(.*)\.lora_([AB])(?:\.default)?\.weight")


class Adapted(Mapping):
    """The tensors of a base model with an adapter's laid over them, each computed when it is asked for.

    "X.lora_A.weight" [rank, in] and "X.lora_B.weight" [out, rank] (with ".default" inside or without) add
    alpha / rank * B A to "X.weight"; any other tensor of the adapter takes the place of the base's, or is added.

    Raises:
      InputError: half of an update is missing, or it does not fit its matrix.
    """

    def __init__(self, base: Mapping[str, np.ndarray], adapter: Mapping[str, np.ndarray], alpha: float = ALPHA):
        self._base, self._adapter, self._alpha = base, adapter, alpha
        self._updates: dict[str, dict[str, str]] = {}
        self._replaced = set()
        for name in adapter:
            found = _PART.fullmatch(name)
            if found:
                self._updates.setdefault(found[1] + ".weight", {})[found[2]] = name
            else:
                self._replaced.add(name)
        found, held = sizes(adapter), sizes(base)
        self.shapes = held | {name: found[name] for name in self._replaced}
        for name, parts in self._updates.items():
            shape = self.shapes.get(name)
            if len(parts) < 2:
                raise InputError(f"adapter: half of the update of {name} is missing: download it again")
            down, up = found[parts["A"]], found[parts["B"]]
            if shape is None or (up[0], down[1]) != shape or up[1] != down[0]:
                raise InputError(f"adapter: the update of {name} does not fit the base: give the base that it is for")

    def kind(self, name: str) -> np.dtype:
        return kind(self._adapter if name in self._replaced else self._base, name)

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._adapter[name] if name in self._replaced else self._base[name]
        parts = self._updates.get(name)
        if parts is None:
            return tensor
        down, up = (np.asarray(self._adapter[parts[part]], np.float32) for part in "AB")
        update = (self._alpha / len(down)) * (up @ down)
        return (np.asarray(tensor, np.float32) + update).astype(tensor.dtype)

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
