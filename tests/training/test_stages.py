"""Stages: what is due when, that a resume changes nothing, and the whole path on a tiny scale."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import avatar_forcing, causal_forcing, knot_forcing, live_act, longlive, rolling_forcing, self_forcing
from knotjax import bundle
from knotjax.data import clips
from knotjax.data.speech import load_fixture
from knotjax.errors import InputError
from knotjax.streaming import methods
from knotjax.training import corpus, distill, lora
from knotjax.training.dmd import Cast, DMDConfig
from knotjax.training.dmd_stage import Schedule, dmd_stage, finished, variants
from knotjax.training.objectives.ode import OdeConfig, draw_points, euler_times
from knotjax.training.rollout import Exit
from knotjax.training.stage import adamw, averaged, optimiser
from tests.helpers import GRID, UNDRIVEN, normal, random_params, relative, tiny

CONFIGS = (knot_forcing, live_act, avatar_forcing, self_forcing, rolling_forcing, causal_forcing, longlive)


def tiny_stage(rank=0, steps=(1000, 500)):
    """A DMD stage of tiny networks without drive but motion, and a batch."""
    model = tiny(**UNDRIVEN | dict(motion_tokens=1, motion_window=(1, 2)))
    plan = methods.self_forcing(chunk=1, history=1, steps=steps)
    schedule = Schedule(every=2, ema_start=1, rank=rank)
    student, teacher = ({"dit": random_params(model, seed)} for seed in (1, 2))
    rng = np.random.default_rng(0)
    batch = {
        "reference": normal(rng, (1, 1, *GRID, 3)),
        "motion": normal(rng, (1, 2, 1, 2)),
        "text": normal(rng, (1, 2, 6)),
        "blank_text": normal(rng, (1, 2, 6)),
    }
    optimisers = (adamw(rate=1e-3), adamw(rate=1e-3))
    stage = dmd_stage(Cast(model, plan, model, model), DMDConfig(), schedule, student, teacher, teacher, *optimisers)
    return stage, schedule, batch, student


def changed(old, new):
    """Whether any leaf differs."""
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new)))


@pytest.mark.parametrize("rank", [0, 2])
def test_generator_every_second_step_critic_always(rank):
    stage, schedule, batch, start = tiny_stage(rank, steps=(1000,))  # one exit: one program for each update
    state, trace = stage.init(), []
    for step in range(3):
        before = jax.tree.map(np.array, (state.student, state.critic, state.ema))
        state, scalars = stage(state, batch)
        assert all(np.isfinite(float(value)) for value in scalars.values())
        moved = [changed(a, b) for a, b in zip(before, (state.student, state.critic, state.ema))]
        trace.append((*moved, "generator" in scalars, "critic" in scalars))
        assert int(state.step) == step + 1
    assert trace == [(True, True, True, True, True), (False, True, False, False, True), (True, True, True, True, True)]
    assert int(state.generations) == 2
    shipped = finished(stage, schedule, state)
    assert jax.tree.structure(shipped) == jax.tree.structure(start) and changed(shipped, start)
    if rank:
        names = {"/".join(p.key for p in path) for path, _ in jax.tree_util.tree_leaves_with_path(shipped)}
        assert set(state.student.params) < names and len(state.student.params) == 6
        other = [name for name in names if name not in state.student.params]
        flat = {"/".join(p.key for p in path): a for path, a in jax.tree_util.tree_leaves_with_path(start)}
        after = {"/".join(p.key for p in path): a for path, a in jax.tree_util.tree_leaves_with_path(shipped)}
        assert all(np.array_equal(flat[name], after[name]) for name in other)


def test_choices_follow_from_seed_and_step():
    stage, *_ = tiny_stage()
    again, other = dataclasses.replace(stage), dataclasses.replace(stage, seed=1)

    def names(stage):
        return [[(update.name, variant[1]) for update, variant in stage.choose(step)] for step in range(40)]

    assert names(stage) == names(again) and names(stage) != names(other)
    drawn = [variant for step in names(stage) for _, variant in step]
    assert set(drawn) == {Exit(0), Exit(1)}
    assert [len(step) for step in names(stage)] == [2, 1] * 20


def test_rolling_plans_are_also_trained_with_one_block():
    plan = methods.avatar_forcing(blocks=2, passes=2)
    found, chances = variants(plan, 0.5)
    assert sum(chances) == pytest.approx(1.0) and len(found) == 4 + 4
    assert sum(chance for (p, _), chance in zip(found, chances) if p.blocks == 1) == pytest.approx(0.5)
    assert {exit for p, exit in found if p is plan} == {Exit(a, b) for a in range(2) for b in range(2)}
    alone, _ = variants(plan, 0.0)
    assert all(p is plan for p, _ in alone)


def test_average_begins_late():
    old, new = {"a": jnp.array(1.0)}, {"a": jnp.array(2.0)}
    assert float(averaged(old, new, 0.9, 3, 4)["a"]) == 2.0
    assert float(averaged(old, new, 0.9, 4, 4)["a"]) == pytest.approx(1.1)


def test_adamw_by_hand():
    """Two steps of Adam without momentum, with decay and clipping."""
    chosen = adamw(rate=0.1, clip=1.0)
    w, v, g = np.array([1.0, -2.0]), np.zeros(2), np.array([3.0, 4.0])
    state, params = chosen.init(jnp.array(w)), jnp.array(w)
    for step in (1, 2):
        change, state = chosen.update(jnp.array(g), state, params)
        params = params + change
        clipped = g / 5.0
        v = 0.999 * v + 0.001 * clipped**2
        w = w - 0.1 * (clipped / (np.sqrt(v / (1 - 0.999**step)) + 1e-8) + 0.01 * w)
        np.testing.assert_allclose(params, w, rtol=1e-5)


def test_only_named_parameters_are_trained():
    chosen = optimiser(dict(rate=0.1, only=("audio",)))
    params = {"audio": {"kernel": jnp.ones(2)}, "q": {"kernel": jnp.ones(2)}}
    change, _ = chosen.update(params, chosen.init(params), params)
    assert np.all(change["q"]["kernel"] == 0) and np.all(change["audio"]["kernel"] != 0)


def test_lora_adds_a_low_rank_product():
    rng, model = np.random.default_rng(0), tiny()
    params = {"dit": random_params(model, 1)}
    pairs = lora.init(params, 2, jax.random.key(0))
    assert not changed(params, lora.merge(params, pairs))
    pairs = jax.tree.map(lambda a: normal(rng, a.shape), pairs)
    merged = lora.merge(params, pairs, 0.5)
    q, pair = params["dit"]["blocks"]["block0"]["q"]["kernel"], pairs["dit/blocks/block0/q/kernel"]
    expected = np.stack([q[i] + 0.5 * np.asarray(pair["down"][i]) @ np.asarray(pair["up"][i]) for i in range(2)])
    assert relative(merged["dit"]["blocks"]["block0"]["q"]["kernel"], expected) < 1e-5
    assert np.array_equal(merged["dit"]["head"]["kernel"], params["dit"]["head"]["kernel"])


@pytest.mark.parametrize("module", CONFIGS, ids=lambda m: m.__name__.split(".")[-1])
def test_configs_make_plans_that_fit_their_clips(module):
    for size in ("", "debug", "small", "1.3b", "14b"):
        config = module.get_config(size)
        plan = methods.METHODS[config.method](**config.plan)
        for name in ("teacher", "causal", "dmd"):
            assert (config[name].frames + plan.missing) % plan.chunk == 0
        assert config.dmd.steps >= config.dmd.schedule.every
        Schedule(**config.dmd.schedule)
        distill.chosen(DMDConfig, config.dmd.objective)
        optimiser(config.dmd.generator), optimiser(config.teacher.optimiser)
        if "record" in config.stages:
            grid = euler_times(config.record.count, config.record.shift)
            times = [grid[i] for i in config.record.keep]
            assert draw_points(plan, OdeConfig(**config.causal.ode), times, jax.random.key(0), 3, 2).shape[:2] == (3, 2)
    with pytest.raises(ValueError, match="huge"):
        module.get_config("huge")


def test_sizes_without_a_codec_are_refused(tmp_path):
    with pytest.raises(InputError, match="Wan VAE"):
        distill.train(knot_forcing.get_config("1.3b"), tmp_path)


def test_trajectories_may_be_recorded_in_a_run_of_their_own(tmp_path, monkeypatch):
    saved, recorded = [], []

    class Run:
        def save(self, *arguments):
            saved.append(arguments)

    monkeypatch.setattr(distill, "prepare", lambda *arguments: Run())
    monkeypatch.setattr(distill, "record", lambda run, section: recorded.append(section.count))
    config = self_forcing.get_config("debug")
    config.stages = ("record",)
    distill.train(config, tmp_path)
    assert recorded == [config.record.count] and not saved


@pytest.fixture
def recorded_speech(monkeypatch):
    """Clips speak a bundled recording, so that no speech synthesis is needed."""

    def make_clip(seed, seconds):
        return clips.make_clip(seed, seconds, utterance=load_fixture("vowels"))

    monkeypatch.setattr(corpus, "make_clip", make_clip)


def whole_path(module, folder):
    config = module.get_config("debug")
    config.seconds = 4.0
    distill.train(config, folder)
    rows = {}
    for name in config.stages:
        if name != "record":
            rows[name] = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
            assert [row["step"] for row in rows[name]] == [1, 2]
            assert all(np.isfinite(value) for row in rows[name] for value in row.values())
    made = bundle.load(folder / "weights")
    assert made.method == config.method
    assert methods.METHODS[made.method](**made.plan) == methods.METHODS[config.method](**config.plan)
    distill.train(config, folder)  # everything is there: nothing is trained again
    for name, found in rows.items():
        assert len((folder / f"{name}.jsonl").read_text().splitlines()) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize("module", CONFIGS, ids=lambda m: m.__name__.split(".")[-1])
def test_whole_path(module, tmp_path, recorded_speech):
    whole_path(module, tmp_path)
