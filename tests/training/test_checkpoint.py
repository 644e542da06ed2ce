"""Checkpoints are whole, or refused by the name of the file that is not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import knotjax
from knotjax.errors import InputError
from knotjax.training.checkpoint import Checkpoints, tree_spec

ROOT = Path(knotjax.__file__).parents[1]
ADAM = optax.adam(1e-3)


def state(number):
    rng = np.random.default_rng(number)
    params = {"block": {"kernel": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32), "half": jnp.ones(4, jnp.bfloat16)}}
    return {
        "params": params,
        "moments": ADAM.init(params),
        "step": jnp.asarray(number),
        "key": jax.random.key_data(jax.random.key(number)),
    }


def numbers():
    return iter(grain.MapDataset.range(100).seed(3).shuffle().repeat().batch(2).to_iter_dataset())


def same(left, right):
    return jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), left, right))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two checkpoints, of steps 3 and 5; the data iterator had given three and five batches."""
    folder, data = tmp_path_factory.mktemp("saved"), numbers()
    with Checkpoints(folder, "config") as checkpoints:
        for step in range(1, 6):
            next(data)
            if step in (3, 5):
                checkpoints.save(step, state(step), data)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def test_round_trip_is_exact(folder):
    data, reference = numbers(), numbers()
    with Checkpoints(folder, "config") as checkpoints:
        assert checkpoints.steps() == [3, 5]
        restored = checkpoints.restore(state(0), data)
    assert same(restored, state(5)) and not same(restored, state(3))
    assert isinstance(restored["moments"][0], type(state(0)["moments"][0]))
    for _ in range(5):
        next(reference)
    assert np.array_equal(next(data), next(reference)), "the data go on where they stood"
    manifest = json.loads((folder / "5" / "manifest.json").read_text())
    assert manifest["tree"] == tree_spec(state(5)) and manifest["tree"]["params/block/kernel"] == [[3, 5], "float32"]
    assert manifest["packages"]["jax"] == jax.__version__ and len(manifest["config_sha256"]) == 64


def test_nothing_saved_gives_nothing(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(state(0)) is None


def test_only_the_newest_stay(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, state(step))
        checkpoints.wait()
        assert checkpoints.steps() == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def victims(folder):
    return sorted(path for path in (folder / "5").rglob("*") if path.is_file())


def flip(path, rng):
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return path


def truncate(path, rng):
    os.truncate(path, rng.randrange(path.stat().st_size) if path.stat().st_size else 0)
    return path


def lengthen(path, rng):
    path.write_bytes(path.read_bytes() + b"\0")
    return path


def delete(path, rng):
    path.unlink()
    return path


def add(path, rng):
    path = path.with_name("zzz")
    path.write_bytes(b"")
    return path


def test_any_damage_is_refused_by_name(folder):
    rng, whole = random.Random(0), {path: path.read_bytes() for path in victims(folder)}
    with Checkpoints(folder, "config") as checkpoints:
        for path, data in whole.items():
            for harm in (flip, flip, flip, truncate, lengthen, delete, add):
                if harm is truncate and not data:
                    continue
                harmed = harm(path, rng)
                with pytest.raises(InputError, match="--fallback goes on from step 3") as error:
                    checkpoints.restore(state(0))
                assert repr(str(harmed)) in str(error.value) and "\n" not in str(error.value)
                harmed.unlink(missing_ok=True)
                path.write_bytes(data)
        assert same(checkpoints.restore(state(0)), state(5))
    print(f"{len(whole)} files")


def test_the_one_before_is_used_when_asked(folder):
    flip(max(victims(folder), key=lambda path: path.stat().st_size), random.Random(1))
    data, reference = numbers(), numbers()
    with Checkpoints(folder) as checkpoints:
        assert same(checkpoints.restore(state(0), data, fallback=True), state(3))
        for _ in range(3):
            next(reference)
        assert np.array_equal(next(data), next(reference))
        assert checkpoints.steps() == [3] and (folder / "5.damaged").is_dir()
        checkpoints.save(5, state(6))
    with Checkpoints(folder) as checkpoints:
        assert same(checkpoints.restore(state(0)), state(6))
        for step in (3, 5):
            flip(folder / str(step) / "manifest.json", random.Random(2))
        with pytest.raises(InputError, match="no checkpoint is whole"):
            checkpoints.restore(state(0), fallback=True)


@pytest.mark.parametrize("change", ["shape", "dtype", "more", "less", "renamed"])
def test_another_tree_is_refused(folder, change):
    wanted = state(0)
    block = wanted["params"]["block"]
    if change == "shape":
        block["kernel"] = jnp.zeros((5, 3))
    elif change == "dtype":
        block["kernel"] = block["kernel"].astype(jnp.float16)
    elif change == "more":
        block["bias"] = jnp.zeros(2)
    elif change == "less":
        del block["kernel"]
    else:
        block["kern"] = block.pop("kernel")
    with Checkpoints(folder) as checkpoints, pytest.raises(InputError, match=r"params/block/(kern|bias)"):
        checkpoints.restore(wanted, fallback=True)
    assert (folder / "5").is_dir(), "a mismatch is no damage"


def test_a_failed_save_is_an_error_at_once(tmp_path, monkeypatch):
    def full(data):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        monkeypatch.setattr("knotjax.training.checkpoint.seal", full)
        checkpoints.save(2, state(2))
        until = time.monotonic() + 30
        with pytest.raises(OSError, match="No space left"):
            while time.monotonic() < until:
                checkpoints.check()
                time.sleep(0.01)
    monkeypatch.undo()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert same(checkpoints.restore(state(0)), state(1))


def test_saved_arrays_may_be_donated(tmp_path):
    advance = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    tree = {"large": jnp.zeros((512, 1024))}
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(5):
            checkpoints.save(step, tree)
            tree = advance(tree)
        checkpoints.wait()
        assert float(checkpoints.restore(tree)["large"].max()) == 4.0 and float(tree["large"].min()) == 5.0


SAVER = """
import sys
import jax.numpy as jnp
from pathlib import Path
from knotjax.training.checkpoint import Checkpoints
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    for step in range(1, 10_000):
        checkpoints.save(step, {"large": jnp.full((256, 1024), step), "small": jnp.asarray(step)})
        print(step, flush=True)
"""


def kill_while_saving(folder, after: float):
    """SIGKILL a process that does nothing but save, some time after its second save began."""
    command = [sys.executable, "-c", SAVER, str(folder)]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    while child.stdout.readline().strip() != b"2":
        assert child.poll() is None
    time.sleep(after)
    child.send_signal(signal.SIGKILL)
    begun = int((child.stdout.read().split() or [b"2"])[-1])
    child.wait()
    return begun


def check_killed(folder, seed, times):
    rng = random.Random(seed)
    for _ in range(times):
        shutil.rmtree(folder, ignore_errors=True)
        begun = kill_while_saving(folder, rng.uniform(0.0, 0.5))
        with Checkpoints(folder) as checkpoints:
            like = {"large": jnp.zeros((256, 1024), int), "small": jnp.asarray(0)}
            restored = checkpoints.restore(like)
            step = int(restored["small"])
            assert step == checkpoints.steps()[-1] and begun - 2 <= step <= begun
            assert np.array_equal(restored["large"], np.full((256, 1024), step))
            print(f"killed while step {begun} was being saved, resumed from {step}")
        assert all(path.name.isdecimal() for path in folder.iterdir())


def test_killed_while_saving(tmp_path):
    check_killed(tmp_path / "checkpoints", 0, 1)


@pytest.mark.slow
def test_killed_at_ten_moments(tmp_path):
    check_killed(tmp_path / "checkpoints", 1, 10)
