"""What every test module shares: compiled programs are let go before the process runs out of memory mappings."""

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
