"""What test modules share: how tiny programs are compiled, and when compiled ones are let go."""

from pathlib import Path

import jax
import pytest

MAPPINGS = 20_000
"""Each program compiled for a CPU holds some ten mappings; at the usual limit of 65,530 the compiler crashes."""


@pytest.fixture(autouse=True, scope="module")
def few_mappings():
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation():
    """Most of the time of many tests is compilation of tiny programs, so leave out XLA's costly optimizations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
