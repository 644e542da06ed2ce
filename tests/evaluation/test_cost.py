"""Frame-passes counted from the running step."""

import dataclasses
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.evaluation.cost import frame_passes, step_shapes
from knotjax.flops import count
from knotjax.models.dit import DiT, DiTConfig
from knotjax.streaming import passes
from knotjax.streaming.methods import METHODS, knot_forcing
from knotjax.streaming.step import init_stream, jit_step, stream_step
from tests.helpers import GRID, TINY, UNDRIVEN, random_conditions, random_params, tiny


def measured(model, plan, step=stream_step):
    return frame_passes(model, partial(step, model, plan), *step_shapes(model, plan, GRID))


@pytest.mark.parametrize("step", [stream_step, jit_step])
def test_knot_forcing_sends_nineteen_frames_for_three(step):
    passed = measured(tiny(), knot_forcing(), step)
    assert passed.forwards == {4: 4, 3: 1}, "four denoising passes of 3 + 1 frames, one clean pass of 3"
    assert passed.per_latent == Fraction(19, 3)


@pytest.mark.parametrize(
    ("plan", "forwards", "per_latent"),
    [
        (dict(knot=0), {3: 5}, Fraction(5)),  # Self Forcing's count
        (dict(knot=0, steps=(1000,)), {3: 2}, Fraction(2)),
        (dict(chunk=4, knot=2, steps=(1000, 500, 250)), {6: 3, 4: 1}, Fraction(22, 4)),
        (dict(chunk=1, window=4, knot=0), {1: 5}, Fraction(5)),
    ],
)
def test_other_plans(plan, forwards, per_latent):
    passed = measured(tiny(**UNDRIVEN), knot_forcing(**plan))
    assert passed.forwards == forwards and passed.per_latent == per_latent


PER_LATENT = {
    "knot_forcing": Fraction(19, 3),
    "live_act": 3,
    "avatar_forcing": 5,
    "self_forcing": 5,
    "causvid": 4,
    "causal_forcing": 5,
    "causal_ode": 2,
    "rolling_forcing": 6,
    "longlive": 5,
    "live_avatar": 4,
    "bidirectional": 50,
    "knot_neighbor": Fraction(16, 3),
    "knot_convkv": Fraction(19, 3),
    "avatar_ahead": 5,
}


@pytest.mark.parametrize("name", METHODS)
def test_frame_passes_of_every_method(name):
    model, plan = tiny(**UNDRIVEN), METHODS[name]()
    passed = frame_passes(
        model, partial(stream_step, model, plan), *step_shapes(model, plan, GRID), branches="smallest"
    )
    print(name, passed.per_latent)
    assert passed.per_latent == PER_LATENT[name]


def test_the_first_chunk_of_a_few_step_method_gets_all_steps():
    assert measured(tiny(**UNDRIVEN), METHODS["causal_ode"]()).per_latent == 5


def test_convkv_adds_little():
    """LiveAct at 14B, 512 x 512, with and without the compression of its memory; the paper says 1.9 %."""
    config = DiTConfig(dim=5120, ffn_dim=13824, heads=40, layers=40, memory_ratio=5)
    plan = METHODS["live_act"]()
    model = DiT(config)
    shapes = step_shapes(model, plan, (64, 64), 512, jnp.bfloat16)
    whole = count(partial(stream_step, model, plan), *shapes).total
    memory = dataclasses.replace(plan.memory, frames=0)
    plain = dataclasses.replace(plan, memory=memory, history=plan.history + plan.memory.frames)
    without = count(partial(stream_step, model, plain), *step_shapes(model, plain, (64, 64), 512, jnp.bfloat16)).total
    print("ConvKV adds", whole / without - 1.0, "TFLOP per latent", whole / plan.chunk / 1e12)
    assert 0.0 < whole / without - 1.0 < 0.02


def test_a_forward_more_is_seen():
    """Encoding the reference again in every step, or only when a branch is taken, costs one frame more."""

    def again(model, plan, params, state, drive, sometimes):
        def encode():
            return passes.anchor_pass(model, params, state.reference, drive.text)[0][:, None]

        moved = jax.lax.cond(state.block[0] % 2 == 0, encode, lambda: state.anchor.k) if sometimes else encode()
        return stream_step(
            model, plan, params, dataclasses.replace(state, anchor=dataclasses.replace(state.anchor, k=moved)), drive
        )

    for sometimes in (False, True):
        passed = measured(tiny(), knot_forcing(), partial(again, sometimes=sometimes))
        assert passed.forwards == {4: 4, 3: 1, 1: 1} and passed.per_latent == Fraction(20, 3)


def test_other_products_of_the_same_shape_are_no_forwards():
    model, plan = tiny(), knot_forcing()
    params, state, drive = step_shapes(model, plan, GRID)
    weight = params["patch_embedding"]["kernel"]

    def with_product(params, state, drive):
        state, latents = stream_step(model, plan, params, state, drive)
        rows = jnp.ones((16, weight.shape[0])) @ params["patch_embedding"]["kernel"]
        return state, latents + jnp.sum(rows)

    assert frame_passes(model, with_product, params, state, drive).forwards == {4: 4, 3: 1}


def test_streams_in_a_batch_cost_the_same_per_stream():
    model, plan = tiny(), knot_forcing()
    params = random_params(model)
    reference = jnp.zeros((3, 1, *GRID, TINY.latent_channels))
    drive = random_conditions(model.config, np.random.default_rng(0), 3, plan.span)
    state = jax.eval_shape(
        partial(init_stream, model, plan), params, reference, drive.text, jax.random.split(jax.random.key(0), 3)
    )
    assert frame_passes(model, partial(stream_step, model, plan), params, state, drive).per_latent == Fraction(19, 3)


def test_another_model_is_not_found():
    model, plan = tiny(), knot_forcing()
    shapes = step_shapes(model, plan, GRID)
    with pytest.raises(ValueError, match="no forward of this DiT"):
        frame_passes(tiny(dim=36), partial(stream_step, model, plan), *shapes)


def test_frames_of_another_size_are_refused():
    model, plan = tiny(), knot_forcing()

    def cropped(*args):
        state, latents = stream_step(model, plan, *args)
        return state, jnp.pad(latents, ((0, 0), (0, 0), (0, 2), (0, 4), (0, 0)))

    with pytest.raises(ValueError, match="differ from the emitted"):
        frame_passes(model, cropped, *step_shapes(model, plan, GRID))


def test_a_step_of_the_1_3b_model_costs_48_teraflops_per_latent():
    """480 x 832, 512 text rows. By hand from widths: 8 frames of keys while denoising, 7 in the clean pass."""
    model, plan = DiT(DiTConfig()), knot_forcing()
    step, shapes = partial(stream_step, model, plan), step_shapes(model, plan, (60, 104), 512, jnp.bfloat16)
    assert frame_passes(model, step, *shapes).per_latent == Fraction(19, 3)
    tokens, d, ffn = 30 * 52, 1536, 8960
    linear, text = 2 * (6 * d * d + 2 * d * ffn), 4 * d * 512
    by_hand = sum(30 * frames * tokens * (linear + text + 4 * d * keys * tokens) for frames, keys in [(16, 8), (3, 7)])
    counted = count(step, *shapes).total / 3
    print("TFLOP per latent", counted / 1e12, "by hand", by_hand / 3e12)
    assert counted == pytest.approx(by_hand / 3, rel=0.02)
    assert counted == pytest.approx(48e12, rel=0.02)
