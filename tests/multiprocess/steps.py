"""Trains a tiny model and keeps its losses as `<folder>/<name>.jsonl`; run in processes of its own by the tests.

python -m tests.multiprocess.steps '{"folder": "out", "runs": {"name": {"data": 8}, ...}}' [address processes index]
"""

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np

from knotjax import sharding
from knotjax.models.dit import Conditions, DiT
from knotjax.streaming.methods import knot_forcing
from knotjax.training import loop
from knotjax.training.dmd import Cast, DMDConfig
from knotjax.training.dmd_stage import Schedule, dmd_stage
from knotjax.training.objectives import FlowConfig, stream_flow
from knotjax.training.stage import adamw
from tests.helpers import TINY, random_params

BATCH, STEPS = 8, 20
GRID = (16, 4)  # 8 x 2 tokens
# Every dimension that a rule splits divides by 8.
SIZES = dataclasses.replace(
    TINY, dim=48, ffn_dim=64, heads=8, audio_width=16, audio_hidden=16, prediction="x0", given_residual=True
)
PLAN = knot_forcing(start=4, stride=1, shift=3.0, given_reference=True)
TWO_PASSES = knot_forcing(start=4, stride=1, steps=(1000, 500), given_reference=True)  # fewer exits, fewer programs


def samples():
    """Clips of two chunks and a knot."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def one():
        return {
            "latents": normal(7, *GRID, SIZES.latent_channels),
            "mouth": rng.random((7, *GRID)) < 0.3,
            "reference": normal(1, *GRID, SIZES.latent_channels),
            "audio": normal(7, *SIZES.audio_window),
            "motion": normal(7, *SIZES.motion_window),
            "text": normal(2, SIZES.text_dim),
            "blank_text": normal(2, SIZES.text_dim),
        }

    return [one() for _ in range(16)]


def jitter(sample, rng):
    """Some noise of the sample's own, so that the data depend on the iterator's random numbers too."""
    return sample | {"audio": sample["audio"] + rng.normal(0.0, 0.1, sample["audio"].shape).astype(np.float32)}


def plain_flow(model, params, batch, key):
    """Flow matching of whole clips in one forward; compiles faster than what streams are trained with."""
    x0, still = batch["latents"], jnp.zeros(batch["latents"].shape[:2])
    sigma = jax.random.uniform(key, (len(x0), 1))
    noisy = x0 + sigma[..., None, None, None] * (jax.random.normal(key, x0.shape) - x0)
    position = jnp.broadcast_to(jnp.arange(x0.shape[1]), still.shape)
    conditions = Conditions(batch["text"], batch["audio"], batch["motion"])
    given = jnp.broadcast_to(batch["reference"], x0.shape)
    out, _ = model.apply({"params": params}, noisy, given, still + 1, still + 1000 * sigma, position, conditions)
    value = jnp.mean(jnp.square(out - x0))
    return value, {"loss": value}


def matching(start, other):
    """The stage of distribution matching: its state, spread over the mesh that is set, and its update."""
    model = DiT(dataclasses.replace(SIZES, remat="full"))
    rates = (adamw(rate=1e-3, b1=0.9), adamw(rate=1e-3, b1=0.9))
    student, teacher = sharding.place(start), sharding.place(other)
    stage = dmd_stage(
        Cast(model, TWO_PASSES, model, model), DMDConfig(), Schedule(every=2, ema_start=2), student, teacher, teacher,
        *rates,
    )  # fmt: skip

    def update(state, batch):
        state, scalars = stage(state, batch)
        total = sum(scalars[name] for name in ("critic", "critic_gradient", "gap", "size") if name in scalars)
        return state, {"loss": total}

    return stage.init(), update


def train(
    folder: Path,
    name: str,
    sizes: dict | None,
    steps: int,
    save_every: int,
    muon: float,
    slow_from: int,
    stream: bool,
    dmd: bool,
) -> None:
    """Train over a mesh of these sizes (None: one device, no mesh), from some step on with a second between steps."""
    model = DiT(SIZES)
    mesh = sharding.make_mesh(**sizes) if sizes is not None else None
    index, count = sharding.data_shard(mesh) if mesh else (0, 1)
    data = grain.MapDataset.source(samples()).seed(1).shuffle().repeat().random_map(jitter)
    data = iter(data.batch(BATCH // count)[index::count].to_iter_dataset())

    def loss(params, batch, key):
        if not stream:
            return plain_flow(model, params["dit"], batch, key)
        return stream_flow(model, PLAN, FlowConfig(mouth=1.0), params["dit"], batch, batch["text"], key)

    optimiser = loop.make_optimiser(steps=steps, rate=1e-3, warmup=2, cooldown=0.4, b2=0.98, muon=muon)
    compiled = loop.make_update(loss, optimiser, 0.99)

    def update(state, batch):
        time.sleep(float(state.step >= slow_from))
        return compiled(state, batch)

    params = {"dit": jax.tree.map(lambda leaf: 0.5 * leaf, random_params(model))}
    state = loop.init_state(params, optimiser, 0)
    running = loop.Running(log_every=1, save_every=save_every, mesh=mesh)
    if dmd:
        other = {"dit": jax.tree.map(lambda leaf: 0.5 * leaf, random_params(model, 1))}
        with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
            state, update = matching(params, other)
    state = loop.run(name, folder, update, state, data, running, steps=steps)
    if mesh:  # the large arrays are split when the mesh says so
        split = mesh.shape["fsdp"] * mesh.shape["tensor"] > 1
        trees = (state.student, state.ema, state.critic) if dmd else (state.params, state.ema, state.moments)
        for tree in trees:
            parts = [leaf for leaf in jax.tree.leaves(tree) if not leaf.is_fully_replicated]
            assert (len(parts) > 10) == split, f"{len(parts)} arrays are split over {sizes}"


def main(options: dict) -> None:
    """Do all runs of the options."""
    told = {"steps": 20, "save_every": 20, "muon": 0.0, "slow_from": 1000, "stream": False, "dmd": False} | options
    folder, runs = Path(told.pop("folder")), told.pop("runs")
    for name, sizes in runs.items():
        train(folder, name, sizes, **told)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        jax.distributed.initialize(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    main(json.loads(sys.argv[1]))
