"""Samples as array_record files: every record is a dict of arrays in safetensors' bytes.

Reading is by index and in any order, which is what grain needs to shuffle, to share out and to resume.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import grain
import numpy as np
import safetensors
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordWriter

from knotjax.errors import InputError
from knotjax.files import commit

INDEX = "records.json"


def write(folder: Path | str, samples: Iterable[Mapping[str, np.ndarray]], per_file: int = 256, made_by="") -> int:
    """Write samples to `<folder>/00000.array_record` and so on, then `records.json`; returns how many.

    A folder without `records.json` was not finished, and is not read. `made_by` is kept in it for the reader.

    Raises:
      InputError: the folder holds records already.
    """
    folder = Path(folder)
    if (folder / INDEX).exists():
        raise InputError(f"records {str(folder)!r} exist: choose another folder or remove them")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.array_record"):  # of an unfinished attempt
        old.unlink()
    counts, writer = {}, None
    for number, sample in enumerate(samples):
        if number % per_file == 0:
            if writer:
                writer.close()
            name = f"{number // per_file:05d}.array_record"
            counts[name], writer = 0, ArrayRecordWriter(str(folder / name), "group_size:1")
        writer.write(safetensors.numpy.save({key: np.asarray(array, order="C") for key, array in sample.items()}))
        counts[name] += 1
    if writer:
        writer.close()
    part = folder / f"{INDEX}.part"
    part.write_text(json.dumps({"made_by": made_by, "files": counts}, indent=1))
    commit(part, folder / INDEX)
    return sum(counts.values())


class Records:
    """What `write` wrote, as a random-access source of dicts of arrays; grain reads it. `made_by` is as it was told.

    Raises:
      InputError: the folder is not whole.
    """

    def __init__(self, folder: Path | str):
        self._name, folder = str(folder), Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text())
            self.made_by, counts = index["made_by"], index["files"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"records {self._name!r} have no readable {INDEX}: write them again") from None
        paths = [str(folder / name) for name in counts]
        for path in paths:
            if not Path(path).is_file():
                raise InputError(f"records {self._name!r} lack {Path(path).name}: write them again")
        self._source = grain.sources.ArrayRecordDataSource(paths)
        if len(self._source) != sum(counts.values()):
            raise InputError(
                f"records {self._name!r} hold {len(self._source)}, not {sum(counts.values())}: write again"
            )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        try:
            return safetensors.numpy.load(self._source[number])
        except (safetensors.SafetensorError, RuntimeError, IndexError):
            raise InputError(f"record {number} of {self._name!r} is damaged: write them again") from None

    def __repr__(self) -> str:  # grain keeps it beside the place of an iterator
        return f"Records({self._name!r})"
