"""Teacher, diffusion and Neighbor Forcing against one masked forward, and against the stream itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models import dit
from knotjax.models.attention import attend
from knotjax.models.dit import Conditions
from knotjax.streaming.levels import levels
from knotjax.streaming.methods import avatar_forcing, knot_forcing, live_act, rolling_forcing, self_forcing
from knotjax.streaming.noise import block_noise
from knotjax.streaming.step import jit_init, jit_step
from knotjax.training.objectives import forced
from knotjax.training.objectives.forced import ForcedConfig, forced_pass, single
from tests.helpers import GRID, normal, precision, random_params, relative, tiny

CHUNK, FRAMES = 2, 6
jit_forced = jax.jit(forced_pass, static_argnums=(0, 1))


class Setting:
    """A tiny model and a clip."""

    def __init__(self, plan, frames=FRAMES):
        rng, dtype = np.random.default_rng(2), "float64"
        self.plan, self.model = plan, tiny(memory_ratio=plan.ratio)
        c = self.model.config
        self.params = {"dit": random_params(self.model, 6, dtype)}
        self.apply = jax.jit(self.model.apply)
        rows = frames + plan.knot.frames
        self.batch = {
            "latents": normal(rng, (2, rows, *GRID, c.latent_channels), dtype),
            "reference": normal(rng, (2, 1, *GRID, c.latent_channels), dtype),
            "audio": normal(rng, (2, rows, *c.audio_window), dtype),
            "motion": normal(rng, (2, rows, *c.motion_window), dtype),
            "text": normal(rng, (2, 2, c.text_dim), dtype),
            "blank_text": normal(rng, (2, 2, c.text_dim), dtype),
        }


def masked_forward(s, monkeypatch, x, t, position, frame_mask):
    """One forward over all frames [B, F, ...] in which frame q looks at frame k where frame_mask [F, F] says so."""
    tokens = GRID[0] * GRID[1] // s.model.config.patch**2
    bias = jnp.where(np.kron(frame_mask, np.ones((tokens, tokens))) > 0, 0.0, -1e30)

    def masked(q, k, v, valid=None, kernel="xla"):
        return attend(q, k, v, bias=bias) if k.shape[1] == q.shape[1] else attend(q, k, v, valid)

    monkeypatch.setattr(dit, "attend", masked)
    times = np.concatenate([np.arange(FRAMES)] * (x.shape[1] // FRAMES))
    conditions = Conditions(s.batch["text"], s.batch["audio"][:, times], s.batch["motion"][:, times])
    position = jnp.tile(position, (2, 1))
    call = jax.jit(lambda p: s.model.apply({"params": p}, x, 0 * x, jnp.ones(t.shape), t, position, conditions)[0])
    out = call(s.params["dit"])
    monkeypatch.undo()
    return np.asarray(x - t[..., None, None, None] / 1000 * out)


def windows_to_video(x):  # [n, B, c, ...] -> [B, n c, ...]
    x = np.moveaxis(np.asarray(x), 0, 1)
    return x.reshape(2, -1, *x.shape[3:])


@pytest.mark.parametrize("history", [pytest.param(FRAMES, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("commit", ["same_step", "clean"])
def test_equals_one_masked_forward(commit, history, monkeypatch):
    """Block-causal masks with a local window; with clean caches [clean half | noisy half] (Self Forcing's trainers)."""
    with precision("float64"):
        plan = single(self_forcing(chunk=CHUNK, history=history), commit=commit)
        s, rng = Setting(plan), np.random.default_rng(4)
        chunk = np.arange(FRAMES) // CHUNK
        clean = np.asarray(s.batch["latents"])
        x = normal(rng, clean.shape, "float64")
        t = jnp.asarray(rng.uniform(100, 1000, (2, FRAMES // CHUNK))[:, chunk])
        frame = np.arange(FRAMES)
        own = chunk[:, None] == chunk
        past = (frame < CHUNK * chunk[:, None]) & (frame >= CHUNK * chunk[:, None] - history)
        if commit == "same_step":
            expected = masked_forward(s, monkeypatch, x, t, frame, own | past)
        else:
            mask = np.block([[own | past, 0 * own], [past, own]])
            both = jnp.concatenate([clean, x], 1), jnp.concatenate([0 * t, t], 1)
            expected = masked_forward(s, monkeypatch, *both, np.tile(frame, 2), mask)[:, FRAMES:]
        drive = forced.clip_drive(plan, s.batch, s.batch["text"], 3)
        knotted = jnp.zeros((3, 2), bool)
        inputs = [forced.windows(plan, a) for a in (x, t, clean)]
        actual = jit_forced(s.model, plan, s.params["dit"], *inputs, s.batch["reference"], drive, knotted)
        alone = masked_forward(s, monkeypatch, x, t, frame, own)
        assert relative(alone, expected if commit == "same_step" else windows_to_video(actual)) > 0.01  # history counts
        assert relative(windows_to_video(actual), expected) < 1e-9


ACT = dict(chunk=4, first=3, reference=1, memory=2, recent=1)
PLANS = {
    "knot_forcing": dataclasses.replace(
        knot_forcing(start=4, stride=2), knot=dataclasses.replace(knot_forcing().knot, weight=1.0)
    ),
    "live_act": live_act(**ACT),
    "rolling_forcing": rolling_forcing(blocks=2, chunk=2, sink=2, history=2, steps=(1000, 500)),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in PLANS if name != "live_act"]


@pytest.mark.parametrize("name", ["live_act", *SLOW])
def test_sees_what_the_stream_sees(name):
    """Forced to the stream's own noise, history and knots, every window's estimate is the stream's."""
    with precision("float64"):
        plan = single(PLANS[name])
        steps = 4 + plan.blocks - 1
        s = Setting(plan, 4 * plan.chunk - plan.missing)
        drive = forced.clip_drive(plan, s.batch, s.batch["text"], steps)
        keys = jax.random.split(jax.random.key(1), 2)
        params, latent = s.params["dit"], s.batch["reference"].shape[2:]
        copies = jax.tree.map(jnp.copy, (s.batch["reference"], s.batch["text"], keys))
        state = jit_init(s.model, plan, params, *copies)
        state = dataclasses.replace(state, end=jnp.full(2, 4 * plan.chunk - plan.missing, jnp.int32))
        x, clean, emitted = [], [], []
        for n in range(steps):
            fresh = block_noise(
                keys, jnp.full(2, n), jnp.zeros(2, int), (plan.chunk + plan.knot.frames, *latent), "float64"
            )
            x.append(jnp.concatenate([state.window, fresh], 1))
            knot = jnp.copy(state.knot)
            state, out = jit_step(s.model, plan, params, state, jax.tree.map(lambda a, n=n: a[n], drive))
            emitted.append(np.asarray(out))
            rest = jnp.zeros((2, plan.span - plan.chunk, *latent))
            clean.append(jnp.concatenate([out, rest], 1))
            if n and plan.knot.frames:
                assert relative(out[:, : plan.knot.frames], knot) < 1e-12  # weight 1: the knot itself is emitted
        t = jnp.broadcast_to(jnp.asarray(levels(plan, first=False).now[0]), (steps, 2, plan.span))
        knotted = jnp.broadcast_to((jnp.arange(steps) > 0)[:, None], (steps, 2))
        inputs = (jnp.stack(x), t, jnp.stack(clean), s.batch["reference"], drive, knotted)
        actual = np.asarray(jit_forced(s.model, plan, params, *inputs))
        k = plan.knot.frames
        for n in range(steps):
            there = [f - plan.first_frame(n) for f in plan.emitted(n) if f - plan.first_frame(n) >= (k if n else 0)]
            if there:
                assert relative(actual[n][:, there], emitted[n][:, there]) < 1e-9


@pytest.mark.parametrize("kind", ["teacher_forcing", "diffusion_forcing", "neighbor_forcing"])
def test_times_and_loss(kind, monkeypatch):
    """An estimate that is off by d costs w(t) d^2 / sigma^2, and the levels are drawn as the objective says."""
    with precision("float64"):
        s, seen = Setting(self_forcing(chunk=CHUNK, history=2)), {}

        def off(model, plan, params, x, t, clean, *rest):
            seen.update(t=np.asarray(t), x=np.asarray(x), plan=plan)
            return forced.windows(plan, s.batch["latents"]) + 0.5

        monkeypatch.setattr(forced, "forced_pass", off)
        objective, shift = getattr(forced, kind), 5.0
        loss, scalars = objective(s.model, s.plan, ForcedConfig(), s.params, s.batch, jax.random.key(0))
        t = seen["t"]
        assert t.shape == (3, 2, CHUNK) and np.all(t == t[..., :1]) and np.all((t > 0) & (t <= 1000))
        assert len(np.unique(t)) == (2 if kind == "neighbor_forcing" else 6)
        assert seen["plan"].commit == ("clean" if kind == "teacher_forcing" else "same_step")
        share = np.linspace(1, 0, 1001)[:-1]
        grid = 1000 * shift * share / (1 + (shift - 1) * share)
        bell = np.exp(-2 * ((grid - 500) / 1000) ** 2)
        bell = (bell - bell.min()) * 1000 / (bell - bell.min()).sum()
        weight = bell[np.argmin(np.abs(grid - t[..., None]), -1)]
        np.testing.assert_allclose(loss, np.mean(weight * 0.25 / (t / 1000) ** 2), rtol=1e-9)
        np.testing.assert_allclose(scalars["error"], 0.25)
        plain = ForcedConfig(bell=False, floor=0.3)
        loss, _ = objective(s.model, s.plan, plain, s.params, s.batch, jax.random.key(0))
        np.testing.assert_allclose(loss, np.mean(0.25 / (0.3 + t / 1000) ** 2), rtol=1e-9)
        # The windows are the clip at these levels: (1 - sigma) x0 + sigma eps.
        sigma = t[..., None, None, None] / 1000
        noise = (seen["x"] - (1 - sigma) * np.asarray(forced.windows(s.plan, s.batch["latents"]))) / sigma
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_plan_levels_are_the_staircase():
    plan, config = avatar_forcing(blocks=2, passes=2, chunk=2), ForcedConfig(levels="plan")
    t = np.asarray(forced.draw_times(plan, config, jax.random.key(0), 20, 3))
    rows = {tuple(row) for row in t.reshape(-1, 4)}
    assert rows == {tuple(np.float32(row)) for row in levels(plan, first=False).now}
    with pytest.raises(ValueError, match="'plan' levels"):
        forced.draw_times(plan, ForcedConfig(), jax.random.key(0), 20, 3)


def test_memory_learns_in_the_parallel_form():
    """Gradients reach the memory's weights and the frames that it compressed."""
    with precision("float64"):
        s = Setting(live_act(**ACT), 15)
        config = ForcedConfig(bell=False)

        @jax.jit
        @jax.grad
        def slope(params):
            return forced.neighbor_forcing(s.model, s.plan, config, params, s.batch, jax.random.key(0))[0]

        block = slope(s.params)["dit"]["blocks"]["block0"]
        for name in ("memory_k", "memory_v", "k", "q"):
            leaf = block[name] if "memory" in name else block[name]["kernel"]
            assert float(jnp.abs(leaf).max()) > 1e-4, name


def test_a_clip_must_be_whole_blocks():
    with pytest.raises(ValueError, match="7 latent frames"):
        forced.chunks(self_forcing(chunk=2), 7)
