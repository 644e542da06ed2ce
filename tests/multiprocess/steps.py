"""Trains a tiny model for 20 steps over several meshes and prints the losses; run by test_meshes.py.

python -m tests.multiprocess.steps '[{"data": 8}, ...]' [address processes index]
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import grain
import jax
import numpy as np

from knotjax import sharding
from knotjax.models.dit import DiT
from knotjax.streaming.methods import knot_forcing
from knotjax.training import loop
from knotjax.training.objectives import FlowConfig, stream_flow
from tests.helpers import TINY, random_params

BATCH, STEPS = 8, 20
GRID = (16, 4)  # 8 x 2 tokens
# Every dimension that a rule splits divides by 8.
SIZES = dataclasses.replace(
    TINY, dim=48, ffn_dim=64, heads=8, audio_width=16, audio_hidden=16, prediction="x0", given_residual=True
)
PLAN = knot_forcing(start=4, stride=1, shift=3.0, given_reference=True)


def samples():
    """Eight clips of five latent frames (one chunk, a knot and one more chunk would need seven)."""
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
        }

    return [one() for _ in range(16)]


def jitter(sample, rng):
    """Some noise of the sample's own, so that the data depend on the iterator's random numbers too."""
    return sample | {"audio": sample["audio"] + rng.normal(0.0, 0.1, sample["audio"].shape).astype(np.float32)}


def losses(mesh_sizes: dict | None, muon: float) -> list[float]:
    """Losses of 20 steps over a mesh; None: one device and no mesh."""
    model = DiT(SIZES)
    mesh = sharding.make_mesh(**mesh_sizes) if mesh_sizes is not None else None
    index, count = sharding.data_shard(mesh) if mesh else (0, 1)
    data = grain.MapDataset.source(samples()).seed(1).shuffle().repeat().random_map(jitter)
    data = iter(data.batch(BATCH // count)[index::count].to_iter_dataset())

    def loss(params, batch, key):
        return stream_flow(model, PLAN, FlowConfig(mouth=1.0), params["dit"], batch, batch["text"], key)

    optimiser = loop.make_optimiser(steps=STEPS, rate=1e-3, warmup=2, cooldown=0.4, b2=0.98, muon=muon)
    update = loop.make_update(loss, optimiser, 0.99)
    params = {"dit": jax.tree.map(lambda leaf: 0.5 * leaf, random_params(model))}
    state = loop.init_state(params, optimiser, 0)
    with tempfile.TemporaryDirectory() as folder:
        if jax.process_count() > 1:
            folder = sys.argv[5]
        running = loop.Running(log_every=1, save_every=STEPS, mesh=mesh)
        name = "-".join(f"{axis}{size}" for axis, size in (mesh_sizes or {"one": 1}).items())
        state = loop.run(name, Path(folder), update, state, data, running, steps=STEPS)
        if mesh:
            spread = [leaf for leaf in jax.tree.leaves(state.params) if not leaf.is_fully_replicated]
            split = mesh.shape["fsdp"] * mesh.shape["tensor"] > 1
            assert (len(spread) > 10) == split, "large parameters are split when the mesh says so"
            moments = jax.tree.leaves(state.moments)
            assert (sum(not leaf.is_fully_replicated for leaf in moments) >= 10) == split
        rows = (Path(folder) / f"{name}.jsonl").read_text().splitlines() if jax.process_index() == 0 else []
    return [json.loads(row)["loss"] for row in rows]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        jax.distributed.initialize(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    for sizes in json.loads(sys.argv[1]):
        print("LOSSES", json.dumps(losses(sizes, muon=0.0)), flush=True)
