"""The training command: codec, corpus, DiT, export; each stage resumes where it stopped.

python -m knotjax train --config=configs/small.py --workdir=out/small
"""

import dataclasses
import json
import logging
import time
from functools import partial
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from knotjax import bundle
from knotjax.drive import TEXT_SLOTS, WORDS
from knotjax.errors import InputError
from knotjax.models.dit import DiT, DiTConfig, undriven
from knotjax.models.patch_codec import CodecConfig, PatchCodec
from knotjax.models.text import WordTable
from knotjax.streaming.methods import METHODS
from knotjax.training import codec_fit, corpus
from knotjax.training.objectives import FlowConfig, stream_flow
from knotjax.weights import flatten, load_weights, save_weights, unflatten

log = logging.getLogger("knotjax")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a resume needs, besides the data iterator."""

    step: jax.Array  # int32 []
    params: dict  # {"dit": ..., "words": ...}
    ema: dict
    moments: optax.OptState
    key: jax.Array  # random key data, uint32


def trained_codec(config, workdir: Path, start: bundle.Bundle | None):
    """The codec of this workdir; when it is not there yet, that of the model to start from, or else a new one."""
    sizes = CodecConfig(**config.codec.model)
    codec = PatchCodec(sizes)
    folder = workdir / "codec"
    if start and not (folder / "manifest.json").exists():
        arrays = {name: np.asarray(array) for name, array in flatten(start.params["codec"]).items()}
        save_weights(folder, arrays, {"start": str(config.start)}, "codec")
    if not (folder / "manifest.json").exists():
        c = config.codec
        groups = codec_fit.sample_groups(c.clips, c.seconds, c.pairs)
        linear = codec_fit.fit_basis(sizes, groups, moving=c.moving, attention=c.attention, whitening=c.whitening)
        params = codec_fit.fit_synthesis(
            sizes, linear, groups, steps=c.steps, batch=c.batch, rate=c.rate, seed=config.seed
        )
        linear_db, whole_db = codec_fit.reconstruction_psnr(codec, params, groups[:: max(1, len(groups) // 64)])
        log.info("codec: %.2f dB linear, %.2f dB with the convolutional decoder", linear_db, whole_db)
        arrays = {name: np.asarray(array, np.float32) for name, array in flatten(params).items()}
        save_weights(folder, arrays, {"linear_db": linear_db, "whole_db": whole_db}, "codec")
    return codec, jax.tree.map(jnp.asarray, unflatten(load_weights(folder)[0]))


def starting_point(config) -> bundle.Bundle | None:
    """The model that `config.start` names, when it fits.

    Raises:
      InputError: its sizes are not those of the config.
    """
    if not config.start:
        return None
    start = bundle.load(config.start)
    if start.dit != DiTConfig(**config.dit) or start.codec != CodecConfig(**config.codec.model):
        raise InputError(f"{config.start}: has other sizes than the config; change one of them")
    return start


def initial_params(model: DiT, grid: int, key):
    """Random parameters of the DiT and the word table."""
    one, two = jax.random.split(key)
    c = model.config
    latents = jnp.zeros((1, 1, grid, grid, c.latent_channels))
    flat = jnp.zeros((1, 1))
    text = jnp.zeros((1, TEXT_SLOTS, c.text_dim))
    dit = model.init(one, latents, latents, flat, flat, flat.astype(jnp.int32), undriven(c, text, 1))["params"]
    words = WordTable(len(WORDS), c.text_dim).init(two, jnp.zeros((1, TEXT_SLOTS), jnp.int32))["params"]
    return {"dit": dit, "words": words}


def make_optimiser(config):
    """Adam with warm-up, a flat stretch and a linear cool-down."""
    down = int(config.steps * config.cooldown)
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.rate, config.warmup),
            optax.constant_schedule(config.rate),
            optax.linear_schedule(config.rate, 0.0, down),
        ],
        [config.warmup, config.steps - down],
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b1=0.9, b2=0.98))


def make_update(model: DiT, plan, flow: FlowConfig, optimiser, decay: float):
    """One compiled step of `stream_flow`, with the state updated in place."""

    def loss(params, batch, key):
        table = WordTable(len(WORDS), model.config.text_dim)
        text = table.apply({"params": params["words"]}, batch["words"])
        return stream_flow(model, plan, flow, params["dit"], batch, text, key)

    @partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (_, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        change, moments = optimiser.update(gradient, state.moments)
        params = optax.apply_updates(state.params, change)
        # The average starts as a plain mean, so that early exports are not the initial weights.
        keep = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, state.ema, params)
        scalars["gradient"] = optax.global_norm(gradient)
        return TrainState(state.step + 1, params, ema, moments, state.key), scalars

    return update


def train(config, workdir: Path) -> None:
    """Run or resume all stages; the result is `workdir/weights`."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2))
    start = starting_point(config)
    codec, codec_params = trained_codec(config, workdir, start)
    clips = corpus.build(workdir / "corpus", codec, codec_params, config.clips, config.seconds)

    sizes = DiTConfig(**config.dit)
    model = DiT(sizes)
    plan = METHODS[config.method](**config.plan)
    latents = config.chunks * plan.chunk + plan.knot.frames
    data = corpus.batches(clips, latents, config.drop, config.batch, config.seed)
    params = initial_params(model, codec.config.grid, jax.random.key(config.seed))
    if start:
        params = {name: start.params[name] for name in params}
    log.info("DiT: %d parameters", sum(array.size for array in jax.tree.leaves(params)))
    optimiser = make_optimiser(config)
    key = jax.random.key_data(jax.random.key(config.seed + 1))
    state = TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimiser.init(params), key)
    update = make_update(model, plan, FlowConfig(**config.flow), optimiser, config.ema)

    def export():
        average = {**state.ema, "codec": codec_params}
        shipped = bundle.Bundle(sizes, codec.config, config.method, dict(config.plan.items()), average)
        shipped.save(workdir / "weights")

    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    with ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options) as manager:
        if manager.latest_step() is not None:
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.eval_shape(lambda: state)),
                data=grain.checkpoint.CheckpointRestore(data),
            )
            restored = manager.restore(manager.latest_step(), args=args)
            state, data = restored["state"], restored["data"]
            log.info("resumed at step %d", state.step)
        metrics = (workdir / "metrics.jsonl").open("a")
        began, first, sums = time.time(), int(state.step), {}
        for step in range(first + 1, config.steps + 1):
            state, scalars = update(state, jax.tree.map(jnp.asarray, next(data)))
            for name, value in scalars.items():
                sums[name] = sums.get(name, 0.0) + value / config.log_every
            if step % config.log_every == 0:
                pace = (time.time() - began) / (step - first)
                row = {"step": step, "seconds": round(pace, 4)} | {k: round(float(v), 5) for k, v in sums.items()}
                sums = {}
                print(json.dumps(row), file=metrics, flush=True)
                log.info("%s, %.0f min left", row, pace * (config.steps - step) / 60.0)
            if step % config.save_every == 0 or step == config.steps:
                args = ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(data)
                )
                manager.save(step, args=args)
                export()
        metrics.close()
    export()


def main(argv: list[str]) -> None:
    """Entry of `knotjax train`; `argv` holds the arguments after the command's name."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "configuration file", lock_config=True, flag_values=values)
    workdir = flags.DEFINE_string("workdir", None, "folder for everything the run writes", flag_values=values)
    flags.mark_flags_as_required([config, workdir], flag_values=values)
    values(["knotjax train", *argv])
    if not flags.FLAGS.is_parsed():  # grain reads absl's flags
        flags.FLAGS.mark_as_parsed()
    absl_logging.set_verbosity(absl_logging.WARNING)  # the checkpoint library tells a page per save
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    train(config.value, Path(workdir.value))
