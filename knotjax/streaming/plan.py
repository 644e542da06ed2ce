"""The streaming plan: everything static about a system, as small frozen policies.

Frames are latent frames, numbered from 0. Step n of a stream denoises a window of `blocks` blocks of `chunk` frames,
and `knot.frames` more. Its newest block is block n, its oldest one is emitted and committed to the context. Frames
below 0, and frames at or beyond the end of the stream, stand in the arrays but do not exist: nothing looks at them.
So ramp, flush and a part-filled first or last block are data, not programs.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class KnotPolicy:
    """The temporal knot (Knot Forcing, Sec. 3.2): the last frames of a block are denoised again by the next one."""

    frames: int = 0  # k, latent frames handed over
    weight: float = 0.5  # share of the earlier prediction in the fused frame


@dataclasses.dataclass(frozen=True)
class AnchorPolicy:
    """Frames that stay in the context for good, and where they stand in time.

    `source`:
      "reference": the portrait, encoded once at t = 0, seeing only itself, driven by nothing.
      "stream": the first `frames` frames of the stream itself, as they were committed (a sink).
      "none": no anchor.

    `place`:
      "ahead": at the smallest start + m * stride, m >= 0, beyond all denoised frames (Knot Forcing, Sec. 3.3, "running
        ahead", with "while" for Algorithm 1's "if").
      "drawn": max(`start`, first denoised frame + r), r drawn from `lead` anew for every pass (LiveAvatar);
        a clean pass counts as pass 0.
      "behind": directly before the oldest frame of the context (Rolling Forcing, AvatarForcing, LongLive, LiveAct).
      "absolute": where it was made, farther away with every block (Self Forcing's sinks).
    """

    source: str = "reference"
    frames: int = 1
    place: str = "ahead"
    start: int = 8  # n0
    stride: int = 4  # s
    lead: tuple[int, int] = (4, 30)  # r, the upper bound excluded
    commit_absolute: int = 0  # public code's clean pass: 0 as above; n: "absolute", and gone beyond n frames


@dataclasses.dataclass(frozen=True)
class MemoryPolicy:
    """ConvKV memory (SoulX-LiveAct, Sec. 3.3): what leaves the ring is compressed into a few frames.

    Memory and the frames that leave the ring, m + chunk in all, become m again, each from `ratio` neighbours. As long
    as the memory is not full it takes the newest frames that leave the ring as they are.
    """

    frames: int = 0  # m; 0: no memory
    axis: str = "time"  # "time": one place over `ratio` frames; "token": `ratio` tokens in raster order (public code)
    key_weights_for_values: bool = False  # public code compresses values with the weights of the keys


@dataclasses.dataclass(frozen=True)
class StreamPlan:
    """One streaming system.

    Raises:
      ValueError: a field is out of range; the message names the field and the reason.
    """

    chunk: int = 3  # c, latent frames emitted per step
    first_chunk: int | None = None  # frames of block 0 when it is shorter than the others
    blocks: int = 1  # W, blocks denoised together; the older ones are nearer to clean
    timesteps: tuple[float, ...] = (1000.0, 937.5, 2500.0 / 3.0, 625.0)  # diffusion time of each pass of a frame
    first_timesteps: tuple[float, ...] | None = None  # those of block 0 when it gets others
    sampler: str = "renoise"  # "renoise": to the next time with fresh noise; "euler": along the predicted velocity
    history: int = 3  # past frames that a step may look at besides anchor and memory
    commit: str = "clean"  # "clean": one more pass at t = 0; "same_step": keys and values of every pass, for that pass
    commit_history: int | None = None  # past frames that the clean pass may look at when it is not `history`
    knot: KnotPolicy = KnotPolicy(1)
    anchor: AnchorPolicy = AnchorPolicy()
    memory: MemoryPolicy = MemoryPolicy()
    given_reference: bool = False  # put the reference into `given` on the frames to generate (else zeros)
    recache: bool = False  # keep what is needed to encode the past again under new words (LongLive)

    def __post_init__(self):
        for name in ("timesteps", "first_timesteps"):
            if getattr(self, name) is not None:  # a list would not be hashable
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for check in (_check_frames, _check_times, _check_anchor, _check_combinations):
            check(self)

    @property
    def passes(self) -> int:
        """N, denoising passes of a step (after block 0)."""
        return len(self.timesteps) // self.blocks

    @property
    def span(self) -> int:
        """Latent frames denoised together: window and knot."""
        return self.blocks * self.chunk + self.knot.frames

    @property
    def missing(self) -> int:
        """Frames by which block 0 is shorter than a chunk; it fills its block's end."""
        return 0 if self.first_chunk is None else self.chunk - self.first_chunk

    @property
    def sink(self) -> int:
        """Frames that the anchor takes from the stream; ring and memory do not show them again."""
        return self.anchor.frames if self.anchor.source == "stream" else 0

    @property
    def ring_budget(self) -> int:
        """Past frames that some pass may look at."""
        return max(self.history, self.commit_history or 0)

    @property
    def ring_unit(self) -> int:
        """Frames that a step writes to the ring: its block, or the end of it that can be looked at."""
        return min(self.chunk, self.ring_budget)

    @property
    def caches(self) -> int:
        """Sets of keys and values that are kept."""
        return self.passes if self.commit == "same_step" else 1

    @property
    def ratio(self) -> int:
        """Frames that ConvKV turns into one."""
        return (self.memory.frames + self.chunk) // self.memory.frames if self.memory.frames else 0

    def first_frame(self, step):
        """Number of the oldest frame in the window of a step; negative while the window fills."""
        return (step - self.blocks + 1) * self.chunk - self.missing

    def emitted(self, step: int) -> range:
        """Numbers of the frames that a step emits, of a stream without end."""
        first = self.first_frame(step)
        return range(max(0, first), max(0, first + self.chunk))

    def steps(self, frames: int) -> int:
        """Steps that emit `frames` frames."""
        return -(-(frames + self.missing) // self.chunk) + self.blocks - 1


def _check_frames(plan: StreamPlan) -> None:
    c, k = plan.chunk, plan.knot.frames
    if c < 1:
        raise ValueError(f"chunk {c}: a block must emit at least one latent frame")
    if plan.first_chunk is not None and not 1 <= plan.first_chunk <= c:
        raise ValueError(f"first_chunk {plan.first_chunk}: must lie between 1 and chunk {c}")
    if plan.blocks < 1:
        raise ValueError(f"blocks {plan.blocks}: the window must hold at least one block")
    for name in ("history", "commit_history"):
        if (getattr(plan, name) or 0) < 0:
            raise ValueError(f"{name} {getattr(plan, name)}: must be at least 0")
    if not 0 <= k < c:
        raise ValueError(f"knot.frames {k}: must be at least 0 and below chunk {c}")
    if not 0.0 <= plan.knot.weight <= 1.0:
        raise ValueError(f"knot.weight {plan.knot.weight}: must lie between 0 and 1")


def _check_times(plan: StreamPlan) -> None:
    for name in ("timesteps", "first_timesteps"):
        times = getattr(plan, name)
        if times is None:
            continue
        falling = all(a > b for a, b in zip((1000.1, *times), (*times, 0.0)))
        if not times or not falling or times[0] > 1000.0:
            raise ValueError(f"{name} {times}: must fall strictly inside 1000 .. 0, 0 excluded")
    if plan.first_timesteps is not None and len(plan.first_timesteps) < len(plan.timesteps):
        raise ValueError(f"first_timesteps {plan.first_timesteps}: block 0 needs at least {len(plan.timesteps)} passes")
    if len(plan.timesteps) % plan.blocks:
        raise ValueError(f"timesteps: {len(plan.timesteps)} do not divide among {plan.blocks} blocks of the window")
    for name, allowed in (("sampler", ("renoise", "euler")), ("commit", ("clean", "same_step", "none"))):
        if getattr(plan, name) not in allowed:
            raise ValueError(f"{name} {getattr(plan, name)!r}: must be one of {', '.join(allowed)}")


def _check_anchor(plan: StreamPlan) -> None:
    a = plan.anchor
    if a.source not in ("reference", "stream", "none"):
        raise ValueError(f"anchor.source {a.source!r}: must be reference, stream or none")
    if a.place not in ("ahead", "drawn", "behind", "absolute"):
        raise ValueError(f"anchor.place {a.place!r}: must be ahead, drawn, behind or absolute")
    if a.stride < 1 or a.start < 0:
        raise ValueError(f"anchor {a}: stride must be at least 1 and start at least 0")
    if a.source == "reference" and a.frames != 1:
        raise ValueError(f"anchor.frames {a.frames}: the reference is one frame")
    first = plan.chunk if plan.first_chunk is None else plan.first_chunk
    if a.source == "stream" and not 1 <= a.frames <= first:
        raise ValueError(f"anchor.frames {a.frames}: must lie between 1 and the {first} frames of block 0")
    if a.source == "stream" and plan.commit == "none":
        raise ValueError("anchor.source 'stream': needs frames that are committed, but commit is 'none'")
    if a.place == "drawn" and not (plan.span <= a.lead[0] < a.lead[1]):
        raise ValueError(f"anchor.lead {a.lead}: must be a range at or beyond the {plan.span} frames denoised together")


def _check_combinations(plan: StreamPlan) -> None:
    m = plan.memory
    if plan.blocks > 1:
        for name, bad in (
            ("knot.frames", plan.knot.frames),
            ("memory.frames", m.frames),
            ("first_timesteps", plan.first_timesteps),
        ):
            if bad:
                raise ValueError(f"{name} {bad}: needs blocks 1, but the window has {plan.blocks}")
        if plan.commit != "clean":
            raise ValueError(f"commit {plan.commit!r}: a window of {plan.blocks} blocks commits in a clean pass")
        if plan.sampler == "euler":
            raise ValueError("sampler 'euler': a rolling window moves on with fresh noise")
    if plan.commit == "same_step" and plan.first_timesteps:
        raise ValueError("first_timesteps: same-step caches need the same passes in every block")
    if plan.commit == "none" and plan.history:
        raise ValueError(f"history {plan.history}: commit 'none' leaves nothing to look at")
    if plan.commit_history is not None and plan.commit != "clean":
        raise ValueError(f"commit_history {plan.commit_history}: only a clean pass can use it")
    if m.axis not in ("time", "token"):
        raise ValueError(f"memory.axis {m.axis!r}: must be time or token")
    if m.frames < 0 or (m.frames and (m.frames + plan.chunk) % m.frames):
        raise ValueError(f"memory.frames {m.frames}: must divide memory and chunk together, {m.frames + plan.chunk}")
    if m.frames > plan.chunk or (m.frames and (plan.commit == "none" or plan.commit_history is not None)):
        raise ValueError(
            f"memory.frames {m.frames}: takes at most one chunk ({plan.chunk}), committed as it is denoised"
        )
    if plan.recache and plan.commit != "clean":
        raise ValueError(f"recache: encodes the past at t = 0, but commit is {plan.commit!r}")
