"""Distribution matching against closed forms, independent formulas and finite differences."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knotjax.models.dit import Conditions, Context, undriven
from knotjax.streaming.methods import knot_forcing
from knotjax.streaming.noise import add_noise
from knotjax.training import dmd
from knotjax.training.clip import Guidance, guided
from knotjax.training.dmd import Cast, DMDConfig
from knotjax.training.rollout import Exit
from tests.helpers import GRID, normal, precision, random_params, relative, tiny

PLAN = knot_forcing(chunk=2, window=4, start=4, stride=2, steps=(1000, 500))
FRAMES = 4


class Setting:
    """Three tiny networks with different weights, and a batch."""

    def __init__(self, prediction="v"):
        rng, dtype = np.random.default_rng(1), "float64"
        self.model = tiny(prediction=prediction)
        self.apply = jax.jit(self.model.apply)
        c = self.model.config
        self.cast = Cast(self.model, PLAN, self.model, self.model)
        self.student, self.teacher, self.critic = ({"dit": random_params(self.model, s, dtype)} for s in (1, 2, 3))
        self.batch = {
            "reference": normal(rng, (2, 1, *GRID, c.latent_channels), dtype),
            "audio": normal(rng, (2, FRAMES + 1, *c.audio_window), dtype),
            "motion": normal(rng, (2, FRAMES + 1, *c.motion_window), dtype),
            "text": normal(rng, (2, 2, c.text_dim), dtype),
            "blank_text": normal(rng, (2, 2, c.text_dim), dtype),
        }
        self.key = jax.random.key(4)

    def clip(self, params, exit):
        """The rollout that a loss makes of `key`."""
        return dmd.student_clip(self.cast, params, self.batch, jax.random.split(self.key)[0], exit)

    def noised(self, config, clip):
        """What the networks are shown of it: x_t, t and the noise."""
        x, t, noise = (np.asarray(a) for a in dmd._noised(config, jnp.asarray(clip), jax.random.split(self.key)[1]))
        assert np.all(t >= 20) and np.all(t <= 980) and np.all(t == t[:, :1])
        sigma = t[..., None, None, None] / 1000
        np.testing.assert_allclose(x, (1 - sigma) * np.asarray(clip) + sigma * noise, rtol=1e-9)
        assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.15
        return x, t, noise

    def plain_score(self, params, x, t, text, audio, lead):
        """The network called directly: the clip's frames, and the reference behind them as context."""
        b, p = self.batch, {"params": params["dit"]}
        zero = jnp.zeros((2, 1))
        still = undriven(self.model.config, text, 1)
        _, (k, v) = self.apply(p, b["reference"], b["reference"], zero, zero, jnp.zeros((2, 1), jnp.int32), still)
        place = jnp.full((2, 1), FRAMES - 1 + lead)
        position = jnp.tile(jnp.arange(FRAMES)[None], (2, 1))
        conditions = Conditions(text, audio, b["motion"][:, :FRAMES])
        context = Context(k, v, place, jnp.ones((2, 1), bool))
        out, _ = self.apply(p, x, 0 * x, jnp.ones((2, FRAMES)), t, position, conditions, (context,))
        return np.asarray(x - t[..., None, None, None] / 1000 * out)


@pytest.fixture
def setting():
    with precision("float64"):
        yield Setting()


def test_generator_gradient_is_the_product_formula(setting):
    """d loss / d theta = <(fake - real) / mean |x - real| / numel, d clip / d theta>, with scores computed directly."""
    s, exit = setting, Exit(1)
    config = DMDConfig(guidance=Guidance(branches=(5.0, 2.0)), lead=2)

    def loss(params):
        return dmd.generator_loss(s.cast, config, params, s.teacher, s.critic, s.batch, s.key, exit)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(s.student)
    clip = np.asarray(jax.jit(s.clip, static_argnums=1)(s.student, exit))
    x, t, _ = s.noised(config, clip)
    text, blank, audio = s.batch["text"], s.batch["blank_text"], s.batch["audio"][:, :FRAMES]
    full, words, nothing = (
        s.plain_score(s.teacher, x, t, *heard, 2) for heard in ((text, audio), (text, 0 * audio), (blank, 0 * audio))
    )
    real = nothing + 5 * (words - nothing) + 2 * (full - words)
    assert min(relative(words, full), relative(nothing, words)) > 0.01
    fake = s.plain_score(s.critic, x, t, text, audio, 2)
    step = (fake - real) / np.abs(clip - real).mean((1, 2, 3, 4), keepdims=True)
    assert float(value) == pytest.approx(0.5 * np.mean(step**2), rel=1e-9)

    # The gradient enters through the exit forwards alone, so the clip is differentiated with its caches held.
    cotangent = jnp.asarray(step / step.size)
    product = jax.jit(jax.grad(lambda p: jnp.sum(cotangent * s.clip(p, exit))))(s.student)
    assert max(jax.tree.leaves(jax.tree.map(relative, gradient, product))) < 1e-9
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient["dit"]["blocks"]["block0"])) > 0


def test_generator_gradient_by_finite_differences(setting):
    """One block, one pass and no reference: nothing is held, so the gradient is that of the clip itself."""
    s, exit, config = setting, Exit(0), DMDConfig()
    s.batch |= {name: s.batch[name][:, :3] for name in ("audio", "motion")}
    plan = dataclasses.replace(PLAN, anchor=dataclasses.replace(PLAN.anchor, source="none", place="behind"))
    s.cast = dataclasses.replace(s.cast, plan=plan)

    def loss(params):
        return dmd.generator_loss(s.cast, config, params, s.teacher, s.critic, s.batch, s.key, exit)[0]

    @jax.jit
    def clip(params):
        return s.clip(params, exit)

    gradient = jax.jit(jax.grad(loss))(s.student)
    x, t, _ = s.noised(config, clip(s.student))
    real, fake = jax.jit(partial(dmd.scores, s.cast, config))(s.teacher, s.critic, s.batch, x, t)
    step = np.asarray(fake - real) / np.abs(clip(s.student) - real).mean((1, 2, 3, 4), keepdims=True)
    rng, h = np.random.default_rng(8), 1e-6
    u = jax.tree.map(lambda a: normal(rng, a.shape, "float64"), s.student)
    ahead, behind = (clip(jax.tree.map(lambda a, d, h=h: a + h * d, s.student, u)) for h in (h, -h))
    differences = float(np.sum(step / step.size * np.asarray(ahead - behind)) / (2 * h))
    ours = sum(float(jnp.sum(a * b)) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(u)))
    print("gradient along u", ours, "by finite differences", differences)
    assert abs(ours) > 1e-3 and ours == pytest.approx(differences, rel=1e-6)


def test_critic_loss_is_the_flow_loss(setting):
    """mean |v - (noise - x)|^2 on a new rollout; no gradient reaches the student."""
    s, exit, config = setting, Exit(0), DMDConfig()

    def loss(params, student):
        return dmd.critic_loss(s.cast, config, params, student, s.batch, s.key, exit)[0]

    value, (mine, theirs) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(s.critic, s.student)
    clip = np.asarray(jax.jit(s.clip, static_argnums=1)(s.student, exit))
    x, t, noise = s.noised(config, clip)
    x0 = s.plain_score(s.critic, x, t, s.batch["text"], s.batch["audio"][:, :FRAMES], 1)
    v = (x - x0) / (t[..., None, None, None] / 1000)
    assert float(value) == pytest.approx(np.mean((v - (noise - clip)) ** 2), rel=1e-9)
    assert all(float(jnp.abs(a).max()) == 0.0 for a in jax.tree.leaves(theirs))
    assert float(jnp.abs(mine["dit"]["head"]["kernel"]).max()) > 1e-3


def test_critic_floor(monkeypatch):
    """An estimate of x0 that is off by d costs d^2 / (floor + sigma)^2."""
    plain, config = tiny(), DMDConfig(floor=0.5)
    batch = {"text": None, "blank_text": None, "reference": None, "motion": jnp.zeros((2, 3, 1, 1))}
    times, clip = {}, jnp.ones((2, 3, 2, 2, 1))

    def off(model, plan, params, x, t, *rest, **more):
        times["t"] = np.asarray(t)
        return clip + 0.5

    monkeypatch.setattr(dmd, "student_clip", lambda *args: clip)
    monkeypatch.setattr(dmd, "clip_pass", off)
    call = (Cast(plain, PLAN, plain, plain), config, {"dit": None}, {}, batch, jax.random.key(0), Exit(0))
    loss, scalars = dmd.critic_loss(*call)
    assert float(loss) == pytest.approx(np.mean(0.25 / (0.5 + times["t"] / 1000) ** 2), rel=1e-5)
    assert float(scalars["critic_error"]) == pytest.approx(0.25, rel=1e-5)


def test_times_are_shifted_and_clamped():
    t = np.asarray(dmd.draw_times(DMDConfig(), jax.random.key(0), 20_000))
    assert t.min() == 20.0 and t.max() == 980.0
    assert np.median(t) == pytest.approx(5000 * 0.5 / (1 + 4 * 0.5), rel=0.01)
    assert np.mean(t == 980.0) == pytest.approx(1 - 0.98 / (5 - 4 * 0.98), abs=0.01)


def gaussian_kl(mean, spread, to_mean, to_spread):
    """KL(N(mean, spread^2) || N(to_mean, to_spread^2)), summed."""
    ratio = spread / to_spread
    return float(np.sum(0.5 * (ratio**2 + ((mean - to_mean) / to_spread) ** 2 - 1) - np.log(np.abs(ratio))))


def test_direction_lowers_a_known_divergence():
    """A Gaussian student with the true scores of both sides comes to the Gaussian teacher."""
    with precision("float64"):
        rng, size = np.random.default_rng(0), 3
        mean, spread = normal(rng, (size,), "float64"), jnp.array([0.3, 1.0, 2.0])
        start = student = (mean + 2.0, jnp.array([1.0, 2.0, 0.5]))

        def denoise(x, sigma, mean, spread):  # E[x0 | x_t] of a Gaussian
            gain = (1 - sigma) * spread**2 / ((1 - sigma) ** 2 * spread**2 + sigma**2)
            return mean + gain * (x - (1 - sigma) * mean)

        @jax.jit
        def update(student, key):
            keys = jax.random.split(key, 3)
            z, noise = (jax.random.normal(k, (512, 1, 1, 1, size)) for k in keys[:2])
            t = dmd.draw_times(DMDConfig(), keys[2], 512)[:, None]

            def loss(student):
                clip = student[0] + student[1] * z
                x = add_noise(jax.lax.stop_gradient(clip), noise, t)
                sigma = t[..., None, None, None] / 1000
                real, fake = denoise(x, sigma, mean, spread), denoise(x, sigma, *jax.lax.stop_gradient(student))
                return dmd.matching_loss(clip, dmd.direction(clip, real, fake))

            return jax.tree.map(lambda a, g: a - 0.3 * g, student, jax.grad(loss)(student))

        trace = [gaussian_kl(*student, mean, spread)]
        for step in range(600):
            student = update(student, jax.random.key(step))
            trace.append(gaussian_kl(*student, mean, spread))
        print("KL", [round(v, 4) for v in trace[::100]])
        assert trace[0] > 1.0 and trace[-1] < 0.01 * trace[0]
        assert all(b < a for a, b in zip(trace[:100:20], trace[20:120:20]))
        assert relative(student[0], start[0]) > 0.1


def test_guidance_forms():
    """`scale` is cond + g (cond - uncond); equal branches of s are the same as scale s - 1."""
    full = Conditions(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 1, 1)), jnp.ones((1, 2, 1, 1)))

    def predict(c):
        return 10.0 * jnp.sum(c.text) + jnp.sum(c.audio) ** 2 + jnp.sum(c.motion)

    blank = 0.5 * full.text
    cond, uncond = 60.0 + 4.0 + 2.0, 30.0 + 2.0
    assert float(guided(predict, full, blank, Guidance(3.0))) == cond + 3.0 * (cond - uncond)
    assert float(guided(predict, full, blank, Guidance(0.0))) == cond
    words = 60.0 + 2.0
    wanted = uncond + 5.0 * (words - uncond) + 2.0 * (cond - words)
    assert float(guided(predict, full, blank, Guidance(branches=(5.0, 2.0)))) == wanted
    same = guided(predict, full, blank, Guidance(branches=(4.0, 4.0)))
    assert float(same) == cond + 3.0 * (cond - uncond)
