"""Compile the updates of distribution matching for pods that are not there, and write what they need.

    python -m experiments.aot.training --target v5e-256                   # 1.3B student and teacher, both updates
    python -m experiments.aot.training --target v5e-256 --teacher 14b --update critic
    python -m experiments.aot.training --table                            # training.jsonl as a table

The programs are those that `knotjax train` runs for `configs/knot_forcing.py:1.3b` on latents of the Wan VAE in
bfloat16, with a sound branch. Every program adds one line to `training.jsonl`; what stands there already is not
compiled again. Nothing is allocated; no accelerator is needed. Needs the extra `aot`.
"""

import argparse
import dataclasses
import gzip
import json
import re
import resource
import time
from pathlib import Path

from experiments.aot.programs import GIB  # which says where jax runs, so it comes before jax

# isort: split
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from configs import knot_forcing
from experiments.aot.collectives import collectives, gathers_of, summed
from knotjax import flops, presets, sharding
from knotjax.models.dit import DiT, DiTConfig
from knotjax.streaming.methods import METHODS
from knotjax.streaming.plan import StreamPlan
from knotjax.training.distill import chosen
from knotjax.training.dmd import Cast, DMDConfig
from knotjax.training.dmd_stage import Schedule, dmd_stage
from knotjax.training.rollout import Exit, exits
from knotjax.training.stage import Stage, optimiser

RESULTS = Path(__file__).parent / "training.jsonl"
UPDATES = ("generator", "critic")
TEXT = 512  # rows of text of Wan's encoder
SOUND = dict(audio_form="pixel_frames", audio_tokens=32, audio_width=768, audio_window=(8, 12 * 768 + 1))
TINY = DiTConfig(
    dim=256, ffn_dim=512, heads=4, layers=4, text_dim=64, freq_dim=64, audio_tokens=4, audio_width=64, audio_hidden=64,
    audio_form="pixel_frames", audio_window=(8, 33), remat="full",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pod:
    """Chips that train together."""

    topology: str  # in libtpu's words
    memory: float  # GiB of a chip
    mesh: dict  # as `sharding.make_mesh` takes it
    batch: int  # clips of an update


PODS = {
    "v5e-256": Pod("v5e:16x16", 16, dict(data=1, fsdp=64, tensor=4), 64),
    "v6e-256": Pod("v6e:16x16", 32, dict(data=1, fsdp=64, tensor=4), 64),
    "v5p-128": Pod("v5p:4x4x4", 95, dict(data=1, fsdp=64), 64),  # Cloud TPU counts two cores a chip: 64 chips
    "v5e-4": Pod("v5e:2x2", 16, dict(data=1, fsdp=2, tensor=2), 2),  # for tests
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained."""

    student: DiTConfig
    teacher: DiTConfig
    plan: StreamPlan
    frames: int = 21  # latent frames of a clip
    grid: tuple[int, int] = (60, 104)  # latents of a frame
    text: int = TEXT
    kernel: str = "xla"

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] // self.student.patch**2


def sized(size: str) -> DiTConfig:
    """The recipe's DiT with a sound branch, layers computed again in the backward pass."""
    if size == "tiny":
        return TINY
    return DiTConfig(**knot_forcing.get_config(size).dit, **SOUND, remat="full")


def papers_case(student: str, teacher: str) -> Case:
    """The recipe; `tiny` sizes get small frames."""
    config = knot_forcing.get_config("1.3b")
    plan, small = METHODS[config.method](**config.plan), {}
    if student == "tiny":
        small = dict(frames=6, grid=(6, 10), text=8)  # 15 tokens a frame
    return Case(sized(student), sized(teacher), plan, **{"frames": config.dmd.frames} | small)


def stage_of(case: Case, mesh: Mesh, batch: int) -> tuple[Stage, tuple]:
    """The stage as `distill` makes it from the recipe; its state, constants and batch as shapes on the mesh."""
    section = knot_forcing.get_config("1.3b").dmd
    student, teacher = (DiT(size, case.kernel) for size in (case.student, case.teacher))
    # The critic starts as the teacher; one of another size than the student's stands for it (Self Forcing: 1.3B).
    cast = Cast(student, case.plan, teacher, student)

    def made(student, critic, teacher):
        return dmd_stage(
            cast, chosen(DMDConfig, section.objective), Schedule(**section.schedule), student, critic, teacher,
            optimiser(section.generator), optimiser(section.critic),
        )  # fmt: skip

    own, theirs = ({"dit": presets.shapes(DiT(size))} for size in (case.student, case.teacher))
    stage = made(own, own, theirs)
    state = jax.eval_shape(lambda *params: made(*params).init(), own, own, theirs)
    c = case.student

    def rows(*shape):
        return jax.ShapeDtypeStruct((batch, *shape), jnp.bfloat16, sharding=NamedSharding(mesh, P(sharding.BATCH)))

    data = {
        "reference": rows(1, *case.grid, c.latent_channels),
        "audio": rows(case.frames + case.plan.knot.frames, *c.audio_window),
        "text": rows(case.text, c.text_dim),
        "blank_text": rows(case.text, c.text_dim),
    }

    def spread(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = sharding.spec_of(name, leaf.shape, mesh.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    state, constants = (jax.tree_util.tree_map_with_path(spread, tree) for tree in (state, stage.constants))
    return stage, (state, constants, data)


def pod_mesh(pod: Pod) -> Mesh:
    found = topologies.get_topology_desc(platform="tpu", topology_name=pod.topology)
    return sharding.make_mesh(**pod.mesh, devices=found.devices)


def compiled(case: Case, pod: Pod, update: str, exit: Exit | None = None):
    """The executable of one update, by default of its longest rollout.

    Returns:
      The executable, and the operations of all chips together.
    """
    mesh = pod_mesh(pod)
    stage, shapes = stage_of(case, mesh, pod.batch)
    run = {one.name: one.run for one in stage.updates}[update]
    arguments = (*shapes, case.plan, exit or exits(case.plan)[-1])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        counted = flops.count(lambda *shapes: run(*shapes, *arguments[3:]), *shapes).total
        return run.trace(*arguments).lower(lowering_platforms=("tpu",)).compile(), counted


def facts(executable, case: Case) -> dict:
    """Sizes in GiB on one chip, and collectives of one update."""
    memory = executable.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temp": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "peak": peak,
    }
    found = collectives(executable.as_text())
    gathered = [f"{one.dtype}{list(one.shape)} x {one.times}: {one.name}" for one in gathers_of(found, case.tokens)]
    return {name: round(size / GIB, 3) for name, size in sizes.items()} | {
        "collectives": summed(found),
        "gathers of tokens": gathered,  # caches are among them, if any
    }


def read() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table() -> str:
    """All results, sizes in GiB of a chip."""
    names = ("update", "student", "teacher", "target", "mesh", "batch", "arguments", "temp", "peak", "memory", "fits")
    names += ("collectives", "gathers of tokens", "PFLOP", "compile s", "host GiB")
    rows = [names, ("---",) * len(names)]
    rows += [tuple(_shown(row.get(name, "")) for name in names) for row in read()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _shown(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {' / '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in value.items())
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=PODS, action="append")
    parser.add_argument("--update", choices=UPDATES, action="append")
    parser.add_argument("--student", default="1.3b", choices=("tiny", "1.3b", "14b"))
    parser.add_argument("--teacher", default="1.3b", choices=("tiny", "1.3b", "14b"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--text", help="folder for the texts of the programs")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    keys = ("update", "student", "teacher", "target")
    done = {tuple(row[key] for key in keys) for row in read()}
    for target in options.target or ("v5e-256", "v5p-128"):
        for update in options.update or UPDATES:
            key = (update, options.student, options.teacher, target)
            if key in done:
                continue
            pod, case = PODS[target], papers_case(options.student, options.teacher)
            row = dict(zip(keys, key)) | {"mesh": pod.mesh, "batch": pod.batch, "memory": pod.memory}
            began = time.monotonic()
            try:
                executable, counted = compiled(case, pod, update)
            except jax.errors.JaxRuntimeError as error:  # the compiler's list of what takes the memory
                print(re.sub(r"\n+", "\n", str(error))[:8000], flush=True)
                continue
            row["compile s"] = round(time.monotonic() - began)
            if options.text:
                with gzip.open(Path(options.text) / ("-".join(key) + ".hlo.gz"), "wt") as file:
                    file.write(executable.as_text())
            row |= facts(executable, case)
            row["fits"] = row["peak"] < pod.memory
            row["PFLOP"] = round(counted / 1e15, 3)
            row["host GiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 1)
            print(json.dumps(row), flush=True)
            if options.student != "tiny":
                with open(RESULTS, "a") as log:
                    log.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
