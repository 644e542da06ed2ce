"""The DiT against stored outputs of diffusers' WanTransformer3DModel (`tests/parity/make_golden_dit.py`)."""

import numpy as np
import pytest

from knotjax.convert import dit
from tests.helpers import relative
from tests.models.dits import GOLDEN, TINY, forward, random_inputs


@pytest.mark.parametrize("name", TINY)
def test_equals_stored_output(name):
    config, stored = TINY[name], np.load(GOLDEN)
    weights = {key.removeprefix(f"{name}/weight/"): stored[key] for key in stored if key.startswith(f"{name}/weight/")}
    error = relative(
        forward(config)(dit.from_diffusers(weights, config), random_inputs(config, 0)), stored[f"{name}/out"]
    )
    print(f"DiT {name}: {error:.1e}")
    assert error <= 1e-4
