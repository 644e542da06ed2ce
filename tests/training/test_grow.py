"""A grown model computes what the small one did."""

import dataclasses

import jax
import numpy as np
import pytest

from knotjax.models.dit import Context, DiT
from knotjax.training.grow import grow
from tests.helpers import (
    GRID,
    IMAGE,
    PACKED,
    PIXEL_FRAMES,
    TINY,
    normal,
    precision,
    random_conditions,
    random_params,
    relative,
)


def output(config, params, rng_seed=3):
    """Output and own keys of a forward over two frames that look at two more."""
    rng = np.random.default_rng(rng_seed)
    x, given = (normal(rng, (2, 2, *GRID, config.latent_channels), "float64") for _ in range(2))
    t, position = np.full((2, 2), 300.0), np.asarray([[0, 1]] * 2, np.int32)
    conditions = random_conditions(config, rng, 2, 2, "float64")
    still = np.zeros((2, 2))

    @jax.jit
    def forward(*arguments):
        return DiT(config).apply({"params": params}, *arguments)

    _, (k, v) = forward(given, x, still + 1, still, position, conditions)
    context = Context(k, v, position - 4, np.ones((2, 2), bool))
    return forward(x, given, still + 1, t, position, conditions, (context,))


SIZES = [dict(dim=48, ffn_dim=64, heads=4), dict(layers=4), dict(dim=72, ffn_dim=96, heads=6, layers=3)]


@pytest.mark.parametrize("sizes", SIZES, ids=["wider", "deeper", "both"])
def test_a_grown_model_computes_the_same(sizes):
    with precision("float64"):
        small = dataclasses.replace(TINY, given_residual=True, memory_ratio=2)
        params = random_params(DiT(small), dtype="float64")
        large = dataclasses.replace(small, **sizes)
        grown = grow(small, large, params, noise=0.0)
        shapes = jax.tree.map(np.shape, random_params(DiT(large)))
        assert jax.tree.map(np.shape, grown) == shapes
        before, _ = output(small, params)
        after, _ = output(large, grown)
        figure = relative(after, before)
        print(f"{sizes}: {figure:.1e}")
        assert figure < 1e-12
        if "dim" in sizes:  # the copies part, by a little
            noisy, _ = output(large, grow(small, large, params, noise=0.01))
            assert 1e-6 < relative(noisy, before) < 0.2


@pytest.mark.parametrize("adapters", [IMAGE | PIXEL_FRAMES, PACKED], ids=["image and pixel frames", "packed sound"])
def test_public_adapters_grow_too(adapters):
    with precision("float64"):
        small = dataclasses.replace(TINY, **adapters)
        large = dataclasses.replace(small, dim=48, ffn_dim=64, heads=4, layers=small.layers + 4)
        params = random_params(DiT(small), dtype="float64")
        grown = grow(small, large, params, noise=0.0)
        assert jax.tree.map(np.shape, grown) == jax.tree.map(np.shape, random_params(DiT(large)))
        assert relative(output(large, grown)[0], output(small, params)[0]) < 1e-12


@pytest.mark.parametrize("sizes", [dict(dim=48), dict(layers=1), dict(heads=4), dict(text_dim=7)])
def test_other_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="one whole factor"):
        grow(TINY, dataclasses.replace(TINY, **sizes), {})
