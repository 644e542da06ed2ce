"""Four blocks of Knot Forcing, c = 3, k = 1, L = 6, n0 = 8, s = 4, followed frame by frame through the running step.

Frame numbers are not computed here: every frame is recognised by its contents, in what the step hands to its passes.
"""

import dataclasses

import jax
import numpy as np
import pytest

from knotjax.streaming import step as engine
from knotjax.streaming.methods import knot_forcing
from knotjax.streaming.state import ring_valid
from tests.helpers import GRID, UNDRIVEN, normal, random_conditions, random_params, tiny

TABLE = {
    "reference": [8, 8, 12, 16],
    "denoised": [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9], [9, 10, 11, 12]],
    "context": [[], [0, 1, 2], [3, 4, 5], [6, 7, 8]],
    "keys": [5, 8, 8, 8],
    "commit_keys": [4, 7, 7, 7],
    "knot_in": [None, 3, 6, 9],
    "fused": [[], [3], [6], [9]],
    "emitted": [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]],
    "knot_out": [3, 6, 9, 12],
    "ring": [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]],
}


def close(a, b):
    return np.max(np.abs(np.asarray(a) - np.asarray(b))) < 1e-5


@dataclasses.dataclass
class Denoise:
    """What the denoising pass of one block was given."""

    knot: np.ndarray  # [B, k, H, W, z]
    knot_valid: np.ndarray  # [B]
    position: np.ndarray  # [B, F]
    contexts: tuple


@dataclasses.dataclass
class Fuse:
    """What was fused, and into what."""

    x0: np.ndarray  # [B, F, H, W, z]
    result: np.ndarray  # [B, F, H, W, z]


@dataclasses.dataclass
class Commit:
    """What the commit pass was given, and what it returned."""

    x0: np.ndarray  # [B, c, H, W, z]
    position: np.ndarray  # [B, c]
    contexts: tuple
    k: np.ndarray  # [L, B, c, N, S, D]
    v: np.ndarray  # [L, B, c, N, S, D]


for record in (Denoise, Fuse, Commit):
    jax.tree_util.register_dataclass(record)


def run(blocks):
    """Yields per block what the passes were given and returned, the next state and the emitted latents."""
    model = tiny(**UNDRIVEN)
    plan = dataclasses.replace(knot_forcing(), timesteps=(1000.0, 500.0))
    params, rng = random_params(model), np.random.default_rng(0)
    reference = normal(rng, (1, 1, *GRID, model.config.latent_channels))
    drive = random_conditions(model.config, rng, 1, plan.span)
    passes, seen = engine.passes, {}
    real_denoise, real_fuse, real_commit = passes.denoise_pass, engine.fuse, passes.commit_pass

    def denoise(*args):
        *_, knot, knot_valid, position, _, contexts, _ = args
        seen["denoise"] = Denoise(knot, knot_valid, position, contexts)
        return real_denoise(*args)

    def fuse(policy, x0, knot, knot_valid):
        result = real_fuse(policy, x0, knot, knot_valid)
        seen["fuse"] = Fuse(x0, result)
        return result

    def commit(*args):
        _, _, _, x0, _, position, _, contexts, _ = args
        k, v = real_commit(*args)
        seen["commit"] = Commit(x0, position, contexts, k, v)
        return k, v

    @jax.jit
    def step(params, state):
        state, emitted = engine.stream_step(model, plan, params, state, drive)
        return seen["denoise"], seen["fuse"], seen["commit"], state, emitted

    state = engine.jit_init(model, plan, params, reference, drive.text, jax.random.split(jax.random.key(0), 1))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(passes, "denoise_pass", denoise)
        monkeypatch.setattr(engine, "fuse", fuse)
        monkeypatch.setattr(passes, "commit_pass", commit)
        for _ in range(blocks):
            *records, state, emitted = step(params, state)
            yield *records, state, emitted, int(np.sum(ring_valid(plan, state, plan.history)))


def name_slots(known, k, v):
    """Frame number behind every slot of a ring, by comparing keys and values; None for an empty slot."""
    names = []
    for slot in range(k.shape[2]):
        same = [f for f, (fk, fv) in known.items() if close(fk, k[:, :, slot]) and close(fv, v[:, :, slot])]
        assert len(same) == 1 or not np.any(k[:, :, slot])
        names.append(same[0] if same else None)
    return names


def test_worked_example():
    actual = {name: [] for name in TABLE}
    kv, predictions = {}, {}  # frame number -> what the engine computed for it
    number = 0  # emitted frames so far
    counts = []  # frames in the ring after each block
    for denoise, fuse, commit, state, emitted, held_after in run(blocks=4):
        counts.append(held_after)
        reference, past = denoise.contexts
        # Relative positions become absolute by adding the number of frames emitted so far.
        actual["reference"].append(number + int(reference.position[0, 0]))
        frames = (number + np.asarray(denoise.position)[0]).tolist()
        actual["denoised"].append(frames)
        held = np.asarray(past.valid)[0]
        positions = number + np.asarray(past.position)[0]
        stored = name_slots(kv, past.k[:, 0], past.v[:, 0])
        seen = sorted(np.flatnonzero(held), key=lambda slot: positions[slot])
        assert [stored[slot] for slot in seen] == positions[seen].tolist(), "every key stands where its frame stands"
        actual["context"].append(positions[seen].tolist())
        valid = int(np.sum(reference.valid)) + int(held.sum())
        actual["keys"].append(valid + len(frames))

        arrived = [f for f, x0 in predictions.items() if close(x0, denoise.knot[:, 0])]
        actual["knot_in"].append(arrived[0] if denoise.knot_valid[0] else None)
        changed = [j for j in range(len(frames)) if not close(fuse.result[:, j], fuse.x0[:, j])]
        actual["fused"].append([frames[j] for j in changed])
        for j in changed:
            assert close(fuse.result[:, j], (predictions[frames[j]] + fuse.x0[:, j]) / 2.0)
        predictions = {f: np.asarray(fuse.x0[:, j]) for j, f in enumerate(frames)}
        actual["knot_out"].extend(f for f, x0 in predictions.items() if close(x0, state.knot[:, 0]))

        assert close(commit.x0, emitted)
        out = [
            f for e in range(emitted.shape[1]) for j, f in enumerate(frames) if close(fuse.result[:, j], emitted[:, e])
        ]
        actual["emitted"].append(out)
        assert (number + np.asarray(commit.position)[0]).tolist() == out
        for a, b in zip(jax.tree.leaves(denoise.contexts), jax.tree.leaves(commit.contexts)):
            np.testing.assert_array_equal(a, b)
        actual["commit_keys"].append(valid + commit.position.shape[1])
        kv.update({f: (np.asarray(commit.k[:, :, j]), np.asarray(commit.v[:, :, j])) for j, f in enumerate(out)})
        actual["ring"].append(
            sorted(f for f in name_slots(kv, state.ring.k[:, 0], state.ring.v[:, 0]) if f is not None)
        )
        number += emitted.shape[1]
        assert int(state.block[0]) * 3 == number
    for name, rows in actual.items():
        print(f"{name:12s}", rows)
        assert rows == TABLE[name], name
    assert [f for frames in actual["emitted"] for f in frames] == list(range(12)), "every frame is emitted once"
    leads = [n - frames[-1] for n, frames in zip(actual["reference"], actual["denoised"])]
    assert leads == [5, 2, 3, 4]
    assert counts == [3, 3, 3, 3]
