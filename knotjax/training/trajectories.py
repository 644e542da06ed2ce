"""Teacher trajectories on disk ("ODE backfill"): array_record files whose records are safetensors."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from safetensors.numpy import load, save


def write(path: Path, samples: Iterable[Mapping[str, np.ndarray]]) -> int:
    """Write samples, one record each; the file appears when all are written. Returns how many there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, count = path.with_suffix(".part"), 0
    writer = ArrayRecordWriter(str(part), "group_size:1")
    for sample in samples:
        writer.write(save({name: np.ascontiguousarray(array) for name, array in sample.items()}))
        count += 1
    writer.close()
    part.rename(path)
    return count


def batches(paths: list[Path], batch: int, seed: int, shard: tuple[int, int] = (0, 1)):
    """A practically endless, resumable grain iterator over shuffled batches; `shard` as in `corpus.batches`."""
    source = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
    epochs = 10**9 // len(source)  # grain cannot slice an endless dataset of batches of one
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs).map(load)
    return iter(
        dataset.batch(batch)[shard[0] :: shard[1]].to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        )
    )
