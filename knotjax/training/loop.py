"""One resumable training loop: optimiser, moving average, checkpoints that hold the data iterator too, metrics."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from tqdm.contrib.logging import logging_redirect_tqdm

from knotjax import flops, sharding
from knotjax.training import metrics
from knotjax.training.checkpoint import Checkpoints
from knotjax.training.preemption import Preemption

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
        scalars["gradient"] = optax.tree.norm(gradient)
        return sharding.constrain(TrainState(state.step + 1, params, ema, moments, state.key)), scalars

    return update


@dataclasses.dataclass(frozen=True)
class Running:
    """How a run is kept; the same for all its stages."""

    log_every: int  # steps
    save_every: int  # steps
    config: str = ""  # text of the configuration, of which checkpoints keep a digest
    fallback: bool = False  # go on from the checkpoint before the newest one when that is damaged
    mesh: jax.sharding.Mesh | None = None  # None: one device
    peak: float = 0.0  # operations per second of one device, for the utilisation; 0: that of the device, if known


def run(
    name: str,
    folder: Path,
    update: Callable,
    state: TrainState,
    data,
    running: Running,
    *,
    steps: int,
    tokens: int = 0,
    export: Callable[[TrainState], None] | None = None,
    strips: Callable[[TrainState], np.ndarray] | None = None,
) -> TrainState:
    """Train up to `steps`, from the newest checkpoint in `folder` if there is one.

    SIGTERM saves and ends the process with status 143.

    Args:
      name: of the stage; `folder/name.jsonl` gets one line of means every `log_every` steps, see `metrics.Writer`.
      update: (state, batch) -> (state, dict of scalars); `state` may be any dataclass of arrays with a `step`.
      state: the state before the first step, the same in every process.
      data: a grain iterator over this process's share of the batches, see `sharding.data_shard`.
      tokens: latent tokens of a step, for the log.
      export: called with the state after every save.
      strips: gives pictures uint8 [N, H, W, 3] to show for a state, after every save.

    Raises:
      InputError: the checkpoint is damaged or of another model.
    """
    mesh = running.mesh
    with contextlib.ExitStack() as stack:
        if mesh:
            stack.enter_context(jax.set_mesh(mesh))
        checkpoints = stack.enter_context(Checkpoints(folder / f"{name}_checkpoints", running.config))
        writer = stack.enter_context(contextlib.closing(metrics.Writer(folder, name)))
        preemption = stack.enter_context(Preemption())
        state = sharding.place(state)
        restored = checkpoints.restore(state, data, running.fallback)
        if restored is not None:
            state = restored
            log.info("%s: resumed at step %d", name, state.step)
        first, meter = int(state.step), None
        stack.enter_context(logging_redirect_tqdm())
        bar = stack.enter_context(metrics.bar(name, first, steps))
        for step in range(first + 1, steps + 1):
            batch = next(data)
            batch = sharding.global_batch(mesh, batch) if mesh else jax.tree.map(jnp.asarray, batch)
            if meter is None:
                meter = _meter(update, state, batch, tokens, running)
            state, scalars = update(state, batch)
            meter.add(scalars)
            bar.update()
            checkpoints.check()
            stopping = preemption.reached(step)
            if step % running.log_every == 0:
                row = meter.take()
                writer.write_scalars(step, row)
                left = f", {row['seconds'] * (steps - step) / 60.0:.0f} min left" if "seconds" in row else ""
                shown = ", ".join(f"{key} {value:.5g}" for key, value in row.items())
                log.info("%s: step %d, %s%s", name, step, shown, left)
            if stopping or step % running.save_every == 0 or step == steps:
                with meter.pause():
                    checkpoints.save(step, state, data)
                    if stopping:
                        checkpoints.wait()
                        log.info("%s: stopped at step %d; the same command goes on from there", name, step)
                        raise SystemExit(143)
                    if strips:
                        writer.write_images(step, {"strips": strips(state)})
                    if export:
                        export(state)
    return state


def _meter(update, state, batch, tokens: int, running: Running) -> metrics.Meter:
    """A meter that knows what a step costs; counting traces the step, so it is left out where no peak is known."""
    peak = (running.peak or metrics.peak_flops()) * (running.mesh.size if running.mesh else 1)
    try:
        cost = flops.count(update, state, batch).total if peak else 0
    except (ValueError, TypeError) as error:  # an update that chooses among programs cannot be traced
        log.info("no utilisation: %s", str(error).splitlines()[0])
        cost = 0
    return metrics.Meter(tokens, cost, peak)
