"""Checkpoints that are whole or absent: Orbax files, and a manifest that pins every byte, shape and kind of them.

A step is one folder. Orbax writes it under another name, the manifest goes in last, and one rename makes it the step;
so a process may die at any moment. Orbax itself restores flipped bits and casts kinds without a word.
The folder must be on a file system that can rename (a local disk, NFS, Filestore), the same for all processes.
"""

import concurrent.futures
import hashlib
import logging
import re
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from knotjax import files
from knotjax.errors import InputError
from knotjax.manifest import seal, unseal

log = logging.getLogger("knotjax")

FORMAT = 1
MANIFEST = "manifest.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class DamagedError(InputError):
    """A file of a checkpoint is not what was written."""


def tree_spec(tree) -> dict[str, list]:
    """Path -> [shape, dtype] of every array in a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


class Checkpoints:
    """Context manager over the checkpoints of one run; leaving it waits for a save that is under way.

    Args:
      folder: holds one folder per saved step; all processes of a run give the same one.
      config: text of the run's configuration, of which the manifest keeps a digest.
      keep: how many finished steps stay on disk while the next is being saved.
    """

    def __init__(self, folder: Path, config: str = "", keep: int = 2):
        self.folder = Path(folder).absolute()
        self._config = hashlib.sha256(config.encode()).hexdigest()
        self._keep = keep
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir():
                if re.match(r"\d+\.(saving|old)", path.name):  # what a killed process left
                    shutil.rmtree(path)
        _together("checkpoints opened")
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._worker = concurrent.futures.ThreadPoolExecutor(1)
        self._last: concurrent.futures.Future | None = None  # the save under way

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self._worker.shutdown()
        self._orbax.close()
        if kind is None:
            self.check()

    def steps(self) -> list[int]:
        """Saved steps, oldest first."""
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def save(self, step: int, state: Any, data: grain.DatasetIterator | None = None) -> None:
        """Begin to save a tree of arrays and the place of a data iterator; waits for the save before this one.

        The arrays are copied before this returns, so that they may be donated.

        Raises:
          OSError or what else made this save, or the one before it, fail.
        """
        self.wait()
        body = {"format": FORMAT, "step": step, "config_sha256": self._config, "tree": tree_spec(state)}
        body["packages"] = {name: metadata.version(name) for name in PACKAGES}
        if jax.process_index() == 0:
            for old in self.steps()[: -self._keep]:
                gone = self.folder / f"{old}.old"
                (self.folder / str(old)).rename(gone)  # in one step: never half a checkpoint under a step's name
                shutil.rmtree(gone)
        part = self.folder / f"{step}.saving"
        items = {"state": ocp.args.StandardSave(state)}
        if data is not None:
            items["data"] = grain.checkpoint.CheckpointSave(data)
        self._orbax.save(part, args=ocp.args.Composite(**items))
        self._last = self._worker.submit(self._finish, part, body)

    def _finish(self, part: Path, body: dict) -> None:
        """Give the files that all processes have written their manifest and their name."""
        self._orbax.wait_until_finished()
        if jax.process_index() == 0:
            names = _listing(part)
            sums = zip(names, _sums(part, names))
            facts = {name: {"bytes": (part / name).stat().st_size, "sha256": digest} for name, digest in sums}
            manifest = part / f"{MANIFEST}.part"
            manifest.write_bytes(seal({**body, "files": facts}))
            files.commit(manifest, part / MANIFEST)
            part.rename(self.folder / part.stem)
            files.flush(self.folder)

    def check(self) -> None:
        """Raise the error of a save in the background, if it has failed."""
        if self._last and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save is on disk; raises its error."""
        last, self._last = self._last, None
        if last:
            last.result()

    def restore(self, like: Any, data: grain.DatasetIterator | None = None, fallback: bool = False) -> Any | None:
        """The newest state, or None when nothing was saved; `data` is moved to its place.

        Args:
          like: a tree of arrays with the paths, shapes, kinds and shardings that the state must have.
          fallback: when the newest checkpoint is damaged, set it aside as `<step>.damaged` and take the one before it.

        Raises:
          InputError: a file was altered, cut short, removed or added; or the state is of another shape.
        """
        steps = self.steps()
        for step, earlier in zip(steps[::-1], [*steps[-2::-1], None]):
            try:
                body = self._verified(step)
            except DamagedError as error:
                if not fallback:
                    cure = (
                        f"--fallback goes on from step {earlier}" if earlier is not None else "no earlier step is left"
                    )
                    raise DamagedError(f"{error}: {cure}") from None
                log.warning("%s; going back", error)
                self._set_aside(step)
                continue
            return self._read(step, body, like, data)
        if steps:
            raise DamagedError(f"{str(self.folder)!r}: no checkpoint is whole; use another folder or begin again")
        return None

    def _read(self, step: int, body: dict, like: Any, data: grain.DatasetIterator | None) -> Any:
        path = self.folder / str(step)
        _compare(path, body["tree"], tree_spec(like))
        if body["config_sha256"] != self._config:
            log.info("checkpoint %s was saved with another configuration", step)
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(leaf)), like)
        items = {"state": ocp.args.StandardRestore(target)}
        if data is not None:
            mine = f"data/process_{jax.process_index()}-of-{jax.process_count()}.json"
            if mine not in body["files"]:
                raise InputError(f"checkpoint {str(path)!r} has no {mine}: resume with as many processes as saved it")
            items["data"] = grain.checkpoint.CheckpointRestore(data)
        state = self._orbax.restore(path, args=ocp.args.Composite(**items))["state"]
        _compare(path, body["tree"], tree_spec(state))
        return state

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            number = 0
            while (target := self.folder / f"{step}.damaged{number or ''}").exists():
                number += 1
            (self.folder / str(step)).rename(target)
        _together(f"set aside {step}")

    def _verified(self, step: int) -> dict:
        """The manifest of a step, after checking every byte of its files."""
        path = self.folder / str(step)
        try:
            body = unseal((path / MANIFEST).read_bytes())
        except OSError as error:
            raise _bad(path, MANIFEST, f"cannot be read ({error.strerror})") from None
        if body is None:
            raise _bad(path, MANIFEST, "is damaged or was edited")
        if body["format"] != FORMAT:
            raise InputError(f"checkpoint {str(path)!r} has format {body['format']!r}, not {FORMAT}: update knotjax")
        found, wanted = set(_listing(path)) - {MANIFEST}, body["files"]
        for name in sorted(found ^ wanted.keys()):
            raise _bad(path, name, "is not in the manifest" if name in found else "is missing")
        for name, facts in wanted.items():
            if (size := (path / name).stat().st_size) != facts["bytes"]:
                raise _bad(path, name, f"has {size} bytes instead of {facts['bytes']}")
        names = sorted(wanted)
        for name, bad in zip(names, _shared(names, lambda mine: _differ(path, wanted, mine))):
            if bad:
                raise _bad(path, name, "is damaged (its SHA-256 differs from the manifest)")
        return body


def _compare(path: Path, saved: dict[str, list], wanted: dict[str, list]) -> None:
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            what = [f"{spec[1]}{spec[0]}" if spec else "nothing" for spec in (saved.get(name), wanted.get(name))]
            found = f"holds {what[0]} at {name!r}, this run wants {what[1]}"
            raise InputError(f"checkpoint {str(path)!r} {found}: give the config it was saved with, or another folder")


def _sharding(leaf):
    return leaf.sharding if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else None


def _listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _sums(folder: Path, names: list[str]) -> list[str]:
    def one(name: str) -> str:
        with open(folder / name, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, names))


def _differ(folder: Path, wanted: dict, names: list[str]) -> list[bool]:
    return [found != wanted[name]["sha256"] for name, found in zip(names, _sums(folder, names))]


def _shared(names: list[str], work: Callable[[list[str]], list[bool]]) -> list[bool]:
    """The results of `work` for all names, of which every process does a share."""
    count, index = jax.process_count(), jax.process_index()
    if count == 1:
        return work(names)
    results = np.zeros(len(names), bool)
    results[index::count] = work(names[index::count])
    return list(multihost_utils.process_allgather(results).any(0))


def _together(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _bad(path: Path, name: str, reason: str) -> DamagedError:
    return DamagedError(f"checkpoint file {str(path / name)!r} {reason}")
