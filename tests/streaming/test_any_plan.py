"""What holds for every plan that validation admits, whatever its fields."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from knotjax.evaluation.cost import step_shapes
from knotjax.streaming import anchor, cache
from knotjax.streaming.levels import levels
from knotjax.streaming.plan import AnchorPolicy, KnotPolicy, MemoryPolicy, StreamPlan
from knotjax.streaming.state import ring_valid
from knotjax.streaming.step import stream_step
from tests.helpers import GRID, UNDRIVEN, tiny

QUICK = [HealthCheck.too_slow, HealthCheck.filter_too_much]


@st.composite
def plans(draw, **wanted):
    """Plans in which every field varies; `wanted` fixes fields of the anchor. What validation refuses is left out."""

    def number(low, high):
        return draw(st.integers(low, high))

    chunk, blocks = number(1, 9), draw(st.sampled_from((1, 1, 1, 2, 3, 5)))
    count = blocks * number(1, 3)
    commit = draw(st.sampled_from(("clean", "clean", "same_step", "none"))) if blocks == 1 else "clean"
    span = blocks * chunk + (knot := number(0, chunk - 1) if blocks == 1 else 0)
    low = span + number(0, 4)
    fields = dict(
        source=draw(st.sampled_from(("reference", "stream", "none"))),
        place=draw(st.sampled_from(("ahead", "drawn", "behind", "absolute"))),
        start=number(0, 20),
        stride=number(1, 9),
        lead=(low, low + number(1, 30)),
        commit_absolute=draw(st.sampled_from((0, 0, 7))),
    )
    fields |= wanted
    plain = blocks == 1 and commit == "clean"
    try:
        return StreamPlan(
            chunk=chunk,
            first_chunk=draw(st.none() | st.integers(1, chunk)),
            blocks=blocks,
            timesteps=tuple(1000.0 - 60.0 * i for i in range(count)),
            first_timesteps=tuple(990.0 - 55.0 * i for i in range(count + number(0, 2)))
            if plain and draw(st.booleans())
            else None,
            sampler=draw(st.sampled_from(("renoise", "euler"))) if blocks == 1 else "renoise",
            history=0 if commit == "none" else number(0, 20),
            commit=commit,
            commit_history=draw(st.none() | st.integers(0, 20)) if commit == "clean" else None,
            knot=KnotPolicy(knot, draw(st.floats(0.0, 1.0))),
            anchor=AnchorPolicy(**fields, frames=number(1, chunk) if fields["source"] == "stream" else 1),
            memory=MemoryPolicy(
                draw(st.sampled_from([0] + [m for m in range(1, chunk + 1) if chunk % m == 0])) if blocks == 1 else 0,
                draw(st.sampled_from(("time", "token"))),
                draw(st.booleans()),
            ),
            given_reference=draw(st.booleans()),
            recache=commit == "clean" and draw(st.booleans()),
        )
    except ValueError:
        assume(False)


@settings(max_examples=200, deadline=None, suppress_health_check=QUICK)
@given(plans(), st.integers(1, 70))
def test_every_frame_is_emitted_once_and_in_order(plan, frames):
    emitted = [frame for step in range(plan.steps(frames)) for frame in plan.emitted(step)]
    assert emitted[:frames] == list(range(frames)) and len(emitted) < frames + plan.chunk
    for step in range(plan.steps(frames)):
        out = plan.emitted(step)
        assert len(out) == 0 or out.stop == plan.first_frame(step) + plan.chunk, "what exists is the end of the block"


@settings(max_examples=100, deadline=None, suppress_health_check=QUICK)
@given(plans())
def test_every_frame_passes_through_all_levels(plan):
    """Frame by frame the passes of consecutive steps join: each starts where the one before ended, down to clean."""
    rows = levels(plan, first=False)
    c, older = plan.chunk, (plan.blocks - 1) * plan.chunk
    newest = slice(older, older + c)
    np.testing.assert_array_equal(rows.now[1:], rows.after[:-1])
    assert np.all(rows.now[0, newest] == plan.timesteps[0]) and np.all(rows.after[-1, :c] == 0.0)
    np.testing.assert_array_equal(rows.now[0, :older], rows.after[-1, c : older + c])
    assert np.all(rows.now > rows.after) and rows.number.tolist() == list(range(1, plan.passes + 1))


@settings(max_examples=100, deadline=None, suppress_health_check=QUICK)
@given(plans(source="reference", place="ahead"), st.integers(0, 40))
def test_the_reference_stands_ahead_of_all_denoised_frames(plan, step):
    """Strictly, for every n0, s, c, k and L, in any window, while it fills and after."""
    first = plan.first_frame(np.arange(step, step + 8, dtype=np.int32))
    at = np.asarray(anchor.positions(plan, jnp.asarray(first), jnp.zeros(8, jnp.int32)))[:, 0]
    assert np.all(at >= plan.span)
    n = first + at
    assert np.all((n - plan.anchor.start) % plan.anchor.stride == 0) and np.all(np.diff(n) >= 0)
    assert np.all((at - plan.anchor.stride < plan.span) | (n == plan.anchor.start)), "no farther than it must"


@settings(max_examples=20, deadline=None, suppress_health_check=QUICK)
@given(plans(source="reference", place="drawn"), st.integers(0, 40))
def test_a_drawn_reference_stands_ahead_too(plan, step):
    first = plan.first_frame(np.arange(step, step + 8, dtype=np.int32))
    keys = jax.random.split(jax.random.key(step), 8)
    at = np.asarray(anchor.positions(plan, jnp.asarray(first), jnp.zeros(8, jnp.int32), keys))[:, 0]
    low, high = plan.anchor.lead
    assert np.all(at >= plan.span) and np.all((at < high) | (first + at == plan.anchor.start)) and np.all(at >= low)


@settings(max_examples=30, deadline=None, suppress_health_check=QUICK)
@given(plans(), st.integers(0, 4), st.integers(0, 30), st.none() | st.integers(1, 60))
def test_the_ring_shows_the_newest_frames_at_every_wrap(plan, late, restart, end):
    """Two streams of a batch, the second one `late` steps behind, begun anew at a step, or with an end.

    Slots are followed in a list: which frame was written to each.
    """
    assume(plan.ring_budget and plan.commit != "none")
    slots, unit = cache.capacity(plan.ring_budget, plan.ring_unit), plan.ring_unit
    assert slots % unit == 0 and plan.ring_budget <= slots < plan.ring_budget + unit, "rounded up to the write unit"
    end = 2**30 if end is None else end
    since = max(0, plan.first_frame(min(restart, 12)))
    held = [[None] * slots for _ in range(2)]
    wraps = 3 * slots // unit + 2
    for n in range(min(wraps, 24)):
        steps, at = (n, n - late), n * unit % slots
        if n in (0, 1, 2) or n % max(1, slots // unit) < 2:  # around every wrap
            state = SimpleNamespace(
                ring=SimpleNamespace(frames=slots),
                written=jnp.int32(n * unit),
                block=jnp.asarray(steps),
                since=jnp.asarray([0, since]),
                end=jnp.asarray([end, end]),
            )
            ages = np.asarray(cache.ages(slots, state.written))
            for budget in {plan.history, plan.ring_budget}:
                shown = np.asarray(ring_valid(plan, state, budget))
                for stream, (step, begun) in enumerate(zip(steps, (0, since))):
                    first = plan.first_frame(step)
                    seen = [(held[stream][slot], first + ages[slot]) for slot in np.flatnonzero(shown[stream])]
                    assert all(frame == position for frame, position in seen), "every key stands where its frame does"
                    expected = range(max(first - budget, begun + plan.sink), min(first, end))
                    assert sorted(frame for frame, _ in seen) == list(expected)
        for stream, step in enumerate(steps):
            newest = plan.first_frame(step) + plan.chunk
            held[stream][at : at + unit] = range(newest - unit, newest)


@settings(max_examples=3, deadline=None, suppress_health_check=QUICK)
@given(plans())
def test_a_step_of_any_plan_keeps_the_shapes_of_its_state(plan):
    model = tiny(layers=1, memory_ratio=plan.ratio, **UNDRIVEN)
    params, state, drive = step_shapes(model, plan, GRID)
    after, emitted = jax.eval_shape(lambda *a: stream_step(model, plan, *a), params, state, drive)
    assert emitted.shape == (1, plan.chunk, *GRID, model.config.latent_channels)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after)
    assert jax.tree.all(same) and jax.tree.structure(state) == jax.tree.structure(after)
