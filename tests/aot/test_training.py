"""Updates of distribution matching, compiled for four chips that are not there: split, in place, caches at home.

Needs the extra `aot`; a minute or two of CPU a case.
"""

import importlib.util

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra 'aot')"),
]


@pytest.mark.parametrize("update", ["generator", "critic"])
def test_update_of_a_tiny_student(update):
    from experiments.aot import training

    case, pod = training.papers_case("tiny", "tiny"), training.PODS["v5e-4"]
    executable, counted = training.compiled(case, pod, update)
    found = training.facts(executable, case)
    print(update, found)
    assert counted > 1e9
    # The state is most of the arguments (the teacher is the rest), and all of it is updated in its place.
    memory = executable.memory_analysis()
    assert memory.alias_size_in_bytes >= 0.99 * memory.output_size_in_bytes
    assert memory.alias_size_in_bytes > 0.5 * memory.argument_size_in_bytes
    # Weights are gathered where they are used, products over split channels are summed; no tokens are gathered.
    assert found["collectives"]["all-gather"][0] > 0 and found["collectives"]["all-reduce"][0] > 0
    assert not found["gathers of tokens"]
