"""One resumable training loop: optimiser, moving average, checkpoints that hold the data iterator too, metrics."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import optax
import optax.contrib
import orbax.checkpoint as ocp

log = logging.getLogger("knotjax")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a resume needs, besides the data iterator."""

    step: jax.Array  # int32 []
    params: dict
    ema: dict
    moments: optax.OptState
    key: jax.Array  # random key data, uint32


def init_state(params, optimiser, seed: int) -> TrainState:
    """The state before the first step."""
    key = jax.random.key_data(jax.random.key(seed))
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimiser.init(params), key)


OUTER = ("patch_embedding", "head", "given_gate")  # matrices between pixels or latents and the model: left to Adam


def muon_dimensions(params):
    """Which parameters Muon updates, and their rows and columns: matrices, and stacks of them in scanned layers."""

    def one(path, leaf):
        names = [part.key for part in path]
        if names[-1] != "kernel" or leaf.ndim > 3 or any(name in OUTER for name in names):
            return None
        return optax.contrib.MuonDimensionNumbers((leaf.ndim - 2,), (leaf.ndim - 1,))

    return jax.tree_util.tree_map_with_path(one, params)


def make_optimiser(*, steps: int, rate: float, warmup: int, cooldown: float, b2: float, muon: float = 0.0):
    """Adam with warm-up, a flat stretch and a linear cool-down over the last share `cooldown` of the steps.

    With a rate for `muon`, matrices inside the model are updated by Muon (orthogonalised momentum) instead.
    """
    down = int(steps * cooldown)

    def schedule(peak):
        parts = [
            optax.linear_schedule(0.0, peak, warmup),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.0, down),
        ]
        return optax.join_schedules(parts, [warmup, steps - down])

    if muon:
        chosen = optax.contrib.muon(
            schedule(muon),
            consistent_rms=0.2,
            adam_b2=b2,
            adam_learning_rate=schedule(rate),
            muon_weight_dimension_numbers=muon_dimensions,
        )
    else:
        chosen = optax.adam(schedule(rate), b1=0.9, b2=b2)
    return optax.chain(optax.clip_by_global_norm(1.0), chosen)


def make_update(loss: Callable, optimiser, decay: float):
    """One compiled training step, with the state updated in place.

    Args:
      loss: (params, batch, key) -> (value, dict of scalars).
      decay: of the moving average of the parameters.
    """

    @partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (_, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        change, moments = optimiser.update(gradient, state.moments, state.params)
        params = optax.apply_updates(state.params, change)
        # The average starts as a plain mean, so that early exports are not the initial weights.
        keep = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, state.ema, params)
        scalars["gradient"] = optax.global_norm(gradient)
        return TrainState(state.step + 1, params, ema, moments, state.key), scalars

    return update


def run(
    name: str,
    folder: Path,
    update: Callable,
    state: TrainState,
    data,
    *,
    steps: int,
    log_every: int,
    save_every: int,
    export: Callable[[TrainState], None] | None = None,
) -> TrainState:
    """Train up to `steps`, from the newest checkpoint in `folder` if there is one.

    Args:
      name: for the log and for `folder/name.jsonl`, one line of means every `log_every` steps.
      data: a grain iterator.
      export: called with the state after every save.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    checkpoints = (folder / f"{name}_checkpoints").absolute()
    with ocp.CheckpointManager(checkpoints, options=options) as manager, (folder / f"{name}.jsonl").open("a") as rows:
        if manager.latest_step() is not None:
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.eval_shape(lambda: state)),
                data=grain.checkpoint.CheckpointRestore(data),
            )
            restored = manager.restore(manager.latest_step(), args=args)
            state, data = restored["state"], restored["data"]
            log.info("%s: resumed at step %d", name, state.step)
        began, first, sums = time.time(), int(state.step), {}
        for step in range(first + 1, steps + 1):
            state, scalars = update(state, jax.tree.map(jnp.asarray, next(data)))
            for key, value in scalars.items():
                sums[key] = sums.get(key, 0.0) + value / log_every
            if step % log_every == 0:
                pace = (time.time() - began) / (step - first)
                row = {"step": step, "seconds": round(pace, 4)} | {k: round(float(v), 5) for k, v in sums.items()}
                sums = {}
                print(json.dumps(row), file=rows, flush=True)
                log.info("%s: %s, %.0f min left", name, row, pace * (steps - step) / 60.0)
            if step % save_every == 0 or step == steps:
                save = ocp.args.StandardSave(state)
                args = ocp.args.Composite(state=save, data=grain.checkpoint.CheckpointSave(data))
                manager.save(step, args=args)
                if export:
                    export(state)
    return state
