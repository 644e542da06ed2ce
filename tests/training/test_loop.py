"""The optimiser of the training loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.training import loop
from tests.helpers import random_params, tiny


def test_muon_takes_the_matrices_inside_the_model():
    chosen = loop.muon_dimensions({"dit": random_params(tiny()), "words": {"table": jnp.ones((3, 4))}})
    flat = jax.tree_util.tree_leaves_with_path(
        chosen, is_leaf=lambda leaf: leaf is None or hasattr(leaf, "reduction_axis")
    )
    names = {"/".join(part.key for part in path): leaf for path, leaf in flat}
    assert names["dit/blocks/block0/q/kernel"] == jax.tree.map(lambda x: x, names["dit/blocks/block0/ffn_in/kernel"])
    assert names["dit/blocks/block0/q/kernel"].reduction_axis == (1,), "the first axis is that of the layers"
    assert names["dit/time_in/kernel"].reduction_axis == (0,)
    for name in ("dit/head/kernel", "dit/patch_embedding/kernel", "dit/blocks/block0/q/bias", "dit/head_modulation"):
        assert names[name] is None
    assert names["words/table"] is None


def test_muon_moves_along_all_directions_alike():
    rng = np.random.default_rng(0)
    steep = rng.standard_normal((6, 1)) @ rng.standard_normal((1, 5)) + 0.1 * rng.standard_normal((6, 5))
    optimiser = loop.make_optimiser(steps=10, rate=1e-3, warmup=0, cooldown=0.0, b2=0.98, muon=0.1)
    params = {"inner": {"kernel": jnp.zeros((6, 5)), "bias": jnp.zeros(5)}}
    gradient = {"inner": {"kernel": jnp.asarray(steep), "bias": jnp.ones(5)}}
    change, _ = optimiser.update(gradient, optimiser.init(params), params)
    spread = np.linalg.svd(np.asarray(change["inner"]["kernel"]), compute_uv=False)
    before = np.linalg.svd(steep, compute_uv=False)
    assert before[0] / before[-1] > 10 and spread[0] / spread[-1] < 3
    np.testing.assert_allclose(change["inner"]["bias"], -1.5e-3, rtol=0.1)  # Adam's first step, with Nesterov momentum


@pytest.mark.parametrize("muon", [0.0, 0.1])
def test_rates_rise_hold_and_fall(muon):
    optimiser = loop.make_optimiser(steps=20, rate=0.1, warmup=4, cooldown=0.5, b2=0.99, muon=muon)
    params = {"inner": {"kernel": jnp.ones((4, 4))}}
    moments, sizes = optimiser.init(params), []
    gradient = {"inner": {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))}}
    for _ in range(20):
        change, moments = optimiser.update(gradient, moments, params)
        sizes.append(float(jnp.linalg.norm(change["inner"]["kernel"])))
    assert sizes[0] == 0.0 and np.all(np.diff(sizes[:5]) > 0)
    np.testing.assert_allclose(sizes[5:10], sizes[5], rtol=0.2)
    assert np.all(np.diff(sizes[11:]) < 0) and sizes[-1] < 0.2 * sizes[8]
