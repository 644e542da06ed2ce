"""The same 20 losses on one device, on 8 virtual devices, and in 2 processes with 4 devices each."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import knotjax

ROOT = Path(knotjax.__file__).parents[1]
AXES = ("data", "fsdp", "tensor", "sequence")
MIXED = {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2}


def start(meshes, devices, *arguments):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles several times faster
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "tests.multiprocess.steps", json.dumps(meshes), *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(child):
    out, err = child.communicate(timeout=1500)
    assert child.returncode == 0, err[-3000:]
    return [json.loads(line.removeprefix("LOSSES")) for line in out.splitlines() if line.startswith("LOSSES")]


def two_processes(meshes, folder):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    children = [start(meshes, 4, address, "2", str(index), str(folder)) for index in range(2)]
    try:
        first, _ = [result(child) for child in children]
        return first
    finally:
        for child in children:
            child.kill()


def one_device():
    (losses,) = result(start([None], 1))
    assert len(losses) == 20 and np.ptp(losses) > 0.01 * losses[0], "the losses move"
    return losses


def difference(losses, reference):
    assert len(losses) == len(reference)
    return float(np.max(np.abs(np.subtract(losses, reference)) / np.abs(reference)))


def test_two_processes_and_three_axes(tmp_path):
    figure = difference(*two_processes([MIXED], tmp_path), one_device())
    print(f"2 processes x 4 devices, {MIXED}: {figure:.1e}")
    assert figure < 1e-4


@pytest.mark.slow
def test_every_axis(tmp_path):
    reference, meshes = one_device(), [{"data": 1} | {axis: 8} for axis in AXES] + [MIXED]
    eight, two = result(start(meshes, 8)), two_processes(meshes, tmp_path)
    for sizes, a, b in zip(meshes, eight, two, strict=True):
        figures = difference(a, reference), difference(b, reference)
        print(f"{sizes}: 8 devices {figures[0]:.1e}, 2 processes x 4 {figures[1]:.1e}")
        assert max(figures) < 1e-4
