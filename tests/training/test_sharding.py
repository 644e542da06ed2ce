"""The table of sharding rules, and layers that are computed again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from knotjax import presets, sharding
from knotjax.errors import InputError
from knotjax.models.dit import DiT, DiTConfig
from knotjax.training import loop
from tests.helpers import GRID, TINY, UNDRIVEN, normal, precision, random_conditions, random_params, relative

SIZES = {"data": 2, "fsdp": 8, "tensor": 2, "sequence": 1}


def shares(tree):
    """Path -> (elements, in how many parts the rules split them)."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = sharding.spec_of(name, leaf.shape, SIZES)
        assert len(spec) <= len(leaf.shape)
        found[name] = leaf.size, int(np.prod([SIZES[axis] for axis in spec if axis]))
    return found


@pytest.fixture(scope="module")
def shapes():
    """Shapes of the training state of the 1.3B model with sound, motion and memory."""
    extras = dict(audio_tokens=4, audio_window=(8, 768), motion_tokens=4, motion_window=(4, 15), motion_every=2)
    model = DiT(DiTConfig(**extras, memory_ratio=2, given_residual=True))
    c = model.config
    x, flat = jax.ShapeDtypeStruct((1, 1, 4, 4, c.latent_channels), jnp.float32), jnp.zeros((1, 1))
    conditions = random_conditions(c, np.random.default_rng(0), 1, 1)
    params = jax.eval_shape(model.init, jax.random.key(0), x, x, flat, flat, flat.astype(jnp.int32), conditions)
    optimiser = loop.make_optimiser(steps=2, rate=1.0, warmup=0, cooldown=0.0, b2=0.9, muon=0.1)
    return jax.eval_shape(lambda params: loop.init_state(params, optimiser, 0), {"dit": params["params"]})


def test_every_large_array_is_split(shapes):
    found = shares(shapes)
    large = {name: parts for name, (size, parts) in found.items() if size > 500_000}
    assert len(large) > 60 and min(large.values()) >= 8, {n: p for n, p in large.items() if p < 8}
    blocks = {name: parts for name, parts in large.items() if "/blocks/" in name}
    assert min(blocks.values()) == 16, "matrices of the layers over fsdp and tensor"
    total, held = sum(size for size, _ in found.values()), sum(size / parts for size, parts in found.values())
    print(f"{total:.3g} elements, {held / total:.4f} of them on each device")
    assert held < 1.05 * total / 16


def test_states_and_averages_follow_their_parameters(shapes):
    found = shares(shapes)
    for name in ("dit/blocks/block0/q/kernel", "dit/head/kernel", "dit/blocks/block0/q/bias"):
        copies = {path: parts for path, (_, parts) in found.items() if path.endswith("/" + name)}
        assert len(copies) >= 3 and len(set(copies.values())) == 1 and min(copies.values()) > 1, copies


def test_an_axis_that_does_not_divide_is_left_out():
    kernel = "params/dit/blocks/block0/q/kernel"
    assert sharding.spec_of(kernel, (2, 16, 16), SIZES) == P(None, "fsdp", "tensor")
    assert sharding.spec_of(kernel, (2, 12, 16), SIZES) == P(None, None, "tensor")
    assert sharding.spec_of(kernel, (16,), SIZES) == P()
    assert sharding.spec_of("params/words/table", (9, 16), SIZES) == P()


def test_every_sound_branch_is_split():
    """The wide kernels that take a window of sound in."""
    for form, window in (("window", (8, 768)), ("pixel_frames", (8, 769)), ("added", (4, 768))):
        tokens = 1 if form == "added" else 4
        found = shares(presets.shapes(DiT(DiTConfig(audio_form=form, audio_tokens=tokens, audio_window=window))))
        wide = {name: parts for name, (size, parts) in found.items() if "audio_tokens" in name and size > 500_000}
        assert wide and min(wide.values()) == 16, (form, wide)


def test_parts_of_a_mesh():
    sizes = tuple(SIZES.values())
    mesh = jax.sharding.AbstractMesh(sizes, sharding.AXES, axis_types=(AxisType.Auto,) * len(sizes))
    assert sharding.parts(64, *sharding.BATCH) == 1
    with jax.sharding.use_abstract_mesh(mesh):
        assert sharding.parts(64, *sharding.BATCH) == 16 and sharding.parts(12, "tensor") == 2
        assert sharding.parts(24, *sharding.BATCH) == sharding.parts(3, "tensor") == 1, "does not divide: not split"


def test_meshes_fit_their_devices():
    assert dict(sharding.make_mesh().shape) == {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
    for sizes in (dict(data=2), dict(tensor=3), dict(data=-1, fsdp=-1), dict(data=0)):
        with pytest.raises(InputError, match="does not fit 1 devices"):
            sharding.make_mesh(**sizes)


def test_without_a_mesh_nothing_happens():
    x = jnp.ones((2, 3, 4, 5))
    assert sharding.split_tokens(x) is x and sharding.constrain({"a": x})["a"] is x and sharding.place(x) is x
    mesh = sharding.make_mesh()
    assert sharding.data_shard(mesh) == (0, 1)
    batch = sharding.global_batch(mesh, {"x": np.arange(6).reshape(3, 2)})["x"]
    np.testing.assert_array_equal(batch, np.arange(6).reshape(3, 2))


def test_computing_layers_again_changes_nothing():
    """Same loss and gradients; the backward pass keeps less."""
    small = dataclasses.replace(TINY, **UNDRIVEN)
    with precision("float64"):
        params, rng = random_params(DiT(small), dtype="float64"), np.random.default_rng(0)
        x, given = (normal(rng, (1, 2, *GRID, small.latent_channels), "float64") for _ in range(2))
        conditions = random_conditions(small, rng, 1, 2, "float64")
        flat, position = jnp.full((1, 2), 300.0), jnp.asarray([[0, 1]])
        found = {}
        for remat in ("none", "dots", "full"):
            model = DiT(dataclasses.replace(small, remat=remat))

            def loss(params, model=model):
                out, _ = model.apply({"params": params}, x, given, flat / 300, flat, position, conditions)
                return jnp.mean(jnp.square(out - 1.0))

            text = str(jax.make_jaxpr(jax.grad(loss))(params))
            assert ("remat" in text or "checkpoint" in text) == (remat != "none")
            found[remat] = jax.jit(jax.value_and_grad(loss))(params)
        for remat in ("dots", "full"):
            assert jax.tree.structure(found[remat]) == jax.tree.structure(found["none"])
            for mine, plain in zip(jax.tree.leaves(found[remat]), jax.tree.leaves(found["none"])):
                assert float(jnp.max(jnp.abs(plain))) > 0 and relative(mine, plain) < 1e-12
    with pytest.raises(ValueError, match="remat 'some'"):
        DiTConfig(remat="some")
