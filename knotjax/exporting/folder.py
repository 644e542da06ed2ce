"""The exported folder: programs as serialised StableHLO, weights as safetensors, a manifest and a loader.

`manifest.json` is that of the weights: it pins every byte of them, and its `config` describes the export and pins every
byte of the programs.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.export
import numpy as np
from tqdm import tqdm

from knotjax import drive, exported
from knotjax.bundle import Bundle
from knotjax.exporting.programs import Program, programs, rows_heard
from knotjax.files import commit
from knotjax.models import speech
from knotjax.streaming.plan import StreamPlan
from knotjax.weights import flatten, save_weights

PLATFORMS = ("cpu", "cuda", "tpu")
KERNELS = {"xla": PLATFORMS, "splash": ("tpu",)}  # of `models.attention`, and where they run; cuDNN's takes no float32
STABLE = (jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint"),)  # `kernels.in_place`; jax's list lacks it
LOADER = "exported.py"


def write(
    model: Bundle,
    plan: StreamPlan,
    folder: str | Path,
    *,
    method: str = "",
    batch: int = 1,
    platforms: Sequence[str] = PLATFORMS,
    kernel: str = "xla",
    progress: bool = False,
) -> dict:
    """Export a model under a plan into a folder, for `knotjax.exported.load`; returns what the manifest says.

    The manifest is replaced last, so a folder that held an export holds either that or this one, whenever the process
    dies.

    Args:
      method: name of the plan.
      batch: streams that run side by side.
      platforms: of `PLATFORMS`; one program serves all of them.
      kernel: of the DiT's attention, a name in `KERNELS` that runs on all of `platforms`.

    Raises:
      OSError: the disk refused.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made, table = {}, programs(model, plan, batch, kernel)
    for name, program in tqdm(table.items(), unit="program", leave=False, disable=not progress):
        data, facts = _serialised(program, platforms)
        file = f"{name}-{facts['sha256'][:12]}.stablehlo"
        _store(folder / file, data)
        made[name] = {"file": file} | facts
    signature = {
        "artefact": exported.ARTEFACT,
        "knotjax": _version(),
        "jax": jax.__version__,
        "platforms": list(platforms),
        "kernel": kernel,
        "method": method,
        "plan": dataclasses.asdict(plan) | {"missing": plan.missing, "passes": plan.passes, "span": plan.span},
        "batch": batch,
        "size": model.codec.size,
        "fps": drive.FPS,
        "stride": drive.STRIDE,
        "sample_rate": drive.SAMPLE_RATE,
        "sound": {
            "frame": speech.FRAME,
            "margin": speech.MARGIN,
            "context": speech.CONTEXT,
            "rows": rows_heard(plan),
            "look_ahead_seconds": look_ahead(plan),
        },
        "motion": {"channels": list(drive.CHANNELS), "groups": list(drive.GROUPS)},
        "words": list(drive.WORDS),
        "slots": [list(drive.EMOTIONS), list(drive.ACTIONS)],
        "programs": made,
    }
    _store(folder / LOADER, Path(exported.__file__).read_bytes())
    weights = {name: _compact(array) for name, array in flatten(model.params).items()}
    save_weights(folder, weights, signature, "weights")
    current = {facts["file"] for facts in made.values()}
    for old in folder.iterdir():  # of an earlier export
        if old.name not in current and re.fullmatch(r"[a-z_]+-[0-9a-f]{12}\.stablehlo(\.part)?", old.name):
            old.unlink()
    return signature


def look_ahead(plan: StreamPlan) -> float:
    """Seconds of sound that a block needs from its first frame on."""
    frames = drive.STRIDE * plan.span + speech.CONTEXT
    return round(frames / drive.FPS + speech.MARGIN / drive.SAMPLE_RATE, 6)


def _serialised(program: Program, platforms: Sequence[str]) -> tuple[bytes, dict]:
    """A program's bytes, and what the manifest says about it."""
    arguments = tuple(program.inputs)
    donated = tuple(arguments.index(name) for name in program.donated)
    run = jax.jit(program.function, donate_argnums=donated)
    with _base_names():
        made = jax.export.export(run, platforms=platforms, disabled_checks=STABLE)(*program.inputs.values())
    results = jax.tree.unflatten(made.out_tree, made.out_avals)
    data = bytes(made.serialize())
    return data, {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "arguments": list(arguments),
        "results": list(program.outputs),
        "donated": list(program.donated),
        "inputs": _rows(arguments, program.inputs.values()),
        "outputs": _rows(program.outputs, results if len(program.outputs) > 1 else (results,)),
    }


@contextlib.contextmanager
def _base_names():
    """Inside, programs name their source files without folders: they tell nothing of the machine they are made on."""
    before = jax.config.jax_hlo_source_file_canonicalization_regex
    jax.config.update("jax_hlo_source_file_canonicalization_regex", r".*[/\\]")
    try:
        yield
    finally:
        jax.config.update("jax_hlo_source_file_canonicalization_regex", before)


def _rows(names: Sequence[str], trees) -> list[dict]:
    """Name, shape and kind of every array, in the order in which a program takes or gives them."""
    return [
        {
            "name": "/".join((names[path[0].idx], *(key.key for key in path[1:]))),
            "shape": list(leaf.shape),
            "dtype": leaf.dtype.name,
        }
        for path, leaf in jax.tree_util.tree_leaves_with_path(tuple(trees))
    ]


def _compact(array: np.ndarray) -> np.ndarray:
    """In half precision where that changes no number."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half, array) else array


def _store(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        commit(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _version() -> str:
    try:
        return importlib.metadata.version("knotjax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"
