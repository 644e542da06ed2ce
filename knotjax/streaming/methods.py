"""The published systems, each as one plan."""

from collections.abc import Callable

from knotjax.streaming.noise import warp
from knotjax.streaming.plan import AnchorPolicy, KnotPolicy, StreamPlan


def knot_forcing(
    *,
    chunk: int = 3,
    window: int = 6,
    knot: int = 1,
    start: int = 8,
    stride: int = 4,
    steps: tuple[int, ...] = (1000, 750, 500, 250),
    shift: float = 5.0,
    given_reference: bool = False,
) -> StreamPlan:
    """Knot Forcing (arXiv 2512.21734), Algorithm 1: c = 3, L = 6, k = 1, four steps.

    The paper gives neither n0 nor s nor the step list: `start` and `stride` are those of the one public
    re-implementation, `steps` and `shift` those of Self Forcing, which the paper follows.
    """
    return StreamPlan(
        chunk=chunk,
        window=window,
        timesteps=warp(steps, shift),
        knot=KnotPolicy(frames=knot),
        anchor=AnchorPolicy(start=start, stride=stride),
        given_reference=given_reference,
    )


METHODS: dict[str, Callable[..., StreamPlan]] = {"knot_forcing": knot_forcing}
