"""The streaming step against the plain oracle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.streaming.plan import AnchorPolicy, KnotPolicy, StreamPlan
from knotjax.streaming.step import jit_init, jit_step
from tests.helpers import GRID, UNDRIVEN, normal, precision, random_conditions, random_params, relative, tiny
from tests.streaming.knot_oracle import History, Oracle, Setup

BLOCKS = 7
LENGTH = 21  # frames that the oracle has room for
SENSITIVE_BLOCK = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """One system to compare."""

    c: int = 3
    k: int = 1
    L: int = 6
    n0: int = 8
    s: int = 4
    t: tuple[float, ...] = (1000.0, 937.5, 625.0)
    weight: float = 0.5
    given_reference: bool = False
    grid: tuple[int, int] = GRID
    batch: int = 1
    new_words_at: int | None = None  # block at which the text rows change
    model: tuple = ()

    @property
    def plan(self) -> StreamPlan:
        return StreamPlan(
            chunk=self.c,
            history=self.L - self.c,
            timesteps=self.t,
            knot=KnotPolicy(self.k, self.weight),
            anchor=AnchorPolicy(start=self.n0, stride=self.s),
            given_reference=self.given_reference,
        )

    @property
    def setup(self) -> Setup:
        return Setup(self.c, self.k, self.L, self.n0, self.s, self.t, self.weight, self.given_reference)


CASES = {
    "paper": Case(t=(1000.0, 937.5, 2500.0 / 3.0, 625.0)),
    "no_knot": Case(k=0, t=(1000.0, 500.0)),
    "two_knots": Case(k=2, n0=0, s=1, weight=0.25, t=(900.0, 400.0)),
    "empty_ring": Case(L=3, t=(1000.0, 600.0)),
    "part_filled_unit": Case(L=8, n0=0, s=1, t=(1000.0, 700.0)),
    "one_frame": Case(c=1, k=0, L=4, n0=3, s=5, t=(1000.0, 700.0), new_words_at=3),
    "clean_estimate": Case(
        given_reference=True,
        grid=(6, 10),
        t=(1000.0, 700.0),
        model=(("prediction", "x0"), ("given_residual", True), ("motion_every", 2)),
    ),
    "undriven": Case(batch=2, t=(1000.0, 500.0), given_reference=True, model=tuple(UNDRIVEN.items())),
}


class Run:
    """Random inputs of one case and an oracle for them."""

    def __init__(self, case: Case, dtype):
        rng = np.random.default_rng(7)
        self.case = case
        self.plan = case.plan
        self.model = tiny(**dict(case.model))
        config = self.model.config
        self.params = random_params(self.model, 5, dtype)
        self.reference = normal(rng, (case.batch, 1, *case.grid, config.latent_channels), dtype)
        self.keys = jax.random.split(jax.random.key(11), case.batch)
        words = [normal(rng, (case.batch, 2, config.text_dim), dtype) for _ in range(2)]
        self.text = words[0]
        self.drive = []
        for b in range(BLOCKS):
            text = words[case.new_words_at is not None and b >= case.new_words_at]
            self.drive.append(random_conditions(config, rng, case.batch, case.c + case.k, dtype, text))

    def oracle(self, *, reference=None, keys=None, n0=None):
        setup = self.case.setup if n0 is None else dataclasses.replace(self.case.setup, n0=n0)
        reference = self.reference if reference is None else reference
        keys = self.keys if keys is None else keys
        return Oracle(self.model, self.params, setup, reference, self.text, keys, LENGTH)

    def start(self):
        """A new stream of the engine; its state owns its arrays, since steps update them in place."""
        inputs = jax.tree.map(jnp.copy, (self.reference, self.text, self.keys))
        return jit_init(self.model, self.plan, self.params, *inputs)


def assert_sensitive(run: Run):
    """Everything that a block depends on moves the output of a later block by at least one per cent."""
    history = History()
    for b in range(SENSITIVE_BLOCK):
        run.oracle().block(history, run.drive[b])
    drive = run.drive[SENSITIVE_BLOCK]
    plain = run.oracle().block(history.copy(), drive)
    moved = {}

    def measure(name, oracle=None, past=history, now=drive):
        moved[name] = relative((oracle or run.oracle()).block(past.copy(), now), plain)

    def driven(name, field, row, blocks):
        """One row changed: in the block itself, or in earlier blocks, whence it arrives through the ring alone."""

        def changed(conditions):
            rows = getattr(conditions, field)
            return dataclasses.replace(conditions, **{field: rows.at[:, row].multiply(-1.0)})

        measure(f"{name} now", now=changed(drive))
        if run.plan.history:
            past = history.copy()
            past.drive[blocks] = [changed(conditions) for conditions in past.drive[blocks]]
            measure(f"{name} before", past=past)

    if run.plan.history:
        past = history.copy()
        past.frames[-1] = past.frames[-1] + 1.0
        measure("past frame", past=past)
    if run.case.k:
        past = history.copy()
        past.knots[-1] = past.knots[-1] + 1.0
        measure("knot", past=past)
    measure("reference", run.oracle(reference=run.reference + 0.5))
    measure("reference position", run.oracle(n0=run.oracle().reference_position(SENSITIVE_BLOCK) + 2))
    measure("noise key", run.oracle(keys=jax.random.split(jax.random.key(12), run.case.batch)))
    driven("text row", "text", 0, slice(None))  # a word stays for the whole stream
    if run.model.config.audio_tokens:
        newest = run.case.c - 1
        driven("sound row", "audio", newest, slice(-1, None))
        driven("motion row", "motion", newest, slice(-1, None))
    print("moves", {name: round(value, 4) for name, value in moved.items()})
    assert min(moved.values()) >= 0.01, moved


@pytest.mark.parametrize("name", CASES)
def test_free_run_in_float64(name):
    with precision("float64") as dtype:
        run = Run(CASES[name], dtype)
        assert all(np.all(np.asarray(leaf) != 0.0) for leaf in jax.tree.leaves(run.params))
        assert_sensitive(run)
        oracle, history, state = run.oracle(), History(), run.start()
        errors = []
        for drive in run.drive:
            state, emitted = jit_step(run.model, run.plan, run.params, state, drive)
            assert emitted.dtype == dtype
            errors.append(relative(emitted, oracle.block(history, drive)))
            if run.case.k:
                errors.append(relative(state.knot, history.knots[-1]))
        print(name, "float64, free run, largest relative error", max(errors))
        assert max(errors) <= 1e-9


def test_each_block_in_float32():
    name = "paper"
    with precision("float32") as dtype:
        run = Run(CASES[name], dtype)
        oracle, history, state = run.oracle(), History(), run.start()
        errors = []
        for drive in run.drive:
            state, emitted = jit_step(run.model, run.plan, run.params, state, drive)
            errors.append(relative(emitted, oracle.block(history, drive)))
            # The next block of the oracle starts from what the engine made, so errors do not add up.
            history.frames[-run.case.c :] = [emitted[:, f] for f in range(run.case.c)]
            history.knots[-1] = jnp.copy(state.knot)
        print(name, "float32, per block, largest relative error", max(errors))
        assert max(errors) <= 1e-4
