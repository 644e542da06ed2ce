"""The published systems, each as one plan with its paper's numbers, and a few that no paper has.

`parity="upstream"` takes over what the public code does differently from its paper; the default does not.
"""

from collections.abc import Callable, Sequence

from knotjax.streaming.noise import warp
from knotjax.streaming.plan import AnchorPolicy, KnotPolicy, MemoryPolicy, StreamPlan

FEW_STEPS = (1000, 750, 500, 250)  # Self Forcing, LongLive, Causal Forcing, Knot Forcing
CLIP = 21  # latent frames of the training clips of Self Forcing and CausVid
NO_ANCHOR = AnchorPolicy(source="none", place="behind")


def _upstream(parity: str) -> bool:
    if parity not in ("clean", "upstream"):
        raise ValueError(f"parity {parity!r}: must be clean or upstream")
    return parity == "upstream"


def knot_forcing(
    *,
    chunk: int = 3,
    window: int = 6,
    knot: int = 1,
    start: int = 8,
    stride: int = 4,
    steps: Sequence[int] = FEW_STEPS,
    shift: float = 5.0,
    commit: str = "clean",
    memory: int = 0,
    given_reference: bool = False,
) -> StreamPlan:
    """Knot Forcing (arXiv 2512.21734), Algorithm 1: c = 3, L = 6, k = 1, four steps.

    The paper gives neither n0 nor s nor the step list: `start` and `stride` are those of the one public
    re-implementation, `steps` and `shift` those of Self Forcing, which the paper follows. `window` is L: it counts the
    current chunk, not the knot and not the reference.
    """
    if window < chunk:
        raise ValueError(f"window {window}: must hold the current chunk of {chunk} latent frames")
    return StreamPlan(
        chunk=chunk,
        history=window - chunk,
        timesteps=warp(steps, shift),
        knot=KnotPolicy(frames=knot),
        anchor=AnchorPolicy(start=start, stride=stride),
        commit=commit,
        memory=MemoryPolicy(frames=memory),
        given_reference=given_reference,
    )


def knot_neighbor(**changes) -> StreamPlan:
    """Knot Forcing with the caches of Neighbor Forcing: no clean pass. In no paper."""
    return knot_forcing(**{"commit": "same_step"} | changes)


def knot_convkv(**changes) -> StreamPlan:
    """Knot Forcing with a ConvKV memory of one frame before its history. In no paper."""
    return knot_forcing(**{"memory": 1} | changes)


def live_act(
    *,
    chunk: int = 8,
    first: int = 6,
    reference: int = 2,
    memory: int = 2,
    recent: int = 2,
    steps: Sequence[int] = (1000, 750, 500),
    shift: float = 5.0,
    given_reference: bool = False,
    parity: str = "clean",
) -> StreamPlan:
    """SoulX-LiveAct (arXiv 2603.11746): Neighbor Forcing with ConvKV memory.

    Blocks of 6, then 8 frames; every pass looks at the keys and values that the same pass made of the blocks before:
    two reference frames (the first two of the stream), two of long-term memory, two recent ones. Public code compresses
    over neighbouring tokens instead of over time, and values with the weights of the keys.
    """
    upstream = _upstream(parity)
    return StreamPlan(
        chunk=chunk,
        first_chunk=first,
        history=recent,
        timesteps=warp(steps, shift),
        commit="same_step",
        knot=KnotPolicy(),
        anchor=AnchorPolicy(source="stream", frames=reference, place="behind"),
        memory=MemoryPolicy(memory, "token" if upstream else "time", key_weights_for_values=upstream),
        given_reference=given_reference,
    )


def avatar_forcing(
    *,
    blocks: int = 4,
    passes: int = 1,
    chunk: int = 4,
    history: int = 2,
    steps: Sequence[int] | None = None,
    shift: float = 5.0,
    anchor: str = "behind",
    given_reference: bool = False,
    parity: str = "clean",
) -> StreamPlan:
    """AvatarForcing (arXiv 2603.14331): a window of L = `blocks` blocks at falling noise, N = `passes` passes a step.

    The style anchor (the reference, hearing nothing) stands directly before the temporal anchor, which is `history`
    recent frames: two, as many as public code has left while it denoises. Steps are 1000, 800, 400, 200 for L = 4 and
    N = 1, as released, else evenly spaced. Public code leaves the style anchor at 0 in the clean pass. It also puts the
    reference before the stream as a first frame; here the first frame is generated like the others.
    """
    count = blocks * passes
    if steps is None:
        steps = (1000, 800, 400, 200) if (blocks, passes) == (4, 1) else [1000 - 1000 * m / count for m in range(count)]
    return StreamPlan(
        chunk=chunk,
        blocks=blocks,
        history=history,
        timesteps=warp(steps, shift),
        knot=KnotPolicy(),
        anchor=AnchorPolicy(place=anchor, commit_absolute=2**30 if _upstream(parity) else 0),
        given_reference=given_reference,
    )


def avatar_ahead(**changes) -> StreamPlan:
    """AvatarForcing's window with Knot Forcing's anchor, which runs ahead. In no paper."""
    return avatar_forcing(**{"anchor": "ahead"} | changes)


def self_forcing(
    *,
    chunk: int = 3,
    history: int = CLIP - 3,
    steps: Sequence[int] = FEW_STEPS,
    shift: float = 5.0,
    sink: int = 0,
    given_reference: bool = False,
) -> StreamPlan:
    """Self Forcing (arXiv 2506.08009): clean history, four steps.

    Public code stops after its training clip of 21 frames; streaming on with the newest 18 is ours. `sink` frames are
    kept where they were made, as public code does with its option of that name.
    """
    anchor = AnchorPolicy(source="stream", frames=sink, place="absolute") if sink else NO_ANCHOR
    return StreamPlan(
        chunk=chunk,
        history=history,
        timesteps=warp(steps, shift),
        knot=KnotPolicy(),
        anchor=anchor,
        given_reference=given_reference,
    )


def causvid(*, steps: Sequence[int] = (1000, 757, 522), given_reference: bool = False) -> StreamPlan:
    """CausVid (arXiv 2412.07772): three steps, given as they are. A history of the newest 18 frames is ours."""
    return self_forcing(steps=steps, shift=1.0, given_reference=given_reference)


def causal_forcing(
    *, chunk: int = 3, count: int = 4, history: int = CLIP - 3, shift: float = 5.0, given_reference: bool = False
) -> StreamPlan:
    """Causal Forcing: as Self Forcing, chunk by chunk (`chunk` 3) or frame by frame (1), with 4, 2 or 1 steps.

    The first chunk gets all four steps. With `count` 1 this is AvatarForcing's baseline "causal ODE".
    """
    lists = {4: FEW_STEPS, 2: (1000, 500), 1: (1000,)}
    if count not in lists:
        raise ValueError(f"count {count}: must be 4, 2 or 1")
    return StreamPlan(
        chunk=chunk,
        history=history,
        timesteps=warp(lists[count], shift),
        first_timesteps=None if count == 4 else warp(FEW_STEPS, shift),
        knot=KnotPolicy(),
        anchor=NO_ANCHOR,
        given_reference=given_reference,
    )


def causal_ode(**changes) -> StreamPlan:
    """Causal Forcing with one step, the baseline of AvatarForcing's tables."""
    return causal_forcing(**{"count": 1} | changes)


def rolling_forcing(
    *,
    chunk: int = 3,
    blocks: int = 5,
    sink: int = 3,
    history: int = 3,
    steps: Sequence[int] = (1000, 800, 600, 400, 200),
    shift: float = 5.0,
    given_reference: bool = False,
    parity: str = "clean",
) -> StreamPlan:
    """Rolling Forcing (arXiv 2509.25161): a window of five chunks, one pass a step, the first chunk as a sink.

    Public code's clean pass looks back 18 frames and finds its sink at 0 until 21 frames are cached, later not at all.
    """
    upstream = _upstream(parity)
    return StreamPlan(
        chunk=chunk,
        blocks=blocks,
        history=history,
        commit_history=CLIP - chunk if upstream else None,
        timesteps=warp(steps, shift),
        knot=KnotPolicy(),
        anchor=AnchorPolicy("stream", sink, "behind", commit_absolute=CLIP if upstream else 0),
        given_reference=given_reference,
    )


def longlive(
    *,
    chunk: int = 3,
    window: int = 12,
    sink: int = 3,
    steps: Sequence[int] = FEW_STEPS,
    shift: float = 5.0,
    given_reference: bool = False,
    parity: str = "clean",
) -> StreamPlan:
    """LongLive (arXiv 2509.22622): 12 frames in view, of which the first three of the stream and the current chunk.

    Positions are relative to the window (public code's mode for unlimited length); its other mode leaves the sink where
    it was made. On new words the past can be encoded again (`streaming.switch`).
    """
    if window < chunk + sink:
        raise ValueError(f"window {window}: must hold the chunk of {chunk} and the sink of {sink}")
    return StreamPlan(
        chunk=chunk,
        history=window - chunk - sink,
        timesteps=warp(steps, shift),
        knot=KnotPolicy(),
        anchor=AnchorPolicy("stream", sink, "absolute" if _upstream(parity) else "behind"),
        recache=True,
        given_reference=given_reference,
    )


def live_avatar(
    *,
    chunk: int = 3,
    window: int = 12,
    lead: tuple[int, int] = (4, 30),
    timesteps: Sequence[float] = (1000.0, 857.69, 602.15, 8.93),
    given_reference: bool = False,
) -> StreamPlan:
    """LiveAvatar (arXiv 2512.04677), its schedule: same-step caches, the reference 4 to 30 frames ahead, Euler steps.

    The times are those that its scheduler really makes (a shift of 3, applied twice). One device runs all passes here.
    Its motion frames and the exchange of the reference after the first clip are not part of the plan.
    """
    return StreamPlan(
        chunk=chunk,
        history=window - chunk,
        timesteps=tuple(timesteps),
        sampler="euler",
        commit="same_step",
        knot=KnotPolicy(),
        anchor=AnchorPolicy(place="drawn", start=30, lead=lead),
        given_reference=given_reference,
    )


def bidirectional(
    *, frames: int = CLIP, count: int = 50, shift: float = 5.0, lead: int = 1, given_reference: bool = False
) -> StreamPlan:
    """The teacher's sampler: one clip of `frames` frames at once, many Euler steps, the reference `lead` frames behind
    its end. A second step of such a stream is a clip that knows nothing of the first.
    """
    return StreamPlan(
        chunk=frames,
        history=0,
        timesteps=warp([1000 - 1000 * i / count for i in range(count)], shift),
        sampler="euler",
        commit="none",
        knot=KnotPolicy(),
        anchor=AnchorPolicy(start=frames - 1 + lead, stride=frames),
        given_reference=given_reference,
    )


METHODS: dict[str, Callable[..., StreamPlan]] = {
    function.__name__: function
    for function in (
        knot_forcing,
        live_act,
        avatar_forcing,
        self_forcing,
        causvid,
        causal_forcing,
        causal_ode,
        rolling_forcing,
        longlive,
        live_avatar,
        bidirectional,
        knot_neighbor,
        knot_convkv,
        avatar_ahead,
    )
}
