"""Noticing that a stream went wrong, and starting it anew from its reference without a gap.

Nothing here is compiled again for a fault: which streams are bad is data. Between two steps, when `jit_check` reports a
stream, `mend` replaces the block that it emitted and `jit_reanchor` rids its context of what the fault has reached. A
context cannot be masked instead: a masked value is multiplied by 0, and 0 times NaN is NaN.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from knotjax.streaming.levels import levels
from knotjax.streaming.noise import add_noise, block_noise
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import StreamState

RESEED = 2**19  # number of the draw that a window starts from again, apart from the passes' numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Record:
    """How a stream has looked: statistics of its latents over places, per channel."""

    mean: jax.Array  # [B, z], of the reference
    spread: jax.Array  # [B, 1], standard deviation of the reference over places, in the mean square over channels
    recent: jax.Array  # [B, z], mean of the newest healthy frames


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Limits:
    """What a frame may be, in units of `Record.spread`.

    How far a frame is off is the mean over channels of how far the channel's mean over places is. NaN and infinity are
    always bad. The defaults leave the shipped model's own streams a factor of 2 (`experiments/recovery`).
    """

    step: jax.Array | float = 0.12  # off the recent past, which follows the stream
    drift: jax.Array | float = 0.25  # off the reference
    size: jax.Array | float = 40.0  # of the largest latent, off the reference's mean


def observe(reference) -> Record:
    """The record of a stream that has emitted nothing; reference [B, 1, H, W, z]."""
    mean, variance = (f(reference, (1, 2, 3)) for f in (jnp.mean, jnp.var))
    return Record(mean, jnp.sqrt(jnp.mean(variance, -1, keepdims=True)) + 1e-6, mean)


def check(record: Record, emitted, exists, limits: Limits = Limits()) -> tuple[Record, jax.Array]:
    """Look at one emitted block.

    Args:
      emitted: [B, F, H, W, z].
      exists: bool [B, F], frames of the stream; others are not looked at.
      limits: numbers or arrays that broadcast to [B, F].

    Returns:
      The record that healthy blocks have gone into, and bool [B], the streams in which a frame is bad.
    """
    base, scale = (a[:, None] for a in (record.mean, record.spread))  # [B, 1, z]
    off = (emitted - base[:, :, None, None]) / scale[:, :, None, None]
    finite = jnp.all(jnp.isfinite(off), (2, 3, 4))  # [B, F]
    size = jnp.max(jnp.abs(off), (2, 3, 4))
    mean = jnp.mean(off, (2, 3))  # [B, F, z], from the reference's
    recent = ((record.recent - record.mean) / record.spread)[:, None]
    step, drift = (jnp.mean(jnp.abs(a), -1) for a in (mean - recent, mean))  # [B, F]
    fine = finite & (size <= limits.size) & (step <= limits.step) & (drift <= limits.drift)
    bad = jnp.any(exists & ~fine, 1)
    count = jnp.sum(exists, 1, keepdims=True)
    average = jnp.sum(jnp.where(exists[..., None], mean, 0.0), 1) / jnp.maximum(count, 1)  # [B, z]
    now = 0.5 * (record.recent + record.mean + record.spread * average)
    # After a bad block the stream starts again from its reference.
    now = jnp.where(bad[:, None], record.mean, jnp.where(count > 0, now, record.recent))
    return dataclasses.replace(record, recent=now), bad


def mend(emitted, reference, bad):
    """The emitted block with a still of the reference in place of what bad streams made."""
    return jnp.where(bad[:, None, None, None, None], reference, emitted)


def reanchor(plan: StreamPlan, state: StreamState, bad) -> StreamState:
    """The state in which bad streams begin anew at their next frame; the others are untouched.

    Their context is overwritten, and nothing before the next frame counts as existing. Reference, key, frame numbers
    and end stay. The half-denoised blocks of a rolling window become the reference, noised to where each of them
    stands, so a window does not have to fill again; a sink is taken from the next block that is emitted.

    Args:
      state: between two steps.
      bad: bool [B].
    """
    first = plan.first_frame(state.block)

    def clear(leaf, axis=0):
        return jnp.where(bad.reshape(-1, *(1,) * (leaf.ndim - 1 - axis)), jnp.zeros((), leaf.dtype), leaf)

    changes = {name: getattr(state, name).map(partial(clear, axis=2)) for name in ("ring", "memory")}
    if plan.anchor.source == "stream":
        changes["anchor"] = state.anchor.map(partial(clear, axis=2))
    older = plan.blocks - 1
    if older:
        times = jnp.asarray(levels(plan, first=False).now[0, : older * plan.chunk], state.window.dtype)
        noise = block_noise(
            state.key, state.block, jnp.full_like(state.block, RESEED), state.window.shape[1:], times.dtype
        )
        window = add_noise(state.reference, noise, jnp.broadcast_to(times, state.window.shape[:2]))
        changes["window"] = jnp.where(bad[:, None, None, None, None], window, state.window)
    return dataclasses.replace(
        state,
        since=jnp.where(bad, jnp.maximum(first, state.since), state.since),
        memory_valid=clear(state.memory_valid),
        knot=clear(state.knot),
        past=jax.tree.map(clear, state.past),
        **changes,
    )


jit_check = jax.jit(check)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def jit_reanchor(plan: StreamPlan, state: StreamState, bad) -> StreamState:
    """`reanchor`, compiled, with the state updated in place."""
    return reanchor(plan, state, bad)
