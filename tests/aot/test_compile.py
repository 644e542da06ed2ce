"""Programs for accelerators that are not there: the ring stays in its place, and no scores are kept.

Needs the extra `aot`; minutes of CPU a case.
"""

import importlib.util

import pytest

from knotjax.streaming.methods import METHODS

pytestmark = pytest.mark.slow

CASES = [
    ("v5e", "knot_forcing", "libtpu"),
    ("v5e", "self_forcing", "libtpu"),  # a ring of 18 frames: a copy of its keys alone is 2.4 GiB
    ("v5e", "live_act", "libtpu"),
    ("H200", "knot_forcing", "jax_cuda13_plugin"),
    ("H200", "self_forcing", "jax_cuda13_plugin"),
]


@pytest.mark.parametrize(("target", "method", "package"), CASES)
def test_streaming_step_of_1_3b(target, method, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (extra 'aot')")
    from experiments.aot import programs

    target, plan = programs.TARGETS[target], METHODS[method]()
    function, shapes = programs.streaming_step(target, programs.RESOLUTIONS["480x832"], method)
    sizes = programs.facts(programs.compiled(function, shapes, target), shapes)
    print(method, target.platform, sizes)
    assert sizes["aliased"] >= 0.99 * sizes["state"]
    frame = 2 * 30 * 1560 * 1536 * 2 / programs.GIB  # keys and values of one frame in all layers
    # what a pass makes, what a memory is made of, and the working space of one layer
    assert sizes["temp"] < frame * (plan.span + plan.memory.frames + plan.chunk * bool(plan.memory.frames)) + 1.0
    scores = 12 * plan.span * 1560 * (plan.span + plan.ring_budget + 1) * 1560 * 4 / programs.GIB  # of one layer
    assert plan.memory.frames or sizes["temp"] < scores
    assert sizes["peak"] < target.memory
