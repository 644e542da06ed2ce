"""Contexts, their IoU and contributions, against answers found by hand and against the running ring and attention."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from knotjax.evaluation import attention_context as ac
from knotjax.models.attention import attend
from knotjax.streaming import cache
from knotjax.streaming.methods import METHODS, knot_forcing
from knotjax.streaming.state import ENDLESS, init_stream, ring_valid
from tests.helpers import GRID, UNDRIVEN, random_params, tiny

R = ac.REFERENCE


def test_contexts_of_knot_forcing():
    """c = 3, k = 1, L = 6: four frames are denoised, three of the past are seen."""
    rows = ac.visible(knot_forcing(), 2)
    first, second = [R, 0, 1, 2, 3], [R, 0, 1, 2, 3, 4, 5, 6]
    expected = [(0, first), (1, first), (2, first), (3, first), (3, second), (4, second), (5, second)]
    assert [(frame, keys.tolist()) for frame, keys in rows] == expected
    assert [keys.tolist() for keys in ac.emitted_context(rows)] == [first] * 3 + [second] * 3
    third = [R, *range(3, 10)]
    merged = ac.emitted_context(ac.visible(knot_forcing(), 3))
    assert [keys.tolist() for keys in merged[5:8]] == [second, [R, *range(10)], third]


@pytest.mark.parametrize("sizes", [(3, 6, 1), (3, 8, 1), (4, 4, 2), (1, 3, 0), (2, 7, 0)])
def test_contexts_equal_those_of_the_ring(sizes):
    chunk, window, knot = sizes
    plan = knot_forcing(chunk=chunk, window=window, knot=knot)
    for block in range(6):
        denoised, keys = ac.block_context(plan, block)
        assert denoised.tolist() == [block * chunk + j for j in range(chunk + knot)]
        assert keys.tolist() == [R, *ring_frames(plan, block), *denoised]


def ring_frames(plan, block):
    """Frames that a stream's ring shows to a step, in order."""
    model, reference = tiny(**UNDRIVEN), jnp.zeros((1, 1, *GRID, 3))
    text, keys = jnp.zeros((1, 2, model.config.text_dim)), jax.random.split(jax.random.key(0), 1)
    shapes = jax.eval_shape(partial(init_stream, model, plan), random_params(model), reference, text, keys)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), dataclasses.replace(shapes, key=text))
    written = jnp.int32(block * plan.ring_unit)
    state = dataclasses.replace(state, written=written, block=state.block + block, end=state.end + ENDLESS)
    held = np.asarray(ring_valid(plan, state, plan.history))[0]
    return sorted(plan.first_frame(block) + np.asarray(cache.ages(state.ring.frames, written))[held])


@pytest.mark.parametrize("name", METHODS)
def test_contexts_of_every_method_equal_those_of_the_ring(name):
    plan = METHODS[name]()
    for block in range(0, 12, 1 if plan.chunk < 20 else 6):
        denoised, keys = ac.block_context(plan, block)
        others = {R} | set(denoised.tolist())
        if plan.anchor.source == "stream":
            others |= set(range(plan.anchor.frames))
        assert [key for key in keys.tolist() if key not in others] == ring_frames(plan, block)
    assert len(ac.emitted_context(ac.visible(plan, 12))) == sum(len(plan.emitted(step)) for step in range(12))


def test_iou_by_hand():
    np.testing.assert_allclose(ac.context_iou([[R, 0, 1], [R, 1, 2], [R, 1, 2], [7]]), [2 / 4, 1, 0])
    np.testing.assert_allclose(ac.context_iou([[0, 0, 1], np.array([1, 0])]), [1])
    np.testing.assert_allclose(ac.weighted_iou([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]), [0.5 / 1.5])


def test_the_knot_halves_the_fall_of_the_iou():
    """Frames 5 | 6 join blocks 1 and 2. Without a knot they share 4 of 10 keys, with it 5 of 11; the knot frame itself
    has seen 11, of which either neighbour knows 8."""
    plain = ac.context_iou(ac.emitted_context(ac.visible(knot_forcing(knot=0), 4)))
    mask = ac.context_iou(dict(ac.visible(knot_forcing(), 4)).values())
    knotted = ac.context_iou(ac.emitted_context(ac.visible(knot_forcing(), 4)))
    np.testing.assert_allclose(plain, [1, 1, 4 / 7, 1, 1, 4 / 10, 1, 1, 4 / 10, 1, 1])
    np.testing.assert_allclose(mask, [1, 1, 5 / 8, 1, 1, 5 / 11, 1, 1, 5 / 11, 1, 1])
    np.testing.assert_allclose(knotted, [1, 1, 5 / 8, 1, 1, 8 / 11, 8 / 11, 1, 8 / 11, 8 / 11, 1])


@pytest.mark.parametrize("sets", [[], [[0]], [[0], []]])
def test_iou_refuses_contexts_without_neighbours_or_keys(sets):
    with pytest.raises(ValueError, match=r"at least 2|empty"):
        ac.context_iou(sets)
    with pytest.raises(ValueError, match="negative"):
        ac.weighted_iou([[1.0, -1.0], [1.0, 0.0]])


def test_contribution_by_hand():
    """One query, weights 1/2, 1/4, 1/4, values 0, 4, 8 in three frames: output 3; without them 6, 8/3, 4/3."""
    scores = ac.contribution([[0.5, 0.25, 0.25]], [[0.0], [4.0], [8.0]], [-2, -1, 0])
    assert list(scores) == [-2, -1, 0]
    np.testing.assert_allclose(list(scores.values()), [1.0, 1 / 9, 5 / 9])
    assert ac.contribution([[1.0, 0.0]], [[2.0], [9.0]], [0, 1]) == {0: 1.0, 1: 0.0}


def test_contribution_equals_attention_without_the_frame():
    rng = np.random.default_rng(0)
    heads, queries, keys, width = 2, 3, 8, 5
    q, k, v = (rng.standard_normal((1, n, heads, width)).astype(np.float32) for n in (queries, keys, keys))
    frames = np.array([R, R, 0, 0, 1, 1, 1, 2])
    scores = np.einsum("qnd,knd->nqk", q[0], k[0]) / np.sqrt(width)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    actual = ac.contribution(weights, v[0].transpose(1, 0, 2), frames)
    whole = np.asarray(attend(q, k, v))
    for frame in (R, 0, 1, 2):
        left = np.asarray(attend(q, k, v, jnp.asarray(frames != frame)[None]))
        expected = np.linalg.norm(left - whole) / np.linalg.norm(whole)
        print(frame, actual[frame], expected)
        assert expected > 0.05 and actual[frame] == pytest.approx(expected, rel=1e-4)


def test_contribution_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match=r"\[1, 2\], \[3, 1\], \[2\]"):
        ac.contribution(np.ones((1, 2)), np.ones((3, 1)), np.arange(2))
    with pytest.raises(ValueError, match="zero"):
        ac.contribution(np.ones((1, 2)) / 2, np.zeros((2, 1)), np.arange(2))


def test_plot(tmp_path):
    blocks = {"knot": ac.context_iou(ac.emitted_context(ac.visible(knot_forcing(), 5)))}
    blocks["no knot"] = ac.context_iou(ac.emitted_context(ac.visible(knot_forcing(knot=0), 5)))
    sheets = {}
    for name, series in {"both": blocks, "one": {"knot": blocks["knot"]}}.items():
        path = tmp_path / f"{name}.png"
        ac.plot_context_iou(path, series)
        sheets[name] = np.asarray(Image.open(path).convert("RGB"))
    assert sheets["both"].shape[0] > sheets["one"].shape[0], "a row for every method"
    assert np.std(sheets["one"]) > 5
    with pytest.raises(ValueError, match="at least 2"):
        ac.plot_context_iou(tmp_path / "none.png", {"knot": np.zeros(0)})
    with pytest.raises(ValueError, match="at least one"):
        ac.plot_contributions(tmp_path / "none.png", {"knot": {}})
    assert not (tmp_path / "none.png").exists()
    ac.plot_contributions(tmp_path / "bars.png", {"knot": {"portrait": 0.2, "itself": 0.7}})
    assert np.std(np.asarray(Image.open(tmp_path / "bars.png").convert("L"))) > 5
