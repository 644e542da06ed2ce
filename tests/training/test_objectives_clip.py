"""The clip as teacher and ODE see it: inpainting, trajectories, regression and consistency."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models.dit import Conditions, Context, undriven
from knotjax.streaming.methods import avatar_forcing, knot_forcing, self_forcing
from knotjax.training import trajectories
from knotjax.training.clip import Guidance, clip_pass
from knotjax.training.objectives import forced, inpainting, ode
from tests.helpers import GRID, normal, precision, relative
from tests.training.test_objectives_forced import CHUNK, FRAMES, Setting


def clip_alone(s, params, x, t, text, audio, lead, known, seen, given_reference):
    """The network called directly on one sample at a time, frames given as `known` says."""
    out = []
    for b in range(2):
        row = slice(b, b + 1)
        reference, zero = s.batch["reference"][row], jnp.zeros((1, 1))
        p = {"params": params["dit"]}
        still = undriven(s.model.config, text[row], 1)
        _, (k, v) = s.apply(p, reference, reference, zero, zero, zero.astype(int), still)
        contexts = (Context(k, v, jnp.array([[FRAMES - 1 + int(lead[b])]]), jnp.ones((1, 1), bool)),) if seen[b] else ()
        given = np.zeros_like(np.asarray(x[row]))
        if given_reference and seen[b]:
            given[:] = reference
        given[:, known[b]] = np.asarray(s.batch["latents"])[row][:, known[b]]
        mask = jnp.asarray(1.0 - known[b][None])
        conditions = Conditions(text[row], audio[row], s.batch["motion"][row])
        o, _ = s.apply(p, x[row], given, mask, t[row], jnp.arange(FRAMES)[None], conditions, contexts)
        out.append(x[row] - t[row][..., None, None, None] / 1000 * o)
    return np.concatenate(out)


@pytest.mark.parametrize("given_reference", [False, True])
def test_clip_pass_with_given_frames_and_hidden_reference(given_reference):
    with precision("float64"):
        s = Setting(self_forcing(chunk=CHUNK, given_reference=given_reference))
        rng, b = np.random.default_rng(0), s.batch
        x, t = normal(rng, b["latents"].shape, "float64"), jnp.asarray(rng.uniform(50, 1000, (2, FRAMES)))
        known = np.array([[True, True] + [False] * 4, [False] * 6])
        lead, conditions = np.array([3, 5]), Conditions(b["text"], b["audio"], b["motion"])

        @jax.jit
        def ours(lead, known, seen):
            extra = dict(lead=lead, known=known, latents=b["latents"], seen=seen)
            return clip_pass(s.model, s.plan, s.params["dit"], x, t, b["reference"], conditions, **extra)

        for seen in ([True, True], [True, False]):
            expected = clip_alone(s, s.params, x, t, b["text"], b["audio"], lead, known, seen, given_reference)
            assert relative(ours(lead, known, np.array(seen)), expected) < 1e-9
        both, usual = np.array([True, True]), ours(lead, known, np.array([True, True]))
        assert relative(ours(lead + 1, known, both), usual) > 0.001
        assert relative(ours(lead, ~known, both), usual) > 0.01
        assert relative(usual, ours(lead, known, np.array([False, True]))) > 0.01


def test_inpainting_hides_and_gives_as_it_says(monkeypatch):
    """Shares of hidden and given frames, and the loss of an estimate that is off by d."""
    s, seen = Setting(self_forcing(chunk=CHUNK)), {}
    size = 4000
    batch = {name: jnp.repeat(a[:1, :, ...], size, 0)[..., :1, :1] for name, a in s.batch.items() if a.ndim > 3}
    batch |= {name: jnp.ones((size, 1, 1)) * (name == "text") for name in ("text", "blank_text")}

    def off(model, plan, params, x, t, reference, conditions, **given):
        seen.update(given, t=np.asarray(t), conditions=conditions)
        return batch["latents"] + 0.5

    monkeypatch.setattr(inpainting, "clip_pass", off)
    config = inpainting.InpaintingConfig(floor=0.2)
    loss, scalars = inpainting.inpainting_flow(s.model, s.plan, config, s.params, batch, jax.random.key(0))
    t, known = seen["t"], np.asarray(seen["known"])
    np.testing.assert_allclose(loss, np.mean(0.25 / (0.2 + t / 1000) ** 2), rtol=1e-5)
    np.testing.assert_allclose(scalars["error"], 0.25, rtol=1e-5)
    assert np.all(t == t[:, :1]) and np.median(t) == pytest.approx(1000 * 2.5 / 3, rel=0.03)
    assert np.mean(seen["seen"]) == pytest.approx(0.9, abs=0.02)
    assert np.all(np.diff(known.astype(int), axis=1) <= 0)  # the first frames are given, no others
    counts = np.bincount(known.sum(1), minlength=7) / size
    np.testing.assert_allclose(counts, [0.5 + 0.5 / 7] + [0.5 / 7] * 6, atol=0.03)
    silent = np.asarray(seen["conditions"].text)[:, 0, 0] == 0
    assert np.mean(silent) == pytest.approx(0.1, abs=0.02)
    assert np.all((np.asarray(seen["conditions"].audio).reshape(size, -1) == 0).all(1) == silent)
    assert set(np.asarray(seen["lead"])) == set(range(1, 9))

    # Errors of 0.5 count (1 + mouth) where the mouth is, and as each channel does.
    touched = np.random.default_rng(0).random(batch["latents"].shape[:-1]) < 0.3
    weight = np.linspace(0.2, 2.0, batch["latents"].shape[-1])
    config = inpainting.InpaintingConfig(floor=0.2, mouth=3.0)
    inputs = (s.params, batch | {"mouth": jnp.asarray(touched)}, jax.random.key(0), weight)
    loss, scalars = inpainting.inpainting_flow(s.model, s.plan, config, *inputs)
    place = (1 + 3 * touched).mean((2, 3))  # [B, F]
    np.testing.assert_allclose(loss, np.mean(0.25 * place * weight.mean() / (0.2 + t / 1000) ** 2), rtol=1e-5)
    np.testing.assert_allclose(scalars["error"], 0.25 * weight.mean(), rtol=1e-5)


def test_trajectory_is_an_euler_solution():
    """x' = v over the shifted grid, with guided v, state by state."""
    with precision("float64"):
        s = Setting(self_forcing(chunk=CHUNK))
        b, guidance = s.batch, Guidance(2.0)
        numbers = dict(count=4, keep=(0, 1, 3, 4), shift=3.0, guidance=guidance, lead=2)
        solve = jax.jit(lambda params, key: ode.ode_trajectory(s.model, s.plan, params, b, key, **numbers))
        states, times = solve(s.params, jax.random.key(3))
        x, expected = states[:, 0], [states[:, 0]]
        assert abs(float(x.mean())) < 0.2 and abs(float(x.std()) - 1) < 0.2
        grid = [1000 * 3 * n / (1 + 2 * n) for n in (1.0, 0.75, 0.5, 0.25, 0.0)]
        nobody, all_seen = np.zeros((2, FRAMES), bool), [True, True]
        for now, after in itertools.pairwise(grid):
            t = jnp.full((2, FRAMES), now)
            full, blank = (
                clip_alone(s, s.params, x, t, text, audio, [2, 2], nobody, all_seen, False)
                for text, audio in ((b["text"], b["audio"]), (b["blank_text"], 0 * b["audio"]))
            )
            x0 = full + 2.0 * (full - blank)
            x = x + (after - now) / 1000 * (x - x0) / (now / 1000)
            expected.append(x)
        np.testing.assert_allclose(states, np.stack([expected[i] for i in (0, 1, 3, 4)], 1), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(times, [grid[i] for i in (0, 1, 3, 4)])


@pytest.mark.parametrize("levels", ["chunk", "shared"])
def test_ode_regression(levels, monkeypatch):
    """Every chunk stands at one point of its trajectory; the error to the end counts where t is not 0."""
    s, rng, seen = Setting(knot_forcing(chunk=CHUNK, window=4)), np.random.default_rng(1), {}
    times = (1000.0, 700.0, 0.0)
    paths = normal(rng, (2, 3, FRAMES + 1, *GRID, 3))
    batch = dict(s.batch, trajectory=paths)

    def identity(model, plan, params, x, t, clean, *rest):
        seen.update(x=np.asarray(x), t=np.asarray(t), clean=np.asarray(clean))
        return x

    monkeypatch.setattr(ode, "forced_pass", identity)
    config, drawn = ode.OdeConfig(levels), set()
    for key in range(30):
        loss, _ = ode.ode_regression(s.model, s.plan, config, times, s.params, batch, jax.random.key(key))
        total, count = 0.0, 0
        for n in range(3):
            for b in range(2):
                t = seen["t"][n, b]
                assert np.all(t == t[0])
                point = times.index(float(t[0]))
                drawn.add((n, b, point))
                window = slice(CHUNK * n, CHUNK * n + CHUNK + 1)
                np.testing.assert_array_equal(seen["x"][n, b], paths[b, point, window])
                np.testing.assert_array_equal(seen["clean"][n, b], paths[b, -1, window])
                if point < 2:
                    total += np.mean((paths[b, point, window] - paths[b, -1, window]) ** 2)
                    count += 1
        np.testing.assert_allclose(loss, total / max(count, 1), rtol=1e-5)
        together = all(len(set(map(float, seen["t"][:, b, 0]))) == 1 for b in range(2))
        assert together or levels == "chunk"
    assert len(drawn) == 3 * 2 * 3
    assert not (levels == "chunk" and together)


def test_ode_regression_of_windows(monkeypatch):
    """Every block of a window stands at its level of one trajectory; frames beyond the clip do not count."""
    plan = avatar_forcing(chunk=CHUNK, blocks=2, passes=2, steps=(1000, 750, 500, 250), shift=1.0)
    s, rng, seen = Setting(plan), np.random.default_rng(1), {}
    times = (1000.0, 900.0, 750.0, 500.0, 250.0, 0.0)
    paths = normal(rng, (2, len(times), FRAMES, *GRID, 3))
    batch = dict(s.batch, trajectory=paths)

    def identity(model, plan, params, x, t, clean, *rest):
        assert plan.blocks == 2 and len(plan.timesteps) == 2
        seen.update(x=np.asarray(x), t=np.asarray(t), clean=np.asarray(clean))
        return x

    monkeypatch.setattr(ode, "forced_pass", identity)
    config, drawn = ode.OdeConfig("plan"), set()
    for key in range(10):
        loss, _ = ode.ode_regression(s.model, s.plan, config, times, s.params, batch, jax.random.key(key))
        errors = []
        for n in range(FRAMES // CHUNK + 1):
            for b in range(2):
                t = seen["t"][n, b]
                assert tuple(t) in {(500.0, 500.0, 1000.0, 1000.0), (250.0, 250.0, 750.0, 750.0)}
                drawn.add((n, b, float(t[0])))
                for place in range(2 * CHUNK):
                    frame = (n - 1) * CHUNK + place
                    if 0 <= frame < FRAMES:
                        state, end = paths[b, times.index(float(t[place])), frame], paths[b, -1, frame]
                        np.testing.assert_array_equal(seen["x"][n, b, place], state)
                        np.testing.assert_array_equal(seen["clean"][n, b, place], end)
                        errors.append(np.mean((state - end) ** 2))
        np.testing.assert_allclose(loss, np.mean(errors), rtol=1e-5)
    assert len(drawn) == (FRAMES // CHUNK + 1) * 2 * 2
    with pytest.raises(ValueError, match="record them at those of the plan"):
        ode.ode_regression(
            s.model, s.plan, config, times[:3], s.params, dict(batch, trajectory=paths[:, :3]), jax.random.key(0)
        )


def test_consistency(monkeypatch):
    """f at t against the average's f one Euler step of the guided teacher nearer; at the end against the end itself."""
    with precision("float64"):
        s, calls = Setting(self_forcing(chunk=CHUNK, history=2)), []

        def linear(model, plan, params, x, t, clean, reference, drive, knotted):
            calls.append((np.asarray(x), np.asarray(t)))
            assert plan.commit == "clean"
            return params["gain"] * x + jnp.mean(drive.text) + 0 * t[..., None, None, None]

        monkeypatch.setattr(ode, "forced_pass", linear)
        monkeypatch.setattr(ode, "text_rows", lambda model, params, batch: (batch["text"], batch["blank_text"]))
        words, blank = float(jnp.mean(s.batch["text"])), float(jnp.mean(s.batch["blank_text"]))
        config = ode.ConsistencyConfig(count=3, guidance=Guidance(2.0))
        student, ema, teacher = ({"dit": {"gain": gain}} for gain in (0.7, 0.6, 0.4))
        grid = np.array([0.0] + [5000 * n / (1 + 4 * n) for n in (1 / 3, 2 / 3, 1.0)])
        ends = set()
        for key in range(8):
            calls.clear()
            loss, _ = ode.causal_consistency(
                s.model, s.plan, config, student, ema, teacher, s.batch, jax.random.key(key)
            )
            x, now = calls[0]
            now = now[..., None, None, None]
            index = np.argmin(np.abs(grid - now), -1)[..., None]
            after = grid[index - 1]
            ends |= set(index.ravel())
            np.testing.assert_allclose(grid[index], now)
            clean = np.asarray(forced.windows(s.plan, s.batch["latents"]))
            noise = (x - (1 - now / 1000) * clean) / (now / 1000)
            assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.15
            end = 0.4 * x + words + 2.0 * (words - blank)
            nearer = x + (after - now) / 1000 * (x - end) / (now / 1000)
            wanted = np.where(after > 0, 0.6 * nearer + words, nearer)
            np.testing.assert_allclose(loss, np.mean((0.7 * x + words - wanted) ** 2), rtol=1e-9)
        assert ends == {1, 2, 3}


def test_trajectories_come_back(tmp_path):
    rng = np.random.default_rng(0)
    samples = [
        {"trajectory": rng.normal(size=(2, 3)).astype(np.float16), "times": np.float32([1000, i])} for i in range(5)
    ]
    path = tmp_path / "a" / "00000.array_record"
    assert trajectories.write(path, iter(samples)) == 5
    data, seen = trajectories.batches([path], 5, seed=0), {}
    first = next(data)
    for row, times in zip(first["trajectory"], first["times"]):
        seen[float(times[1])] = row
    assert all(np.array_equal(seen[float(i)], samples[i]["trajectory"]) for i in range(5))
