"""Starting `steps.py` in processes of its own, and reading what it wrote."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import knotjax

ROOT = Path(knotjax.__file__).parents[1]


def start(options: dict, devices: int = 1, cache: Path | None = None, world: tuple[str, ...] = ()) -> subprocess.Popen:
    """A process that trains; `options` are those of `steps.main`, `cache` is a folder for compiled programs."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles several times faster
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    if cache:
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", "tests.multiprocess.steps", json.dumps(options, default=str), *world]
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)


def finish(*children: subprocess.Popen) -> None:
    """Wait for all; they must succeed."""
    try:
        for child in children:
            _, said = child.communicate(timeout=1500)
            assert child.returncode == 0, said[-3000:]
    finally:
        for child in children:
            child.kill()


def pair(options: dict, devices: int) -> list[subprocess.Popen]:
    """Two processes that train together."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [start(options, devices, world=(address, "2", str(index))) for index in range(2)]


def losses(folder: Path, name: str) -> list[float]:
    """The losses of all steps that a run has logged so far."""
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]
