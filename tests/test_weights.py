import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import knotjax
from knotjax import weights
from knotjax.errors import InputError
from knotjax.weights import flatten, load_weights, save_weights, unflatten

ENV = os.environ | {"PYTHONPATH": str(Path(knotjax.__file__).parents[1])}  # for child processes in other folders
KINDS = [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int32, np.int64, np.uint8, np.bool_]
CONFIG = {"layers": 2, "rates": [0.5, 1e-3], "name": "tiny ü", "knot": True, "method": None, "deep": {"size": 128}}


def tensors(seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {f"block/{np.dtype(kind).name}": (rng.normal(0, 50, (3, 5)) % 100).astype(kind) for kind in KINDS}
    return made | {"scalar": np.float32(3.5), "none": np.zeros((0, 4), np.float16), "turned": made["block/float32"].T}


@pytest.fixture
def folder(tmp_path):
    save_weights(tmp_path / "tiny", tensors(), CONFIG, "tiny")
    return tmp_path / "tiny"


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype
        and left[k].shape == right[k].shape
        and np.ascontiguousarray(left[k]).tobytes() == np.ascontiguousarray(right[k]).tobytes()
        for k in left
    )


def test_round_trip_is_exact(folder):
    loaded, config = load_weights(folder)
    assert same(loaded, {k: np.asarray(v) for k, v in tensors().items()}) and config == CONFIG
    assert len(list(folder.iterdir())) == 2


def test_same_content_gives_the_same_bytes_in_any_order(tmp_path, folder):
    save_weights(tmp_path / "other", dict(reversed(tensors().items())), CONFIG, "tiny")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_saving_again_replaces_the_old_file(folder):
    (folder / "tiny-000000000000.safetensors.part").write_bytes(b"left by a killed run")
    (folder / "README.md").write_text("mine")
    save_weights(folder, tensors(1), {"sizes": (1, 2)}, "tiny")
    loaded, config = load_weights(folder)
    assert same(loaded, {k: np.asarray(v) for k, v in tensors(1).items()}) and config == {"sizes": [1, 2]}
    assert len(list(folder.glob("*.safetensors*"))) == 1 and (folder / "README.md").exists()


@pytest.mark.parametrize("value", [np.float32(1), {1: "a"}, float("nan"), {"a": object()}, {1, 2}, b"x"])
def test_config_must_be_plain_json(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        save_weights(tmp_path, tensors(), {"value": value}, "tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros(3, complex), np.array(["a"]), np.array([object()])])
def test_unstored_kinds_are_refused(tmp_path, array):
    with pytest.raises(ValueError, match="not stored"):
        save_weights(tmp_path, {"a": array}, {}, "tiny")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "a\n"])
def test_bad_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="weights name"):
        save_weights(tmp_path / "inner", tensors(), {}, name)
    assert list(tmp_path.iterdir()) == []


def refused(folder, *names) -> None:
    with pytest.raises(InputError) as caught:
        load_weights(folder)
    text = str(caught.value)
    assert "\n" not in text and any(name in text for name in names or [p.name for p in folder.iterdir()]), text


def damages(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One random damage of a file; never the file itself."""
    kind = rng.choice(["bit", "cut", "zeros", "longer", "swap"], p=[0.6, 0.15, 0.1, 0.05, 0.1])
    at = int(rng.integers(len(data)))
    if kind == "bit":
        return kind, data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    if kind == "cut":
        return kind, data[:at]
    if kind == "longer":
        return kind, data + bytes(rng.integers(0, 256, 1 + at % 9, np.uint8))
    if kind == "zeros":
        return kind, data[:at] + bytes(min(16, len(data) - at)) + data[at + 16 :]
    other = int(rng.integers(len(data)))
    low, high = min(at, other), max(at, other)
    return kind, data[:low] + data[high : high + 1] + data[low + 1 : high] + data[low : low + 1] + data[high + 1 :]


def test_200_random_damages_are_all_refused(folder):
    rng = np.random.default_rng(7)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    counts = {}
    while sum(counts.values()) < 200:
        path = list(files)[sum(counts.values()) % 2]
        kind, data = damages(files[path], rng)
        if data == files[path]:  # zeros over zeros, or two equal bytes swapped
            continue
        path.write_bytes(data)
        refused(folder, path.name)
        path.write_bytes(files[path])
        counts[path.suffix, str(kind)] = counts.get((path.suffix, str(kind)), 0) + 1
    print(f"refused: {counts}")
    load_weights(folder)


def test_missing_files_are_named(folder):
    (data,) = folder.glob("*.safetensors")
    data.rename(folder / "elsewhere")
    refused(folder, data.name)
    (folder / "elsewhere").rename(data)
    (folder / "manifest.json").rename(folder / "elsewhere")
    refused(folder, "manifest.json")
    shutil.rmtree(folder)
    refused(folder, "manifest.json")


def test_folders_in_place_of_files(folder):
    (data,) = folder.glob("*.safetensors")
    for path in (data, folder / "manifest.json"):
        path.unlink()
        path.mkdir()
        refused(folder, path.name)


def reseal(folder, change) -> None:
    """Let `change` edit the manifest and seal it properly, as a mistaken tool would."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    del body["sha256"]
    change(body)
    path.write_bytes(weights.seal(body))


def first(mapping: dict):
    return mapping[next(iter(mapping))]


MIX_UPS = {
    "format": (lambda b: b.update(format=2), "update knotjax"),
    "no config": (lambda b: b.pop("config"), "does not describe"),
    "config is a list": (lambda b: b.update(config=[]), "does not describe"),
    "extra field": (lambda b: b.update(more=1), "does not describe"),
    "no files": (lambda b: b.update(files={}), "does not describe"),
    "files is a list": (lambda b: b.update(files=["a"]), "does not describe"),
    "path upwards": (lambda b: b.update(files={"../a.safetensors": first(b["files"])}), "does not describe"),
    "absolute path": (lambda b: b.update(files={"/etc/passwd": first(b["files"])}), "does not describe"),
    "not safetensors": (lambda b: b.update(files={"a.pkl": first(b["files"])}), "does not describe"),
    "negative size": (lambda b: first(b["files"]).update(bytes=-2), "does not describe"),
    "size is true": (lambda b: first(b["files"]).update(bytes=True), "does not describe"),
    "tensor facts": (lambda b: b["tensors"].update(scalar={"shape": []}), "does not describe"),
    "size": (lambda b: first(b["files"]).update(bytes=9), "instead of 9"),
    "digest": (lambda b: first(b["files"]).update(sha256="0" * 64), "SHA-256"),
    "tensor gone": (lambda b: b["tensors"].pop("scalar"), "scalar"),
    "tensor more": (lambda b: b["tensors"].update(new={"shape": [], "dtype": "float32"}), "new"),
    "shape": (lambda b: b["tensors"]["turned"].update(shape=[3, 5]), "turned"),
    "kind": (lambda b: b["tensors"]["scalar"].update(dtype="int32"), "scalar"),
}


@pytest.mark.parametrize("case", MIX_UPS)
def test_mixed_up_manifests(folder, case):
    change, reason = MIX_UPS[case]
    reseal(folder, change)
    with pytest.raises(InputError) as caught:
        load_weights(folder)
    print(caught.value)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"junk", safetensors.numpy.save({"scalar": np.zeros(2)})], ids=["junk", "float64"])
def test_well_sealed_but_unusable_file(folder, data):
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(data)
    reseal(folder, lambda b: first(b["files"]).update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    refused(folder, path.name)


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"sha256": "a"}'])
def test_manifests_that_are_something_else(folder, text):
    (folder / "manifest.json").write_bytes(text)
    refused(folder, "manifest.json")


def test_killed_while_saving_leaves_either_version_whole(tmp_path):
    body = """
import sys, numpy as np
from knotjax.weights import save_weights
for version in range(1, 100000):
    save_weights(sys.argv[1], {"a": np.full((500, 500), version, np.float32)}, {"version": version}, "tiny")
    print(version, flush=True)
"""
    rng = np.random.default_rng(0)
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", body, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENV
        )
        assert child.stdout.readline() == "1\n"
        time.sleep(rng.uniform(0.0, 0.2))
        os.kill(child.pid, signal.SIGKILL)
        rest = child.communicate()[0].split()
        found, config = load_weights(tmp_path)
        print(f"killed after saving {rest[-1] if rest else 1}, version {config['version']} loads")
        assert (found["a"] == config["version"]).all() and config["version"] >= int(rest[-1] if rest else 1)
    save_weights(tmp_path, tensors(), CONFIG, "tiny")
    assert len(list(tmp_path.glob("*.safetensors*"))) == 1


names = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=4)
leaves = st.integers(0, 9).map(np.float32)
trees = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, trees, max_size=3))
def test_unflatten_undoes_flatten(tree):
    flat = flatten(tree)
    assert all(isinstance(leaf, np.ndarray) for leaf in flat.values()) and unflatten(flat) == tree


def test_flatten_names():
    tree = {"dit": {"block_0": {"kernel": np.zeros((2, 3))}, "empty": {}}, "bias": 1.0}
    assert {name: leaf.shape for name, leaf in flatten(tree).items()} == {"dit/block_0/kernel": (2, 3), "bias": ()}


@pytest.mark.parametrize("key", ["a/b", "", 3])
def test_flatten_refuses_ambiguous_names(key):
    with pytest.raises(ValueError, match="parameter name"):
        flatten({"ok": {key: 1.0}})


@pytest.mark.parametrize("order", [["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"]])
def test_unflatten_refuses_clashes(order):
    with pytest.raises(ValueError, match=r"below a tensor|both a tensor"):
        unflatten({name: np.zeros(1) for name in order})
