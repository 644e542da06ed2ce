"""What a training stage is: a state, and the compiled updates that change it.

A training loop needs nothing but `stage.init()`, `stage(state, batch)` and `state.step`:

    state = stage.init()
    for batch in data:
        state, scalars = stage(state, batch)

and saves the state as it is: everything that a resume needs is in it. What updates read but never change (a teacher,
the base under LoRA) lies in `constants`, is no part of a checkpoint, and is an argument of the compiled programs.

Which updates are due, and at which exit of a rollout, follows from the seed and the step alone, so all processes of a
run choose alike without talking, and a resumed run chooses as the uninterrupted one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from knotjax import sharding
from knotjax.training.loop import TrainState, init_state, make_optimiser


@dataclasses.dataclass(frozen=True)
class Update:
    """One kind of step of a stage."""

    name: str
    run: Callable  # (state, constants, batch, *variant) -> (state, scalars), compiled with the state donated
    every: int = 1  # due at steps 0, every, 2 every, ...
    variants: Sequence[tuple] = ((),)  # static arguments; one of them is drawn per step
    weights: Sequence[float] | None = None  # their chances; None: all alike


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a training path."""

    name: str  # of its log and checkpoints
    init: Callable[[], Any]  # the state before the first step; has `step` and `ema`
    updates: tuple[Update, ...]  # in the order in which they run; the last one is due at every step and counts it
    constants: Any = None
    seed: int = 0

    def choose(self, step: int) -> list[tuple[Update, tuple]]:
        """The updates that are due at a step, with their variant."""
        chosen = []
        for number, update in enumerate(self.updates):
            if step % update.every == 0:
                rng = np.random.default_rng([self.seed, step, number])
                at = rng.choice(len(update.variants), p=update.weights)
                chosen.append((update, update.variants[at]))
        return chosen

    def __call__(self, state, batch):
        """All updates of one step: the next state, and their scalars together."""
        scalars = {}
        for update, variant in self.choose(int(state.step)):
            state, found = update.run(state, self.constants, batch, *variant)
            scalars |= found
        return state, scalars


def adamw(*, rate: float, b1: float = 0.0, b2: float = 0.999, decay: float = 0.01, clip: float = 10.0, warmup: int = 0):
    """AdamW with clipping of the global norm; the defaults are Self Forcing's."""
    schedule = optax.linear_schedule(0.0, rate, warmup) if warmup else rate
    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(schedule, b1=b1, b2=b2, weight_decay=decay))


def optimiser(numbers):
    """The optimiser that a config describes: with `muon` that of `loop.make_optimiser`, else `adamw`.

    `only` names parameters (parts of their paths) that are trained; all others stay as they are.
    """
    numbers = dict(numbers)
    only = tuple(numbers.pop("only", ()))
    if "muon" in numbers:
        chosen = make_optimiser(**numbers)
    else:
        numbers.pop("steps", None)
        chosen = adamw(**numbers)
    if not only:
        return chosen

    def labels(params):
        def one(path, _):
            return "train" if any(part.key in only for part in path) else "keep"

        return jax.tree_util.tree_map_with_path(one, params)

    return optax.multi_transform({"train": chosen, "keep": optax.set_to_zero()}, labels)


def averaged(ema, params, decay: float, step, start: int = 0):
    """The moving average after one more step; a copy of the parameters before `start`."""
    keep = jnp.where(step >= start, decay, 0.0)
    return jax.tree.map(lambda old, new: (keep * old + (1.0 - keep) * new).astype(old.dtype), ema, params)


def plain_stage(name: str, loss: Callable, params, optimise, *, decay: float, seed: int = 0, constants=None) -> Stage:
    """A stage with one learner and one update.

    Args:
      loss: (params, ema, constants, batch, key) -> (value, dict of scalars).
      params: to start from.
      optimise: an optax optimiser.
      decay: of the moving average; it grows towards it over the first steps, so that early averages are of use.
    """

    @partial(jax.jit, donate_argnums=0)
    def run(state: TrainState, constants, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        gradient, scalars = jax.grad(loss, has_aux=True)(state.params, state.ema, constants, batch, key)
        change, moments = optimise.update(gradient, state.moments, state.params)
        params = optax.apply_updates(state.params, change)
        keep = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        scalars["gradient"] = optax.global_norm(gradient)
        ema = averaged(state.ema, params, keep, state.step)
        return sharding.constrain(TrainState(state.step + 1, params, ema, moments, state.key)), scalars

    def init():
        return init_state(jax.tree.map(jnp.copy, params), optimise, seed)

    return Stage(name, init, (Update(name, run),), constants, seed)
