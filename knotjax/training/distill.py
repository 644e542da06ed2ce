"""The papers' training path, from a bidirectional teacher to a streaming student, stage by stage.

python -m knotjax train --config=configs/knot_forcing.py:small --workdir=out/knot

`config.stages` lists the stages; each has its own section of the config, its own log and checkpoints, and resumes where
it stopped. What a stage leaves behind (`workdir/<stage>/weights`, a model folder as `knotjax animate` reads it) is what
the next ones start from, in the same run or, when `config.stages` names only them, in a later one:

  teacher: masked-inpainting fine-tune of the bidirectional model.
  causal: causal initialisation, by the objective that its section names.
  record: teacher trajectories for the objective "ode".
  dmd: distribution matching on the student's rollouts; teacher and critic start from the stage `teacher`.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import bundle, sharding
from knotjax.errors import InputError
from knotjax.models.dit import DiT, DiTConfig
from knotjax.streaming.methods import METHODS
from knotjax.training import corpus, loop, trainer, trajectories
from knotjax.training.clip import Guidance, text_rows
from knotjax.training.dmd import Cast, DMDConfig
from knotjax.training.dmd_stage import Schedule, dmd_stage, finished
from knotjax.training.objectives import FlowConfig, stream_flow
from knotjax.training.objectives.forced import (
    ForcedConfig,
    diffusion_forcing,
    forced_flow,
    neighbor_forcing,
    teacher_forcing,
)
from knotjax.training.objectives.inpainting import InpaintingConfig, inpainting_flow
from knotjax.training.objectives.ode import (
    ConsistencyConfig,
    OdeConfig,
    causal_consistency,
    ode_regression,
    ode_trajectory,
)
from knotjax.training.stage import Stage, optimiser, plain_stage

log = logging.getLogger("knotjax")

FORCED = {
    "teacher_forcing": teacher_forcing,
    "diffusion_forcing": diffusion_forcing,
    "neighbor_forcing": neighbor_forcing,
    "forced_flow": forced_flow,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of a run share."""

    config: object
    workdir: Path
    model: DiT
    plan: object
    codec: object
    codec_params: dict
    start: dict  # {"dit": ..., "words": ...}
    clips: Sequence[dict]  # training arrays, see `corpus.encode_clip`
    running: loop.Running

    @property
    def numbers(self) -> dict:
        return dict(self.config.plan.items())

    def params(self, *stages: str):
        """Weights of the first of these stages that has left some in the workdir; without one, the run's start.

        Spread over the mesh that is set.
        """
        for stage in stages:
            if self.folder(stage).exists():
                left = bundle.load(self.folder(stage)).params
                return sharding.place({name: left[name] for name in self.start})
        return self.start

    def folder(self, stage: str) -> Path:
        return self.workdir / stage / "weights"

    def save(self, stage: str, params, dtype=np.float32) -> None:
        """Write a model folder; without a stage, the run's result."""
        whole = {**sharding.gather(params), "codec": self.codec_params}
        made = bundle.Bundle(self.model.config, self.codec.config, self.config.method, self.numbers, whole)
        if jax.process_index() == 0:
            made.save(self.folder(stage), dtype)

    def data(self, section, knot: int = 0):
        """Batches of clips of `section.frames` latent frames and `knot` more."""
        windows = corpus.Windows(section.frames + knot, self.config.drop)
        return corpus.batches(self.clips, windows, seed=self.config.seed, **self.share(section.batch))

    def share(self, batch: int) -> dict:
        """This process's part of the batches, see `trainer.share`."""
        return trainer.share(self.running.mesh, batch)


def chosen(kind, numbers):
    """A dataclass of settings from a section of the config."""
    numbers = dict(numbers)
    if "guidance" in numbers:
        guidance = dict(numbers["guidance"])
        if guidance.get("branches"):
            guidance["branches"] = tuple(guidance["branches"])
        numbers["guidance"] = Guidance(**guidance)
    return kind(**numbers)


def completed(params, fresh):
    """`params`, with what they lack of `fresh` (the weights of a memory, where the start has none)."""
    if not isinstance(fresh, Mapping):
        return params
    return {name: completed(params[name], fresh[name]) if name in params else fresh[name] for name in fresh}


def prepare(config, workdir: Path, fallback: bool) -> Run:
    """Corpus, codec and the parameters to start from; see `train`.

    Raises:
      InputError: the config asks for what this command cannot make.
    """
    if config.get("codec") is None and not config.start:
        raise InputError("config.codec: this size trains on latents of the Wan VAE, which this command cannot make yet")
    workdir.mkdir(parents=True, exist_ok=True)
    running = trainer.running(config, fallback)
    if jax.process_index() == 0:
        (workdir / "config.json").write_text(running.config)
    start = bundle.load(config.start) if config.start else None
    paths = trainer.rendered(config, Path(config.corpus) if config.corpus else workdir / "corpus")
    plan = METHODS[config.method](**config.plan)
    if start:
        codec, codec_params, sizes = start.pixels, start.params["codec"], start.dit
    else:
        codec, codec_params = trainer.trained_codec(config, workdir, paths, None, running)
        sizes = DiTConfig(**config.dit)
    model = DiT(dataclasses.replace(sizes, memory_ratio=plan.ratio))
    params = trainer.initial_params(model, codec.config.grid, jax.random.key(config.seed))
    if start:
        params = completed(start.params, params)
    log.info("DiT: %d parameters", sum(array.size for array in jax.tree.leaves(params["dit"])))
    clips = trainer.encoded(config, paths, codec, codec_params)
    return Run(config, workdir, model, plan, codec, codec_params, params, clips, running)


def teacher_stage(run: Run, section) -> tuple[Stage, object]:
    """Masked-inpainting fine-tune."""
    settings = chosen(InpaintingConfig, section.objective)
    weight = trainer.channel_weight(run.codec_params, section.channel_floor)

    def loss(params, ema, constants, batch, key):
        return inpainting_flow(run.model, run.plan, settings, params, batch, key, weight)

    stage = plain_stage(
        "teacher", loss, run.start, optimiser(section.optimiser), decay=section.ema, seed=run.config.seed
    )
    return stage, run.data(section)


def causal_stage(run: Run, section) -> tuple[Stage, object]:
    """Causal initialisation."""
    name = section.kind
    model, plan, constants = run.model, run.plan, None
    data = run.data(section, plan.knot.frames)
    if name == "stream_flow":
        settings = FlowConfig(**section.stream_flow)
        weight = trainer.channel_weight(run.codec_params, section.channel_floor)

        def loss(params, ema, constants, batch, key):
            text, _ = text_rows(model, params, batch)
            return stream_flow(model, plan, settings, params["dit"], batch, text, key, weight)

    elif name in FORCED:
        settings = ForcedConfig(**section.forced)

        def loss(params, ema, constants, batch, key):
            return FORCED[name](model, plan, settings, params, batch, key)

    elif name == "consistency":
        settings, constants = chosen(ConsistencyConfig, section.consistency), run.params("teacher")

        def loss(params, ema, constants, batch, key):
            return causal_consistency(model, plan, settings, params, ema, constants, batch, key)

    elif name == "ode":
        settings, times = OdeConfig(**section.ode), recorded_times(run)
        data = trajectories.batches(recordings(run), seed=run.config.seed, **run.share(section.batch))

        def loss(params, ema, constants, batch, key):
            return ode_regression(model, plan, settings, times, params, batch, key)

    else:
        known = ", ".join(("stream_flow", *FORCED, "consistency", "ode"))
        raise InputError(f"config.causal.kind {name!r}: unknown; use one of {known}")
    start = run.params("teacher") if section.from_teacher else run.start
    stage = plain_stage(
        "causal",
        loss,
        start,
        optimiser(section.optimiser),
        decay=section.ema,
        seed=run.config.seed,
        constants=constants,
    )
    return stage, data


def distillation_stage(run: Run, section) -> tuple[Stage, object, Schedule]:
    """Distribution matching."""
    cast = Cast(run.model, run.plan, run.model, run.model)
    settings, schedule = chosen(DMDConfig, section.objective), Schedule(**section.schedule)
    teacher = run.params("teacher")
    stage = dmd_stage(
        cast, settings, schedule, run.params("causal"), teacher, teacher,
        optimiser(section.generator), optimiser(section.critic), seed=run.config.seed,
    )  # fmt: skip
    return stage, run.data(section, run.plan.knot.frames), schedule


def recordings(run: Run) -> list[Path]:
    """The files of recorded trajectories.

    Raises:
      InputError: there are none.
    """
    found = sorted((run.workdir / "record").glob("*.array_record"))
    if not found:
        raise InputError(f"{run.workdir / 'record'}: no trajectories; put 'record' before 'causal' in config.stages")
    return found


def recorded_times(run: Run) -> tuple[float, ...]:
    """Diffusion times of the recorded points."""
    first = next(trajectories.batches(recordings(run)[:1], 1, 0))
    return tuple(float(t) for t in first["times"][0])


def record(run: Run, section) -> None:
    """Write teacher trajectories, `section.batch` to a file; files that exist are kept. Processes take turns."""
    k, teacher = run.plan.knot.frames, run.params("teacher")
    guidance = Guidance(**section.guidance)

    @jax.jit
    def solve(params, batch, key):
        return ode_trajectory(
            run.model, run.plan, params, batch, key,
            count=section.count, keep=tuple(section.keep), shift=section.shift, guidance=guidance,
        )  # fmt: skip

    windows = corpus.Windows(section.frames + k, run.config.drop)
    data = corpus.batches(run.clips, windows, section.batch, run.config.seed)  # whole batches, in every process
    for number in range(-(-section.samples // section.batch)):
        batch = next(data)
        path = run.workdir / "record" / f"{number:05d}.array_record"
        if path.exists() or number % jax.process_count() != jax.process_index():
            continue
        states, times = solve(teacher, jax.tree.map(jnp.asarray, batch), jax.random.key(number))
        rows = {name: batch[name] for name in ("reference", "audio", "motion", "words")}
        rows["trajectory"] = np.asarray(states, np.float16)
        samples = ({name: rows[name][i] for name in rows} for i in range(section.batch))
        times = np.asarray(times, np.float32)
        trajectories.write(path, (sample | {"times": times} for sample in samples))
        log.info("record: %d of %d trajectories", (number + 1) * section.batch, section.samples)


def train(config, workdir: Path, fallback: bool = False) -> None:
    """Run or resume all stages of a config; the last one's weights are also `workdir/weights`.

    Args:
      fallback: go on from the checkpoint before the newest one when that is damaged.
    """
    run, shipped = prepare(config, workdir, fallback), None
    for name in config.stages:
        if name == "record":
            record(run, config.record)
            trainer.alone_first(lambda: None)
        else:
            shipped = train_stage(run, name, config[name])
    if shipped is not None:
        run.save("", shipped, np.float16)


def train_stage(run: Run, name: str, section):
    """Run or resume one stage; returns the parameters that it leaves behind."""
    mesh = run.running.mesh
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        run = dataclasses.replace(run, start=sharding.place(run.start))
        if name == "dmd":
            stage, data, schedule = distillation_stage(run, section)
        else:
            stage, data = {"teacher": teacher_stage, "causal": causal_stage}[name](run, section)

        def shipped(state):
            return finished(stage, schedule, state) if name == "dmd" else state.ema

        def export(state):
            run.save(name, shipped(state))

        state = loop.run(name, run.workdir, stage, stage.init(), data, run.running, steps=section.steps, export=export)
        export(state)
        trainer.alone_first(lambda: None)
        return sharding.gather(shipped(state))
