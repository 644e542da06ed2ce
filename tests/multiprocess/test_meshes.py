"""The same 20 losses on one device, on 8 virtual devices, and in 2 processes with 4 devices each."""

import shutil

import numpy as np
import pytest

from tests.multiprocess.children import finish, losses, pair, start

AXES = ("data", "fsdp", "tensor", "sequence")
MIXED = {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2}


def one_device(folder, **options):
    finish(start({"folder": folder, "runs": {"one": None}} | options))
    reference = losses(folder, "one")
    assert len(reference) == 20 and np.ptp(reference) > 0.1 * reference[0], "the losses move"
    return reference


def difference(found, reference):
    assert len(found) == len(reference)
    return float(np.max(np.abs(np.subtract(found, reference)) / np.abs(reference)))


def test_two_processes_and_three_axes(tmp_path):
    finish(*pair({"folder": tmp_path, "runs": {"mixed": MIXED}}, devices=4))
    figure = difference(losses(tmp_path, "mixed"), one_device(tmp_path))
    print(f"2 processes x 4 devices, {MIXED}: {figure:.1e}")
    assert figure < 1e-4


@pytest.mark.slow
def test_every_axis(tmp_path):
    runs = {axis: {"data": 1} | {axis: 8} for axis in AXES} | {"mixed": MIXED}
    reference, options = one_device(tmp_path, stream=True), {"runs": runs, "stream": True, "save_every": 10}
    finish(start(options | {"folder": tmp_path / "eight"}, devices=8))
    finish(*pair(options | {"folder": tmp_path / "two"}, devices=4))
    for name, sizes in runs.items():
        figures = [difference(losses(tmp_path / kind, name), reference) for kind in ("eight", "two")]
        print(f"{sizes}: 8 devices {figures[0]:.1e}, 2 processes x 4 devices {figures[1]:.1e}")
        assert max(figures) < 1e-4

    # A run may go on over another mesh.
    shutil.rmtree(tmp_path / "eight" / "fsdp_checkpoints" / "20")
    finish(start(options | {"folder": tmp_path / "eight", "runs": {"fsdp": MIXED}}, devices=8))
    resumed = losses(tmp_path / "eight", "fsdp")
    assert len(resumed) == 30 and difference(resumed[20:], reference[10:]) < 1e-4


@pytest.mark.slow
def test_distribution_matching(tmp_path):
    """Student, critic and their averages, on rollouts whose caches are split too."""
    reference, options = one_device(tmp_path, dmd=True), {"folder": tmp_path, "dmd": True}
    finish(start(options | {"runs": {"eight": MIXED}}, devices=8))
    finish(*pair(options | {"runs": {"two": MIXED}}, devices=4))
    figures = [difference(losses(tmp_path, name), reference) for name in ("eight", "two")]
    print(f"{MIXED}: 8 devices {figures[0]:.1e}, 2 processes x 4 devices {figures[1]:.1e}")
    assert max(figures) < 1e-4
