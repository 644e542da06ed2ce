"""What the compiled step needs beside its state, read from the compiler, for every system.

The bound is one layer's keys and values, of all frames that a pass looks at, and what belongs to the frames being
computed: their scores and weights in that layer, rotation angles (with sine and cosine), their own keys and values in
every layer, a dozen arrays of the model's width, and for ConvKV the memory and the frames that it is made of. The
shapes let the ring dominate: 60 frames, of which a pass computes 2 to 6, under 8 layers, so that a copy of even one set
of the ring would break the bound.
"""

import dataclasses

import jax
import numpy as np
import pytest

from knotjax.evaluation.cost import step_shapes
from knotjax.models.dit import DiT, DiTConfig
from knotjax.streaming.methods import METHODS
from knotjax.streaming.step import jit_step

MODEL = DiT(DiTConfig(latent_channels=2, dim=32, ffn_dim=32, heads=2, layers=8, freq_dim=8, text_dim=4))
GRID, TOKENS, HISTORY = (4, 4), 4, 60
TWO = dict(steps=(1000, 500))
SMALL = {
    "knot_forcing": dict(chunk=2, window=2 + HISTORY, **TWO),
    "live_act": dict(chunk=2, first=2, reference=1, memory=2, recent=HISTORY, **TWO),
    "avatar_forcing": dict(blocks=2, chunk=2, history=HISTORY),
    "self_forcing": dict(chunk=2, history=HISTORY, sink=2, **TWO),
    "causvid": {},
    "causal_forcing": dict(chunk=2, count=2, history=HISTORY),
    "causal_ode": dict(chunk=2, history=HISTORY),
    "rolling_forcing": dict(blocks=3, chunk=2, sink=2, history=HISTORY, steps=(1000, 600, 300)),
    "longlive": dict(chunk=2, window=4 + HISTORY, sink=2, **TWO),
    "live_avatar": dict(chunk=2, window=2 + HISTORY),
    "bidirectional": dict(frames=4, count=3),
    "knot_neighbor": dict(chunk=2, window=2 + HISTORY, **TWO),
    "knot_convkv": dict(chunk=2, window=2 + HISTORY, **TWO),
    "avatar_ahead": dict(blocks=2, passes=2, chunk=2, history=HISTORY),
}
ALWAYS = ("live_act", "live_avatar", "knot_neighbor", "rolling_forcing")


@pytest.fixture(scope="module", autouse=True)
def full_compilation(quick_compilation):
    jax.config.update("jax_disable_most_optimizations", False)


def nbytes(tree) -> int:
    return sum(np.prod(a.shape, dtype=int) * a.dtype.itemsize for a in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", [n if n in ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in METHODS])
def test_the_step_works_in_place(name):
    plan = METHODS[name](**SMALL[name])
    if name == "causvid":
        plan = dataclasses.replace(plan, chunk=2, history=HISTORY)
    c = MODEL.config
    params, state, drive = step_shapes(MODEL, plan, GRID)
    memory = jit_step.lower(MODEL, plan, params, state, drive).compile().memory_analysis()
    held = dataclasses.replace(state, key=None)
    frames = sum(group.frames for group in (state.anchor, state.memory, state.ring)) + plan.span
    number = 4  # bytes
    segment = 2 * frames * TOKENS * c.dim * number
    scores = c.heads * plan.span * TOKENS * frames * TOKENS * number
    angles = frames * TOKENS * c.head_dim // 2 * number
    own = 2 * c.layers * plan.span * TOKENS * c.dim * number
    aging = 2 * c.layers * (plan.memory.frames + plan.chunk) * TOKENS * c.dim * number if plan.memory.frames else 0
    rows = 12 * plan.span * TOKENS * c.dim * number
    loops = 1 + (plan.first_timesteps is not None)  # XLA keeps the branch of block 0 apart
    bound = segment + loops * (2 * scores + 3 * angles + own + rows) + aging + nbytes(state.memory)
    ring, temp = nbytes(state.ring), memory.temp_size_in_bytes
    print(f"{name}: ring {ring}, one layer {segment}, state {nbytes(held)}, aliased {memory.alias_size_in_bytes},")
    print(f"  temp {temp} of at most {bound}: {temp / segment:.2f} of one layer's keys and values")
    assert memory.alias_size_in_bytes >= nbytes(held), "the whole state is updated in place"
    if ring:
        assert temp <= bound < ring / plan.caches, "a copy of one set would be noticed"
