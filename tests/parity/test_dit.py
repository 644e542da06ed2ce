"""The DiT against diffusers' WanTransformer3DModel: three seeds tiny, two layers at full width, and in bfloat16."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from knotjax.convert import dit  # noqa: E402
from knotjax.convert.tensors import write_tensors  # noqa: E402
from knotjax.presets import I2V_14B, T2V_1_3B, T2V_14B  # noqa: E402
from tests.helpers import relative  # noqa: E402
from tests.models.dits import TINY, forward, random_inputs  # noqa: E402
from tests.parity import torch_dit as twins  # noqa: E402

pytestmark = pytest.mark.parity
LIMIT = 1e-4

NARROW = dict(layers=2, text_dim=64)
FULL = {
    "1536": dataclasses.replace(T2V_1_3B, **NARROW),
    "5120": dataclasses.replace(T2V_14B, **NARROW),
    "5120 with image": dataclasses.replace(I2V_14B, **NARROW, image_tokens=17, image_width=64, ffn_dim=1024),
}


def sensitive(run, arrays, config):
    """Every input moves the output by 1 % or more."""
    plain, used = run(arrays), {"x", "t", "text"}
    used |= {"given", "mask"} if config.inputs != "plain" else set()
    used |= {"image"} if config.image_tokens else set()
    for name in sorted(used):
        other = {"mask": 1 - arrays["mask"], "t": 1000 - arrays["t"]}.get(name, -arrays[name])
        moved = relative(run(arrays | {name: other}), plain)
        print(f"  {name} moves the output by {moved:.2f}")
        assert moved >= 0.01, name


def compare(name, config, seed, arrays):
    twin = twins.build(config)
    weights = twins.fill(twin, seed)
    expected = twins.forward(twin, config, arrays)
    params = dit.from_diffusers(weights, config)
    del twin, weights
    run, params = forward(config), jax.tree.map(jnp.asarray, params)
    error = relative(run(params, arrays), expected)
    print(f"DiT {name}, seed {seed}: {error:.1e}")
    assert error <= LIMIT
    return lambda changed: run(params, changed)


@pytest.mark.parametrize("seed", (0, 1, 2))
@pytest.mark.parametrize("name", TINY)
def test_tiny(name, seed):
    config = TINY[name]
    arrays = random_inputs(config, seed)
    sensitive(compare(name, config, seed, arrays), arrays, config)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_width(name):
    config = FULL[name]
    arrays = random_inputs(config, 3, frames=2, batch=1)
    sensitive(compare(f"of width {name}", config, 3, arrays), arrays, config)


@pytest.mark.parametrize("name", TINY)
def test_bfloat16(name):
    """Ours strays from the float32 result no farther than twice what diffusers' own bfloat16 does."""
    config, errors = TINY[name], {"ours": [], "diffusers": []}
    for seed in range(3):
        arrays = random_inputs(config, seed)
        twin = twins.build(config)
        params = dit.from_diffusers(twins.fill(twin, seed), config)
        expected = twins.forward(twin, config, arrays)

        def half(tree):
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), tree)

        low = half(arrays) | {"t": arrays["t"]}
        errors["ours"].append(relative(np.asarray(forward(config)(half(params), low), np.float32), expected))
        lower = twin.to(torch.bfloat16)
        errors["diffusers"].append(relative(twins.forward(lower, config, arrays, torch.bfloat16), expected))
    means = {who: float(np.mean(values)) for who, values in errors.items()}
    print(f"DiT {name} in bfloat16:", {who: f"{value:.1e}" for who, value in means.items()})
    assert means["ours"] <= 2 * means["diffusers"] <= 0.2


def test_diffusers_takes_an_exported_file(tmp_path):
    from safetensors.torch import load_file

    config = TINY["image"]
    twin, other = twins.build(config), twins.build(config)
    weights = twins.fill(twin, 0)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = dit.to_diffusers(dit.from_diffusers(weights, config), config)
    facts = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_tensors(path, facts, tensors.items())
    other.load_state_dict(load_file(path), strict=True)
    arrays = random_inputs(config, 0)
    np.testing.assert_array_equal(twins.forward(other, config, arrays), twins.forward(twin, config, arrays))
