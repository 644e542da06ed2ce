"""Distribution matching distillation on the student's own rollouts (DMD2, arXiv 2405.14867; Self Forcing, Sec. 3.3).

The student streams a clip; teacher ("real") and critic ("fake") each say what they take the noised clip for. The
student moves along the difference; the critic learns to denoise what the student makes now.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from knotjax.models.dit import Conditions, DiT, wide
from knotjax.streaming.noise import add_noise
from knotjax.streaming.plan import StreamPlan
from knotjax.training.clip import Guidance, clip_pass, guided, text_rows
from knotjax.training.rollout import Exit, begin, rollout


@dataclasses.dataclass(frozen=True)
class DMDConfig:
    """Numbers of distribution matching; the defaults are Self Forcing's, but for `lead` and `floor`, which are ours."""

    shift: float = 5.0  # of the noise level at which the clips are compared
    low: float = 20.0  # and its bounds, as diffusion times
    high: float = 980.0
    guidance: Guidance = dataclasses.field(default_factory=Guidance)
    lead: int = 1  # frames from the clip's last frame to the reference
    floor: float = 0.0  # the critic's squared error of x0 is divided by (floor + sigma)^2; 0: the flow loss itself


@dataclasses.dataclass(frozen=True)
class Cast:
    """The three networks; student and critic learn. Their sizes may differ."""

    student: DiT
    plan: StreamPlan  # how the student streams
    teacher: DiT
    critic: DiT


def draw_times(config: DMDConfig, key, batch: int):
    """One diffusion time per sample: U{0 .. 999}, shifted, then clamped. [B]"""
    u = jax.random.randint(key, (batch,), 0, 1000) / 1000.0
    t = 1000.0 * config.shift * u / (1.0 + (config.shift - 1.0) * u)
    return jnp.clip(t, config.low, config.high)


def direction(x, real, fake):
    """(fake - real) / mean |x - real|, the mean over each sample [B, ...]; 0 where that is not finite."""
    real, fake, x = (a.astype(wide(a.dtype)) for a in (real, fake, x))
    size = jnp.mean(jnp.abs(x - real), tuple(range(1, x.ndim)), keepdims=True)
    return jnp.nan_to_num((fake - real) / size, nan=0.0, posinf=0.0, neginf=0.0)


def matching_loss(x, step):
    """A loss whose gradient at x is `step` / numel: 1/2 mean (x - sg(x - step))^2."""
    x = x.astype(step.dtype)
    return 0.5 * jnp.mean(jnp.square(x - jax.lax.stop_gradient(x - step)))


def student_clip(cast: Cast, params, batch: Mapping, key, exit: Exit):
    """A rollout from a new stream, as long as the batch's drive allows: [B, F, H, W, z]."""
    text, _ = text_rows(cast.student, params, batch)
    drive = {name: batch[name] for name in ("audio", "motion") if batch.get(name) is not None}
    frames = clip_frames(cast.plan, batch)
    state = begin(cast.student, cast.plan, params["dit"], batch["reference"], text, key, frames, exit)
    return rollout(cast.student, cast.plan, params["dit"], state, drive, text, frames, exit)[0]


def clip_frames(plan: StreamPlan, batch: Mapping) -> int:
    """Latent frames of a clip whose drive has F + k rows."""
    return (batch["audio"] if batch.get("audio") is not None else batch["motion"]).shape[1] - plan.knot.frames


def _drive(batch: Mapping, text, frames: int) -> Conditions:
    return Conditions(text, *(None if batch.get(n) is None else batch[n][:, :frames] for n in ("audio", "motion")))


def _noised(config: DMDConfig, clip, key):
    """The clip at one random level per sample: x_t, t [B, F] and the noise."""
    one, two = jax.random.split(key)
    noise = jax.random.normal(two, clip.shape, clip.dtype)
    t = jnp.broadcast_to(draw_times(config, one, len(clip))[:, None], clip.shape[:2]).astype(clip.dtype)
    return add_noise(clip, noise, t), t, noise


def scores(cast: Cast, config: DMDConfig, teacher, critic, batch: Mapping, x, t):
    """What teacher (guided) and critic (not guided) take a noised clip for: two clean estimates [B, F, H, W, z]."""

    def look(model, params, conditions):
        return clip_pass(
            model, cast.plan, params["dit"], x, t, batch["reference"], conditions, lead=config.lead
        )  # fmt: skip

    text, blank = text_rows(cast.teacher, teacher, batch)
    conditions = _drive(batch, text, x.shape[1])
    real = guided(lambda c: look(cast.teacher, teacher, c), conditions, blank, config.guidance)
    text, _ = text_rows(cast.critic, critic, batch)
    return real, look(cast.critic, critic, _drive(batch, text, x.shape[1]))


def generator_loss(cast: Cast, config: DMDConfig, params, teacher, critic, batch: Mapping, key, exit: Exit):
    """The student's loss. Only `params` get a gradient, and only through the exit forwards of the rollout.

    Args:
      params, teacher, critic: {"dit": ..., "words": ...} of the three networks.
      batch: reference [B, 1, H, W, z]; audio, motion [B, F + k, P, C]; words, or text and blank_text.
      exit: see `rollout`.

    Returns:
      The loss and a dict of scalars.
    """
    one, two = jax.random.split(key)
    clip = student_clip(cast, params, batch, one, exit)
    x, t, _ = _noised(config, jax.lax.stop_gradient(clip), two)
    real, fake = scores(cast, config, *jax.lax.stop_gradient((teacher, critic)), batch, x, t)
    step = jax.lax.stop_gradient(direction(clip, real, fake))
    loss = matching_loss(clip, step)
    # `gap` is what the student is after: 0 when teacher and critic cannot tell its clips from the teacher's.
    return loss, {"generator": loss, "gap": jnp.mean(jnp.abs(fake - real)), "size": jnp.std(clip)}


def critic_loss(cast: Cast, config: DMDConfig, params, student, batch: Mapping, key, exit: Exit):
    """The critic's flow-matching loss on a new rollout of the student; only `params`, the critic's, get a gradient.

    Returns:
      The loss and a dict of scalars.
    """
    one, two = jax.random.split(key)
    clip = jax.lax.stop_gradient(student_clip(cast, jax.lax.stop_gradient(student), batch, one, exit))
    x, t, _ = _noised(config, clip, two)
    text, _ = text_rows(cast.critic, params, batch)
    conditions = _drive(batch, text, clip.shape[1])
    x0 = clip_pass(
        cast.critic, cast.plan, params["dit"], x, t, batch["reference"], conditions, lead=config.lead
    )  # fmt: skip
    # v - (noise - x) = (x - x0) / sigma
    weight = 1.0 / jnp.square(config.floor + t / 1000.0)[..., None, None, None]
    error = jnp.square((x0 - clip).astype(wide(clip.dtype)))
    loss = jnp.mean(weight * error)
    return loss, {"critic": loss, "critic_error": jnp.mean(error)}
