"""Which diffusion time every frame of a window has in every pass."""

import dataclasses

import numpy as np

from knotjax.streaming.plan import StreamPlan


@dataclasses.dataclass(frozen=True)
class Levels:
    """The denoising passes of one step."""

    now: np.ndarray  # [P, F], diffusion time of every frame
    after: np.ndarray  # [P, F], the time that it moves on to
    number: np.ndarray  # int32 [P], from 1


def levels(plan: StreamPlan, first: bool) -> Levels:
    """The passes of block 0 (P may be larger there), or those of every later step.

    A window of W blocks with N passes a step has K = W * N levels: block b (0 is the oldest) is at level
    (W - 1 - b) * N + p in pass p and moves one level on after it; level K is clean.
    """
    times = plan.first_timesteps if first and plan.first_timesteps else plan.timesteps
    count = len(times) // plan.blocks
    number = np.arange(1, count + 1, dtype=np.int32)
    block = np.minimum(np.arange(plan.span) // plan.chunk, plan.blocks - 1)  # the knot belongs to the newest block
    level = (plan.blocks - 1 - block) * count + (number - 1)[:, None]  # [P, F]
    times = np.asarray((*times, 0.0))
    return Levels(times[level], times[level + 1], number)
