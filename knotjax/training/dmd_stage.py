"""Distribution matching as a training stage: generator and critic updates are separate programs."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax

from knotjax import sharding
from knotjax.streaming.plan import StreamPlan
from knotjax.training import lora
from knotjax.training.dmd import Cast, DMDConfig, critic_loss, generator_loss
from knotjax.training.rollout import Exit, exits
from knotjax.training.stage import Stage, Update, averaged


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Learner:
    """What one optimiser changes."""

    params: dict  # or LoRA pairs
    moments: optax.OptState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DMDState:
    """Everything that a resume needs."""

    step: jax.Array  # int32 [], critic updates
    generations: jax.Array  # int32 [], student updates
    student: Learner
    critic: Learner
    ema: dict  # of the student's parameters, or pairs
    key: jax.Array  # random key data, uint32


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Numbers of the stage; the defaults are Self Forcing's."""

    every: int = 5  # critic updates per student update
    ema: float = 0.99
    ema_start: int = (
        40  # student update from which the average is one (Self Forcing: step 200, of which each 5th counts)
    )
    plain_share: float = 0.5  # with a window of several blocks: rollouts with one block (Rolling Forcing)
    rank: int = 0  # of LoRA pairs for student and critic; 0: all parameters learn
    alpha: float = 0.0  # their weight is alpha / rank; 0: rank


def variants(plan: StreamPlan, plain_share: float) -> tuple[list[tuple[StreamPlan, Exit]], list[float]]:
    """All rollouts that a plan is trained with, and their chances."""
    own = [(plan, exit) for exit in exits(plan)]
    if plan.blocks == 1 or not plain_share:
        return own, [1.0 / len(own)] * len(own)
    one = dataclasses.replace(plan, blocks=1)
    plain = [(one, exit) for exit in exits(one)]
    return own + plain, [(1.0 - plain_share) / len(own)] * len(own) + [plain_share / len(plain)] * len(plain)


def dmd_stage(
    cast: Cast,
    config: DMDConfig,
    schedule: Schedule,
    student,
    critic,
    teacher,
    optimise,
    optimise_critic,
    seed: int = 0,
) -> Stage:
    """The stage. Its state's `student` and `ema` are full parameters, or with `rank` LoRA pairs (see `finished`).

    Args:
      student, critic, teacher: {"dit": ..., "words": ...} to start from.
      optimise, optimise_critic: optax optimisers.
    """
    scale = (schedule.alpha or schedule.rank) / schedule.rank if schedule.rank else 1.0

    def whole(learned, base):
        return lora.merge(base, learned, scale) if schedule.rank else learned

    def key_of(state, salt: int):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        return jax.random.fold_in(key, salt)

    def learn(optimiser, learner: Learner, loss):
        gradient, scalars = jax.grad(loss, has_aux=True)(learner.params)
        gradient = sharding.constrain(gradient)
        change, moments = optimiser.update(gradient, learner.moments, learner.params)
        return Learner(optax.apply_updates(learner.params, change), moments), scalars, optax.global_norm(gradient)

    @partial(jax.jit, static_argnums=(3, 4), donate_argnums=0)
    def generator(state: DMDState, constants, batch, plan: StreamPlan, exit: Exit):
        fake = whole(state.critic.params, constants.get("critic"))

        def loss(learned):
            return generator_loss(
                dataclasses.replace(cast, plan=plan), config, whole(learned, constants.get("student")),
                constants["teacher"], fake, batch, key_of(state, 0), exit,
            )  # fmt: skip

        student, scalars, norm = learn(optimise, state.student, loss)
        ema = averaged(state.ema, student.params, schedule.ema, state.generations, schedule.ema_start)
        changed = dict(student=student, ema=ema, generations=state.generations + 1)
        return sharding.constrain(dataclasses.replace(state, **changed)), scalars | {"generator_gradient": norm}

    @partial(jax.jit, static_argnums=(3, 4), donate_argnums=0)
    def critique(state: DMDState, constants, batch, plan: StreamPlan, exit: Exit):
        made_by = whole(state.student.params, constants.get("student"))

        def loss(learned):
            return critic_loss(
                dataclasses.replace(cast, plan=plan), config, whole(learned, constants.get("critic")),
                made_by, batch, key_of(state, 1), exit,
            )  # fmt: skip

        critic, scalars, norm = learn(optimise_critic, state.critic, loss)
        state = sharding.constrain(dataclasses.replace(state, critic=critic, step=state.step + 1))
        return state, scalars | {"critic_gradient": norm}

    constants = {"teacher": teacher}
    if schedule.rank:
        constants |= {"student": student, "critic": critic}

    def learner(params, optimiser, salt):
        if schedule.rank:
            params = lora.init(params, schedule.rank, jax.random.fold_in(jax.random.key(seed), salt))
        params = jax.tree.map(jnp.copy, params)
        return Learner(params, optimiser.init(params))

    def init():
        zero = jnp.zeros((), jnp.int32)
        made = learner(student, optimise, 0)
        key = jax.random.key_data(jax.random.key(seed))
        copy = jax.tree.map(jnp.copy, made.params)
        return DMDState(zero, jnp.copy(zero), made, learner(critic, optimise_critic, 1), copy, key)

    rollouts, chances = variants(cast.plan, schedule.plain_share)
    updates = (
        Update("generator", generator, schedule.every, rollouts, chances),
        Update("critic", critique, 1, rollouts, chances),
    )
    return Stage("dmd", init, updates, constants, seed)


def finished(stage: Stage, schedule: Schedule, state: DMDState):
    """The student to ship: its moving average, pairs merged."""
    if not schedule.rank:
        return state.ema
    return lora.merge(stage.constants["student"], state.ema, (schedule.alpha or schedule.rank) / schedule.rank)
