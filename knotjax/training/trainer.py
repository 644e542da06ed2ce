"""The training command: corpus, codec, DiT, the decoder once more, export; each stage resumes where it stopped.

python -m knotjax train --config=configs/small.py --workdir=out/small
"""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from absl import logging as absl_logging
from jax.experimental import multihost_utils
from ml_collections import config_flags

from knotjax import bundle, sharding
from knotjax.data.records import Records
from knotjax.drive import TEXT_SLOTS, WORDS
from knotjax.errors import InputError
from knotjax.models.dit import DiT, DiTConfig, undriven
from knotjax.models.patch_codec import CodecConfig, PatchCodec
from knotjax.models.text import WordTable
from knotjax.progress import show_log
from knotjax.streaming.methods import METHODS
from knotjax.training import codec_fit, corpus, loop, samples
from knotjax.training.grow import grow
from knotjax.training.objectives import FlowConfig, stream_flow
from knotjax.training.polish import generate, polish
from knotjax.weights import flatten, load_weights, save_weights, unflatten

log = logging.getLogger("knotjax")


def alone_first(work):
    """Do `work`, which writes shared files that are kept when they exist, in the first process before the others."""
    if jax.process_count() == 1:
        return work()
    if jax.process_index() == 0:
        work()
    multihost_utils.sync_global_devices("written")
    return work()


def save_codec(folder: Path, params, config: dict) -> None:
    """Write codec parameters in float32."""
    arrays = {name: np.asarray(array, np.float32) for name, array in flatten(params).items()}
    save_weights(folder, arrays, config, "codec")


def share(mesh, batch: int) -> dict:
    """What `corpus.batches` needs to load this process's part of batches of `batch` samples."""
    index, count = sharding.data_shard(mesh) if mesh else (0, 1)
    if batch % count:
        raise InputError(f"batch {batch} does not divide over {count} processes: change it")
    return dict(batch=batch // count, shard=(index, count))


def running(config, fallback: bool = False) -> loop.Running:
    """How all stages of a config are run. Fields that a config may leave out: `mesh` (see `sharding.make_mesh`; all
    devices share the batch) and `peak_flops`, operations per second of one device (that of the device, if known).
    """
    mesh = sharding.make_mesh(**config.get("mesh", {}))
    text = config.to_json_best_effort(indent=2)
    peak = config.get("peak_flops", 0.0)
    return loop.Running(config.log_every, config.save_every, text, fallback, mesh if mesh.size > 1 else None, peak)


def rendered(config, folder: Path) -> list[Path]:
    """Clips of the corpus, rendered into `folder` where they are missing; none when the config names records.

    Raises:
      InputError: the config names records but not the model whose codec made them.
    """
    if not config.records:
        return alone_first(lambda: corpus.render(folder, config.clips, config.seconds))
    if not config.start:
        raise InputError("config.records holds latents of a codec: set config.start to the model that has it")
    return []


def encoded(config, paths: list[Path], codec, codec_params):
    """Clips as training arrays, by number: the rendered ones, or the config's records.

    Raises:
      InputError: the records are not whole, or hold latents of another codec.
    """
    if not config.records:
        return corpus.encode(paths, codec, codec_params)
    found = Records(config.records)
    if found.made_by != corpus.codec_sum(codec_params):
        cure = f"record them again with --weights {config.start}"
        raise InputError(
            f"config.records {config.records!r}: latents of another codec than that of config.start: {cure}"
        )
    return found


def trained_codec(config, workdir: Path, paths: list[Path], start: bundle.Bundle | None, kept: loop.Running):
    """The codec of this workdir; when it is not there yet, that of the model to start from, or else a new one."""
    codec = PatchCodec(CodecConfig(**config.codec.model))
    folder = workdir / "codec"
    there = (folder / "manifest.json").exists()
    if start and not there and jax.process_index() == 0:
        save_codec(folder, start.params["codec"], {"start": str(config.start)})
    if not start and not there:
        c = config.codec
        draws = (corpus.Pairs().sample(path, np.random.default_rng(i)) for i, path in enumerate(paths * c.pairs))
        pairs = np.stack([draw["pictures"] for draw in draws])
        shape = dict(moving=c.moving, attention=c.attention, whitening=c.whitening)
        linear = codec_fit.fit_basis(codec.config, pairs, **shape)
        optimiser = loop.make_optimiser(**c.optimiser)
        update = loop.make_update(codec_fit.synthesis_loss(codec, linear, c.noise, c.mouth), optimiser, c.ema)
        state = loop.init_state(codec.init_synthesis(jax.random.key(config.seed)), optimiser, config.seed)
        data = corpus.batches(paths, corpus.Pairs(), seed=config.seed, **share(kept.mesh, c.batch))
        state = loop.run("codec", workdir, update, state, data, kept, steps=c.optimiser.steps)
        params = {**linear, "synthesis": sharding.gather(state.ema)}
        if jax.process_index() == 0:
            quality = codec_fit.reconstruction_psnr(codec, params, pairs[:200])
            log.info("codec: %.2f dB", quality)
            save_codec(folder, params, {"db": quality})
    alone_first(lambda: None)
    return codec, jax.tree.map(jnp.asarray, unflatten(load_weights(folder)[0]))


def channel_weight(codec_params, floor: float):
    """How much the errors of each latent channel count, [z]: as in pixels, with `floor` for those that show little."""
    energy = jnp.square(codec_params["scale"])
    return floor + (1.0 - floor) * energy / jnp.mean(energy)


def starting_point(config) -> bundle.Bundle | None:
    """The model that `config.start` names, grown to the config's sizes when it is smaller.

    Raises:
      InputError: it cannot be grown to them.
    """
    if not config.start:
        return None
    start, sizes = bundle.load(config.start), DiTConfig(**config.dit)
    if start.codec != CodecConfig(**config.codec.model):
        raise InputError(f"{config.start}: its codec has other sizes than the config's; change one of them")
    start = dataclasses.replace(start, dit=dataclasses.replace(start.dit, remat=sizes.remat))
    if start.dit == sizes:
        return start
    try:
        grown = grow(start.dit, sizes, start.params["dit"], seed=config.seed)
    except ValueError as error:
        raise InputError(f"{config.start}: has other sizes than the config: {error}") from error
    return dataclasses.replace(start, dit=sizes, params=start.params | {"dit": grown})


def initial_params(model: DiT, grid: int, key):
    """Random parameters of the DiT and the word table."""
    one, two = jax.random.split(key)
    c = model.config
    latents = jnp.zeros((1, 1, grid, grid, c.latent_channels))
    flat = jnp.zeros((1, 1))
    text = jnp.zeros((1, TEXT_SLOTS, c.text_dim))
    dit = jax.jit(model.init)(one, latents, latents, flat, flat, flat.astype(jnp.int32), undriven(c, text, 1))["params"]
    words = WordTable(len(WORDS), c.text_dim).init(two, jnp.zeros((1, TEXT_SLOTS), jnp.int32))["params"]
    return {"dit": dit, "words": words}


def train(config, workdir: Path, fallback: bool = False) -> None:
    """Run or resume all stages; the result is `workdir/weights`.

    Args:
      fallback: go on from the checkpoint before the newest one when that is damaged.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    kept = running(config, fallback)
    if jax.process_index() == 0:
        (workdir / "config.json").write_text(kept.config)
    start, paths = starting_point(config), rendered(config, workdir / "corpus")
    codec, codec_params = trained_codec(config, workdir, paths, start, kept)
    clips = encoded(config, paths, codec, codec_params)

    sizes = DiTConfig(**config.dit)
    model = DiT(sizes)
    plan = METHODS[config.method](**config.plan)
    flow = FlowConfig(**config.flow)
    latents = config.chunks * plan.chunk + plan.knot.frames
    windows = corpus.Windows(latents, config.drop)
    data = corpus.batches(clips, windows, seed=config.seed, **share(kept.mesh, config.batch))
    tokens = config.batch * latents * (codec.config.grid // sizes.patch) ** 2
    params = initial_params(model, codec.config.grid, jax.random.key(config.seed))
    if start:
        params = {name: start.params[name] for name in params}
    log.info("DiT: %d parameters", sum(array.size for array in jax.tree.leaves(params)))

    weight = channel_weight(codec_params, config.channel_floor)

    def text_of(params, batch):
        return WordTable(len(WORDS), sizes.text_dim).apply({"params": params["words"]}, batch["words"])

    def loss(params, batch, key):
        text = text_of(params, batch)
        return stream_flow(model, plan, flow, params["dit"], batch, text, key, weight)

    def export(state: loop.TrainState):
        average = {**sharding.gather(state.ema), "codec": codec_params}
        if jax.process_index() == 0:
            shipped = bundle.Bundle(sizes, codec.config, config.method, dict(config.plan.items()), average)
            shipped.save(workdir / "weights")

    shown = next(corpus.batches(clips, windows, batch=1, seed=config.seed + 2))

    def strips(state: loop.TrainState):
        average = sharding.gather(state.ema)
        return samples.strips(model, plan, codec, codec_params, average["dit"], text_of(average, shown), shown)

    optimiser = loop.make_optimiser(**config.optimiser)
    update = loop.make_update(loss, optimiser, config.ema)
    state = loop.init_state(params, optimiser, config.seed + 1)
    sides = dict(export=export, strips=strips if config.get("strips", True) else None)
    state = loop.run("dit", workdir, update, state, data, kept, steps=config.optimiser.steps, tokens=tokens, **sides)
    if paths := paths[: config.polish.clips]:
        average = sharding.gather(state.ema)

        def stream(batch, seed):
            return samples.stream(model, plan, average["dit"], text_of(average, batch), batch, seed)

        inputs = (workdir / "streams", paths, clips, config.drop, config.polish.streams, stream)
        pairs = list(zip(paths, alone_first(lambda: generate(*inputs))))
        codec_params = polish(config.polish, workdir, codec, codec_params, pairs, kept, config.seed + 3)
    export(state)


def main(argv: list[str]) -> None:
    """Entry of `knotjax train`; `argv` holds the arguments after the command's name."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "configuration file", lock_config=True, flag_values=values)
    workdir = flags.DEFINE_string("workdir", None, "folder for everything the run writes", flag_values=values)
    fallback = flags.DEFINE_bool(
        "fallback", False, "go back one checkpoint when the newest is damaged", flag_values=values
    )
    distributed = flags.DEFINE_bool(
        "distributed",
        False,
        "one of many processes (Cloud TPU, Slurm, Kubernetes): find the others",
        flag_values=values,
    )
    flags.mark_flags_as_required([config, workdir], flag_values=values)
    values(["knotjax train", *argv])
    if not flags.FLAGS.is_parsed():  # grain reads absl's flags
        flags.FLAGS.mark_as_parsed()
    absl_logging.set_verbosity(absl_logging.WARNING)  # the checkpoint library tells a page per save
    show_log()
    if distributed.value:
        jax.distributed.initialize()
    if "stages" in config.value:
        from knotjax.training import distill  # which builds on this module

        distill.train(config.value, Path(workdir.value), fallback.value)
    else:
        train(config.value, Path(workdir.value), fallback.value)
