"""Programs for accelerators that are not there: the ring stays in its place, and no scores are kept.

Needs the extra `aot`; minutes of CPU a case.
"""

import importlib.util

import pytest

pytestmark = pytest.mark.slow

CASES = [("tpu", "v5e", "libtpu"), ("cuda", "H200", "jax_cuda13_plugin")]


@pytest.mark.parametrize(("platform", "target", "package"), CASES)
def test_streaming_step_of_1_3b(platform, target, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (extra 'aot')")
    from experiments.aot import programs

    target = programs.TARGETS[target]
    assert target.platform == platform
    function, shapes = programs.streaming_step(target, programs.RESOLUTIONS["480x832"], "knot_forcing")
    executable = programs.compiled(function, shapes, target)
    sizes = programs.facts(executable, shapes)
    print(platform, sizes)
    assert sizes["aliased"] >= 0.99 * sizes["state"]
    scores = 12 * 6240 * 12480 * 4 / programs.GIB  # of one layer, in float32
    assert sizes["temp"] < scores < 4
    assert sizes["peak"] < target.memory
