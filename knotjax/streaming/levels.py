"""Which diffusion time every frame of a window has in every pass."""

import dataclasses

import numpy as np

from knotjax.streaming.plan import StreamPlan


@dataclasses.dataclass(frozen=True)
class Levels:
    """The passes of one step. Where block 0 has times of its own, the shorter list skips its first passes."""

    now: np.ndarray  # [P, F], diffusion time of every frame
    after: np.ndarray  # [P, F], the time that it moves on to
    active: np.ndarray  # bool [P]
    number: np.ndarray  # int32 [P], 1 for the first active pass


def levels(plan: StreamPlan, first: bool) -> Levels:
    """The passes of block 0, or those of every later step.

    A window of W blocks with N passes a step has K = W * N levels: block b (0 is the oldest) is at level
    (W - 1 - b) * N + p in pass p and moves one level on after it; level K is clean.
    """
    longest = max(len(plan.timesteps), len(plan.first_timesteps or ())) if plan.blocks == 1 else plan.passes
    times = plan.first_timesteps if first and plan.first_timesteps else plan.timesteps
    count = len(times) // plan.blocks
    number = np.arange(1, longest + 1, dtype=np.int32) - (longest - count)
    block = np.minimum(np.arange(plan.span) // plan.chunk, plan.blocks - 1)  # the knot belongs to the newest block
    level = (plan.blocks - 1 - block) * count + np.maximum(number - 1, 0)[:, None]  # [P, F]
    times = np.asarray((*times, 0.0))
    return Levels(times[level], times[level + 1], number > 0, number)
