"""What a run tells: JSON lines always, TensorBoard event files when tensorboardX is installed, pictures as PNG.

The writer has the methods of `clu.metric_writers`, whose own module needs TensorFlow.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from knotjax.files import commit

# Dense bf16 operations per second of one device, from the vendors' data sheets; `device_kind` -> peak.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops() -> float:
    """Peak of one of the devices in use, or 0 when it is not in the table."""
    return PEAKS.get(jax.devices()[0].device_kind, 0.0)


class Writer:
    """Scalars and pictures of one stage of a run, in `folder`; only the first process writes.

    Args:
      name: of the stage: `<name>.jsonl`, `<name>_strips/<step>.png`, and the folder `<name>_events` for TensorBoard.
    """

    def __init__(self, folder: Path, name: str):
        self._folder, self._name, self._events = folder, name, None
        self._rows = None
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self._rows = (folder / f"{name}.jsonl").open("a")
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                return
            self._events = SummaryWriter(str(folder / f"{name}_events"))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line of numbers."""
        if self._rows:
            print(json.dumps({"step": step, **scalars}), file=self._rows, flush=True)
        if self._events:
            for key, value in scalars.items():
                self._events.add_scalar(key, value, step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Pictures, uint8 [N, H, W, 3] each, one below the other."""
        if not self._rows:
            return
        for key, pictures in images.items():
            folder = self._folder / f"{self._name}_{key}"
            folder.mkdir(exist_ok=True)
            sheet = np.concatenate(list(pictures))
            part = folder / f"{step:06d}.part"
            Image.fromarray(sheet).save(part, "PNG")
            commit(part, folder / f"{step:06d}.png")
            if self._events:
                self._events.add_image(key, sheet, step, dataformats="HWC")

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._rows:
            self._rows.flush()
        if self._events:
            self._events.flush()

    def close(self) -> None:
        """End; nothing may be written afterwards."""
        if self._rows:
            self._rows.close()
        if self._events:
            self._events.close()


class Meter:
    """Means of the scalars of some steps (each over the steps that gave it), with their pace.

    Args:
      tokens: latent tokens of a step, 0 when not known.
      flops: operations of a step over all devices, 0 when not known; see `knotjax.flops`.
      peak: operations per second of all devices.
    """

    def __init__(self, tokens: int = 0, flops: int = 0, peak: float = 0.0):
        self.tokens, self.flops, self.peak = tokens, flops, peak
        self._sums, self._timed, self._mark = {}, 0, None

    def add(self, scalars: Mapping[str, jax.Array]) -> None:
        """Count one step. The first of a run is waited for and left out of the pace: it compiles."""
        for key, value in scalars.items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = total + value, count + 1
        self._timed += 1
        if self._mark is None:
            jax.block_until_ready(scalars)
            self._mark, self._timed = time.monotonic(), 0

    def take(self) -> dict[str, float]:
        """Means of the steps since the last call; `seconds` is that of one step (absent: only the first was made)."""
        row = {key: float(f"{float(total) / count:.9g}") for key, (total, count) in self._sums.items()}
        if self._timed:
            pace = (time.monotonic() - self._mark) / self._timed
            row = {"seconds": round(pace, 4)} | row
            if self.tokens:
                row["tokens_per_second"] = round(self.tokens / pace, 1)
            if self.flops and self.peak:
                row["utilisation"] = round(self.flops / pace / self.peak, 4)
        self._sums, self._timed, self._mark = {}, 0, time.monotonic()
        return row

    @contextlib.contextmanager
    def pause(self):
        """What happens inside (a save, an export) does not count as time of a step."""
        began = time.monotonic()
        yield
        if self._mark is not None:
            self._mark += time.monotonic() - began


def bar(name: str, first: int, steps: int) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(initial=first, total=steps, desc=name, unit="step", disable=None)
