"""The streaming step against the plain oracle, for every published system and for the corners of the plan."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.streaming.methods import METHODS
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.step import jit_init, jit_step
from tests.helpers import GRID, normal, precision, random_conditions, random_params, relative, tiny
from tests.streaming.plain_oracle import Oracle, Turn

STEPS = 7  # and as many more as a window needs to fill


@dataclasses.dataclass(frozen=True)
class Case:
    """One system to compare."""

    plan: StreamPlan
    steps: int = STEPS
    grid: tuple[int, int] = GRID
    batch: int = 1
    end: int | None = None  # length of the video when it is known
    new_words_at: int | None = None  # step at which the text rows change
    model: tuple = ()

    @property
    def length(self) -> int:
        return self.steps + self.plan.blocks - 1


def small(
    name: str, case: dict | None = None, change: dict | None = None, anchor: dict | None = None, **numbers
) -> Case:
    """A method with small numbers: its own arguments, then fields of the plan and of its anchor that have none."""
    plan = METHODS[name](**numbers)
    plan = dataclasses.replace(plan, **(change or {}), anchor=dataclasses.replace(plan.anchor, **(anchor or {})))
    return Case(plan, **(case or {}))


TWO = dict(steps=(1000, 500))
ACT = dict(chunk=4, first=3, reference=1, memory=2, recent=1, steps=(1000, 500))
ROLL = dict(blocks=3, chunk=2, sink=2, history=2, steps=(1000, 600, 300))
CASES = {
    # Every method.
    "knot_forcing": small("knot_forcing", dict(new_words_at=3)),
    "live_act": small("live_act", **ACT),
    "avatar_forcing": small("avatar_forcing", blocks=3, chunk=2, history=1),
    "self_forcing": small("self_forcing", dict(new_words_at=4), history=5, **TWO),
    "causvid": small("causvid", change=dict(chunk=2, history=4)),
    "causal_forcing": small("causal_forcing", chunk=1, count=2, history=3),
    "causal_ode": small("causal_ode", chunk=2, history=4),
    "rolling_forcing": small("rolling_forcing", dict(new_words_at=4), **ROLL),
    "longlive": small("longlive", chunk=2, window=7, sink=2, **TWO),
    "live_avatar": small("live_avatar", chunk=2, window=5, lead=(2, 9), timesteps=(1000, 600, 9), anchor=dict(start=6)),
    "bidirectional": small("bidirectional", dict(model=(("prediction", "x0"),)), frames=4, count=3),
    "knot_neighbor": small("knot_neighbor", **TWO),
    "knot_convkv": small("knot_convkv", **TWO),
    "avatar_ahead": small("avatar_ahead", blocks=2, passes=2, chunk=2, history=3),
    # Public code's ways.
    "live_act_upstream": small("live_act", parity="upstream", **ACT),
    "avatar_forcing_upstream": small("avatar_forcing", blocks=2, passes=1, chunk=3, parity="upstream"),
    "rolling_forcing_upstream": small(
        "rolling_forcing", parity="upstream", change=dict(commit_history=5), anchor=dict(commit_absolute=8), **ROLL
    ),
    "longlive_without_history": small("longlive", chunk=2, window=4, sink=2, **TWO),
    "longlive_upstream": small("longlive", chunk=2, window=7, sink=2, parity="upstream", **TWO),
    "self_forcing_sink": small("self_forcing", chunk=2, history=4, sink=2, **TWO),
    # Corners.
    "odd_grid_two_streams": small(
        "knot_convkv", dict(grid=(2, 6), batch=2, model=(("motion_every", 2),)), chunk=2, window=3, start=5, **TWO
    ),
    "two_knots": small("knot_forcing", knot=2, window=5, start=0, stride=1, given_reference=True, **TWO),
    "act_odd_grid": small("live_act", dict(grid=(2, 6), batch=2), chunk=6, first=6, memory=3, parity="upstream", **TWO),
    "act_memory_fills_late": small("live_act", chunk=3, first=2, reference=1, memory=3, recent=4, **TWO),
    "avatar_one_block": small("avatar_forcing", blocks=1, passes=2, chunk=3, history=4),
    "no_history": small("self_forcing", history=0, chunk=2, **TWO),
    "longer_first_list": small(
        "causal_forcing",
        chunk=2,
        count=2,
        history=3,
        given_reference=True,
        change=dict(first_timesteps=(900.0, 700.0, 300.0)),
    ),
    "clean_pass_looks_farther": small("rolling_forcing", change=dict(commit_history=5), **ROLL),
    "drawn_for_a_clean_pass": small(
        "avatar_forcing", blocks=2, passes=2, chunk=2, anchor=dict(place="drawn", start=3, lead=(4, 9))
    ),
    "short_first_block_of_a_window": small("rolling_forcing", change=dict(first_chunk=2, chunk=3), **ROLL),
    "end_inside_a_block": small("knot_forcing", dict(end=19), **TWO),
    "end_inside_a_window": small("rolling_forcing", dict(steps=6, end=11, batch=2), **ROLL),
}


class Run:
    """Random inputs of one case, and oracles and streams for them."""

    def __init__(self, case: Case, dtype):
        rng = np.random.default_rng(7)
        self.case, self.plan = case, case.plan
        self.model = tiny(memory_ratio=case.plan.ratio, **dict(case.model))
        config = self.model.config
        self.params = random_params(self.model, 5, dtype)
        self.reference = normal(rng, (case.batch, 1, *case.grid, config.latent_channels), dtype)
        self.keys = jax.random.split(jax.random.key(11), case.batch)
        words = [normal(rng, (case.batch, 2, config.text_dim), dtype) for _ in range(2)]
        self.text = words[0]
        self.drive = []
        for n in range(case.length):
            text = words[case.new_words_at is not None and n >= case.new_words_at]
            self.drive.append(random_conditions(config, rng, case.batch, self.plan.span, dtype, text))

    def oracle(self, kind=Oracle, **changes):
        inputs = dict(params=self.params, reference=self.reference, text=self.text, keys=self.keys, end=self.case.end)
        return kind(self.model, self.plan, **inputs | changes, steps=self.case.length)

    def start(self):
        """A new stream of the engine; its state owns its arrays, since steps update them in place."""
        inputs = jax.tree.map(jnp.copy, (self.reference, self.text, self.keys))
        state = jit_init(self.model, self.plan, self.params, *inputs)
        if self.case.end is not None:
            state = dataclasses.replace(state, end=jnp.full(self.case.batch, self.case.end, jnp.int32))
        return state

    def step(self, state, drive):
        return jit_step(self.model, self.plan, self.params, state, drive)

    def emitted(self, oracle: Oracle, n: int, latents):
        """Those of a step's latents that are frames of the video."""
        return np.asarray(latents)[:, oracle.exists(oracle.first(n), self.plan.chunk)]


def altered(turn: Turn, frame: int, plan: StreamPlan) -> Turn:
    """A past step in which one frame of the oldest block was another, wherever it enters the context."""

    def other(x):
        x = np.array(x)
        x[:, frame] += 1.0
        return x

    if plan.commit == "clean":
        return dataclasses.replace(turn, clean=other(turn.clean))
    return dataclasses.replace(turn, inputs=[other(x) for x in turn.inputs])


def assert_sensitive(run: Run, turns: list[Turn]):
    """Everything that a step depends on moves its output by at least one per cent.

    The step is the last one, or the last one before frames beyond the end enter the window.
    """
    plan, oracle = run.plan, run.oracle()
    n = max(n for n in range(len(turns)) if oracle.first(n) + plan.span <= oracle.end)
    turns = turns[:n]
    drive, newest = run.drive[n], plan.chunk - 1
    moved = {}

    def emit(oracle, past, now):
        return run.emitted(oracle, n, oracle.step(list(past), now))

    plain = emit(oracle, turns, drive)

    def measure(name, oracle=None, past=turns, now=drive):
        moved[name] = relative(emit(oracle or run.oracle(), past, now), plain)

    def look(name, group, change):
        """What one group of the context holds is changed for the passes of this step alone."""

        class Altered(Oracle):
            def contexts(self, past, step, number, commit=False):
                groups = super().contexts(past, step, number, commit)
                return groups if step < n else groups | {group: change(groups[group])}

        measure(name, run.oracle(Altered))

    def silenced(conditions):
        return dataclasses.replace(conditions, audio=conditions.audio.at[:, newest, -1].multiply(-2.0))

    measure("noise key", run.oracle(keys=jax.random.split(jax.random.key(12), run.case.batch)))
    measure("sound row now", now=silenced(drive))
    groups = [name for name, there in (("history", plan.history), ("memory", plan.memory.frames)) if there]
    if plan.anchor.source != "none":
        groups.append("anchor")
    for group in groups:
        look(f"{group} unseen", group, lambda g: dataclasses.replace(g, valid=np.zeros_like(g.valid)))
        look(f"{group} moved", group, lambda g: dataclasses.replace(g, position=g.position - 1))
    if plan.history:
        measure("past frame", past=[*turns[:-1], altered(turns[-1], newest, plan)])
        before = dataclasses.replace(turns[-1], drive=silenced(turns[-1].drive))
        measure("sound row before", past=[*turns[:-1], before])
    if plan.anchor.source == "reference":
        measure("reference", run.oracle(reference=run.reference + 0.5))
    elif plan.anchor.source == "stream":
        first = plan.blocks - 1
        past = list(turns)
        past[first] = altered(past[first], -int(min(run.oracle().first(first), 0)), plan)
        measure("sink frame", past=past)
    if plan.blocks > 1:
        measure("window", past=[*turns[:-1], dataclasses.replace(turns[-1], window=turns[-1].window + 1.0)])
    if plan.knot.frames:
        measure("knot", past=[*turns[:-1], dataclasses.replace(turns[-1], next_knot=turns[-1].next_knot + 1.0)])
    if plan.memory.frames:

        def flip(path, leaf):
            return -leaf if path[-1].key == "memory_k" else leaf

        measure("memory kernels", run.oracle(params=jax.tree_util.tree_map_with_path(flip, run.params)))
    print("moves", {name: round(value, 3) for name, value in moved.items()})
    assert min(moved.values()) >= 0.01, moved


@pytest.mark.parametrize("name", CASES)
def test_free_run_in_float64(name):
    with precision("float64") as dtype:
        run = Run(CASES[name], dtype)
        assert all(np.all(np.asarray(leaf) != 0.0) for leaf in jax.tree.leaves(run.params))
        oracle, turns, expected = run.oracle(), [], []
        for drive in run.drive:
            expected.append(oracle.step(turns, drive))
        assert_sensitive(run, turns)
        errors, frames, state = [], 0, run.start()
        for n, latents in enumerate(expected):
            state, emitted = run.step(state, run.drive[n])
            assert emitted.dtype == dtype
            actual, latents = (run.emitted(oracle, n, a) for a in (emitted, latents))
            if latents.size:
                errors.append(relative(actual, latents))
                frames += latents.shape[1]
            k, after = run.plan.knot.frames, oracle.first(n) + run.plan.chunk
            if k and oracle.exists(after, k, beyond=k).all():
                errors.append(relative(state.knot, turns[n].next_knot))
        print(name, "float64, free run of", frames, "frames, largest relative error", max(errors))
        assert frames == min(oracle.end, oracle.first(run.case.length))
        assert max(errors) <= 1e-9


QUICK = {"knot_convkv", "rolling_forcing", "longlive"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_each_block_in_float32(name):
    with precision("float32") as dtype:
        run = Run(CASES[name], dtype)
        oracle, turns, errors, state = run.oracle(), [], [], run.start()
        frames = 0
        for n, drive in enumerate(run.drive):
            state, emitted = run.step(state, drive)
            actual, latents = (run.emitted(oracle, n, a) for a in (emitted, oracle.step(turns, drive)))
            if latents.size:
                errors.append(relative(actual, latents))
                frames += latents.shape[1]
            # The next step of the oracle starts from what the engine made, so errors do not add up.
            made = dict(clean=emitted, window=state.window, next_knot=state.knot)
            turns[n] = dataclasses.replace(turns[n], **{field: np.array(a) for field, a in made.items()})
        print(name, "float32, per block, largest relative error", max(errors))
        assert frames == min(oracle.end, oracle.first(run.case.length))
        assert max(errors) <= 1e-4


def at_phases(drive: list, n: int, late: int):
    """Drive of step n of the first stream and of step n - `late` of the second one."""
    other = drive[max(n - late, 0)]
    return jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), drive[n], other)


@pytest.mark.parametrize("name", ["knot_convkv", "rolling_forcing", "live_act"])
def test_streams_of_a_batch_at_different_phases(name):
    """The second stream starts anew while the first goes on, and has an end inside a block; each is as if alone."""
    late, case = 3, CASES[name]
    with precision("float64") as dtype:
        run = Run(dataclasses.replace(case, steps=case.steps + late, batch=2, new_words_at=None), dtype)
        one, two = slice(0, 1), slice(1, 2)
        oracles, ends = [], (None, run.oracle().first(case.length) - 1)
        for row, end in zip((one, two), ends):
            alone = dict(reference=run.reference[row], text=run.text[row], keys=run.keys[row], end=end)
            oracles.append(run.oracle(**alone))
        turns, errors, frames, state = ([], []), [], [0, 0], run.start()
        for n in range(run.case.length):
            if n == late:
                state = dataclasses.replace(
                    state,
                    block=state.block.at[1].set(0),
                    end=state.end.at[1].set(ends[1]),
                    knot=state.knot.at[1].set(0.0),
                    window=state.window.at[1].set(0.0),
                    memory_valid=state.memory_valid.at[1].set(False),
                )
            drive = at_phases(run.drive, n, late)
            state, emitted = run.step(state, drive)
            for row, oracle, past, step in zip((one, two), oracles, turns, (n, n - late)):
                if step < 0:
                    continue
                latents = oracle.step(past, jax.tree.map(lambda a, row=row: a[row], drive))
                actual, latents = (run.emitted(oracle, step, a) for a in (emitted[row], latents))
                if latents.size:
                    errors.append(relative(actual, latents))
                    frames[row.start] += latents.shape[1]
        print(name, "float64, two phases,", frames, "frames, largest relative error", max(errors))
        assert frames == [oracles[0].first(run.case.length), ends[1]]
        assert max(errors) <= 1e-9
