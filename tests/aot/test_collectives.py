"""Reading a program's text: what is gathered, and how often."""

import importlib.util

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra 'aot')"),
]


def test_a_gathered_cache_is_found_with_its_trips():
    from experiments.aot import training
    from experiments.aot.collectives import collectives, gathers_of, summed

    # isort: split
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = training.pod_mesh(training.PODS["v5e-4"])

    def attend(query, cache):  # the cache is split by tokens, the queries are not
        def layer(i, q):
            k = jax.lax.with_sharding_constraint(cache[i], NamedSharding(mesh, PartitionSpec()))
            return jax.nn.softmax(q @ k.T) @ k

        return jax.lax.fori_loop(0, 3, layer, query)

    def shape(split, *sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*split)))

    arguments = shape((), 128, 128), shape((None, "tensor", None), 3, 45 * 128, 128)
    executable = jax.jit(attend).trace(*arguments).lower(lowering_platforms=("tpu",)).compile()
    found = collectives(executable.as_text())
    (gathered,) = gathers_of(found, 45)
    assert gathered.shape[-2:] == (45 * 128, 128) and gathered.dtype == "bf16" and gathered.times == 3
    assert summed(found)["all-gather"] == [1, 3, round(3 * 45 * 128 * 128 * 2 / 2**30, 3)]
    assert not gathers_of(found, 7)
