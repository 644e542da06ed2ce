"""Learning from the teacher's probability-flow ODE: regression to its end, and consistency along it."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.models.dit import Conditions, DiT, wide
from knotjax.streaming.levels import levels
from knotjax.streaming.noise import add_noise, renoise, warp
from knotjax.streaming.plan import StreamPlan
from knotjax.training.clip import Guidance, clip_pass, guided, text_rows
from knotjax.training.objectives.forced import chunks, clip_drive, existing, forced_pass, single, windows


def euler_times(count: int, shift: float) -> tuple[float, ...]:
    """Diffusion times of the states 0 .. count of an ODE of `count` Euler steps, from 1000 to 0."""
    return (*warp([1000 - 1000 * i / count for i in range(count)], shift), 0.0)


def ode_trajectory(
    model: DiT, plan: StreamPlan, params, batch: Mapping, key, *, count: int, keep, shift, guidance: Guidance, lead=1
):
    """States of the teacher's ODE from noise to a clip, all frames at once ("ODE backfill").

    Args:
      params: {"dit": ..., "words": ...} of the bidirectional teacher.
      batch: reference [B, 1, H, W, z]; audio and motion [B, F, P, C]; words, or text and blank_text.
      count: Euler steps (Self Forcing: 48).
      keep: which of the states 0 .. count to keep; 0 is noise, count the clip (Self Forcing: 0, 12, 24, 36, 48).

    Returns:
      States [B, S, F, H, W, z], and their diffusion times, a tuple of S floats.
    """
    rows = batch["audio"] if batch.get("audio") is not None else batch["motion"]
    reference = batch["reference"]
    size, frames = rows.shape[:2]
    text, blank = text_rows(model, params, batch)
    conditions = Conditions(text, batch.get("audio"), batch.get("motion"))
    times = euler_times(count, shift)

    def one(x, pair):
        now, after = (jnp.broadcast_to(a, (size, frames)).astype(x.dtype) for a in pair)

        def predict(c):
            return clip_pass(model, plan, params["dit"], x, now, reference, c, lead=lead)

        moved = renoise("euler", guided(predict, conditions, blank, guidance), x, now, after, None)
        return moved, moved

    x = jax.random.normal(key, (size, frames, *reference.shape[2:]), reference.dtype)
    _, states = jax.lax.scan(one, x, (jnp.asarray(times[:-1]), jnp.asarray(times[1:])))
    states = jnp.concatenate([x[None], states])[jnp.asarray(keep)]
    return jnp.moveaxis(states, 0, 1), tuple(times[i] for i in keep)


@dataclasses.dataclass(frozen=True)
class OdeConfig:
    """How points of a trajectory are drawn."""

    levels: str = "chunk"  # "chunk": one point per chunk (CausVid, Self Forcing); "shared": one per clip (Causal
    # Forcing); "plan": those at the levels that the plan's window stands at (AvatarForcing, Sec. 3.4)


def draw_points(plan: StreamPlan, config: OdeConfig, times, key, steps: int, batch: int):
    """Which point of its trajectory every frame of every window stands at, int [n, B, span].

    Raises:
      ValueError: a level of the plan was not recorded.
    """
    if config.levels == "plan":
        own = levels(plan, first=False).now  # [N, span]
        point = np.argmin(np.abs(np.asarray(times) - own[..., None]), -1)
        if not np.allclose(np.asarray(times)[point], own, atol=0.5):
            raise ValueError(f"trajectories at t = {times}: record them at those of the plan, {plan.timesteps} and 0")
        return jnp.asarray(point)[jax.random.randint(key, (steps, batch), 0, len(point))]
    index = jax.random.randint(key, (1 if config.levels == "shared" else steps, batch), 0, len(times))
    return jnp.broadcast_to(index[..., None], (steps, batch, plan.span))


def ode_regression(model: DiT, plan: StreamPlan, config: OdeConfig, times, params, batch: Mapping, key):
    """Mean squared error between the student's estimate at a point of a trajectory and the trajectory's end.

    The plan's `commit` says what a chunk looks at: "same_step" the noisy chunks before it (CausVid, Self Forcing),
    "clean" their true ends (Causal Forcing). Frames at t = 0 are no part of the loss. At the levels of a plan of
    several blocks whole windows are trained, else single blocks.

    Args:
      times: diffusion times of the S points, falling to 0.
      params: {"dit": ..., "words": ...}.
      batch: trajectory [B, S, F, H, W, z], F whole blocks and the knot's frames; reference, audio, motion, words.

    Returns:
      The loss and a dict of scalars.
    """
    trajectory = batch["trajectory"].astype(batch["reference"].dtype)
    plan = plan if config.levels == "plan" else single(plan, blocks=1)
    size, points, frames = trajectory.shape[:3]
    steps = chunks(plan, frames)
    index = draw_points(plan, config, times, key, steps, size)
    plan = single(plan)
    states = jnp.stack([windows(plan, trajectory[:, s]) for s in range(points)])  # [S, n, B, span, H, W, z]
    x = jnp.take_along_axis(states, index[None, ..., None, None, None], 0)[0]
    target = states[-1]
    t = jnp.asarray(times, x.dtype)[index]
    drive = clip_drive(plan, batch, text_rows(model, params, batch)[0], steps)
    knotted = jnp.broadcast_to((jnp.arange(steps) > 0)[:, None], (steps, size))
    x0 = forced_pass(model, plan, params["dit"], x, t, target, batch["reference"], drive, knotted)
    each = jnp.mean(jnp.square((x0 - target).astype(wide(x.dtype))), (3, 4, 5))  # [n, B, span]
    counts = existing(plan, frames)[:, None] & (t > 0.0)
    loss = jnp.sum(jnp.where(counts, each, 0.0)) / jnp.maximum(jnp.sum(counts), 1)
    return loss, {"loss": loss}


@dataclasses.dataclass(frozen=True)
class ConsistencyConfig:
    """Causal consistency distillation as in Causal Forcing."""

    count: int = 48  # points of the ODE
    shift: float = 5.0
    guidance: Guidance = dataclasses.field(default_factory=lambda: Guidance(2.0))  # of the teacher: a scale of 3


def causal_consistency(
    model: DiT, plan: StreamPlan, config: ConsistencyConfig, params, ema, teacher, batch: Mapping, key
):
    """Mean squared error between f(x_t, t) and the average's f at the ODE's next point, one Euler step of the teacher.

    Student, average and teacher (an autoregressive one, from teacher forcing) all look at the clean past, each through
    its own caches. One point is drawn per clip.

    Args:
      params, ema, teacher: {"dit": ..., "words": ...}; only `params` gets a gradient.
      batch: latents [B, F, H, W, z], reference, audio, motion, words.

    Returns:
      The loss and a dict of scalars.
    """
    plan, latents = single(plan, blocks=1, commit="clean"), batch["latents"]
    size, frames = latents.shape[:2]
    steps = chunks(plan, frames)
    one, two = jax.random.split(key)
    times = jnp.asarray((0.0, *warp([1000 * i / config.count for i in range(1, config.count + 1)], config.shift)))
    index = jax.random.randint(one, (1, size), 1, config.count + 1)
    target = windows(plan, latents)

    def everywhere(t):
        return jnp.broadcast_to(t[..., None], target.shape[:3]).astype(latents.dtype)

    now, after = everywhere(times[index]), everywhere(times[index - 1])
    x = add_noise(target, jax.random.normal(two, target.shape, latents.dtype), now)
    knotted = jnp.broadcast_to((jnp.arange(steps) > 0)[:, None], (steps, size))

    def estimate(params, x, t, conditions=None):
        drive = clip_drive(plan, batch, text_rows(model, params, batch)[0], steps) if conditions is None else conditions
        return forced_pass(model, plan, params["dit"], x, t, target, batch["reference"], drive, knotted)

    text, blank = text_rows(model, teacher, batch)
    drive, blank = clip_drive(plan, batch, text, steps), jnp.broadcast_to(blank, (steps, *blank.shape))
    end = guided(lambda c: estimate(teacher, x, now, c), drive, blank, config.guidance)
    nearer = renoise("euler", end, x, now, after, None)
    wanted = jnp.where(after[..., None, None, None] > 0.0, estimate(ema, nearer, after), nearer)
    each = jnp.mean(
        jnp.square((estimate(params, x, now) - jax.lax.stop_gradient(wanted)).astype(wide(x.dtype))), (3, 4, 5)
    )
    there = jnp.broadcast_to(existing(plan, frames)[:, None], each.shape)
    loss = jnp.sum(jnp.where(there, each, 0.0)) / jnp.sum(there)
    return loss, {"loss": loss}
