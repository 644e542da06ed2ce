"""The streaming plan: everything static about a system, as small frozen policies."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class KnotPolicy:
    """The temporal knot (Knot Forcing, Sec. 3.2): the last frames of a block are denoised again by the next one."""

    frames: int = 1  # k, latent frames handed over
    weight: float = 0.5  # share of the earlier prediction in the fused frame


@dataclasses.dataclass(frozen=True)
class AnchorPolicy:
    """The reference frame, placed ahead of everything that is denoised (Knot Forcing, Sec. 3.3, "running ahead")."""

    start: int = 8  # n0, the first temporal position of the reference
    stride: int = 4  # s, how far it jumps when a block would catch up with it


@dataclasses.dataclass(frozen=True)
class StreamPlan:
    """One streaming system.

    Raises:
      ValueError: a field is out of range; the message names the field and the reason.
    """

    chunk: int = 3  # c, latent frames emitted per block
    window: int = 6  # L, context budget in latent frames; counts the current chunk, not the knot and not the reference
    timesteps: tuple[float, ...] = (1000.0, 937.5, 2500.0 / 3.0, 625.0)  # diffusion time of every denoising pass
    knot: KnotPolicy = KnotPolicy()
    anchor: AnchorPolicy = AnchorPolicy()
    given_reference: bool = False  # put the reference into `given` on the frames to generate (else zeros)

    def __post_init__(self):
        if self.chunk < 1:
            raise ValueError(f"chunk {self.chunk}: a block must emit at least one latent frame")
        if self.window < self.chunk:
            raise ValueError(f"window {self.window}: must hold the current chunk of {self.chunk} latent frames")
        if not 0 <= self.knot.frames < self.chunk:
            raise ValueError(f"knot.frames {self.knot.frames}: must be at least 0 and below chunk {self.chunk}")
        if not 0.0 <= self.knot.weight <= 1.0:
            raise ValueError(f"knot.weight {self.knot.weight}: must lie between 0 and 1")
        if self.anchor.stride < 1 or self.anchor.start < 0:
            raise ValueError(f"anchor {self.anchor}: stride must be at least 1 and start at least 0")
        object.__setattr__(self, "timesteps", tuple(self.timesteps))  # a list would not be hashable
        falling = all(a > b for a, b in zip((1000.1, *self.timesteps), (*self.timesteps, 0.0)))
        if not self.timesteps or not falling or self.timesteps[0] > 1000.0:
            raise ValueError(f"timesteps {self.timesteps}: must fall strictly inside 1000 .. 0, 0 excluded")

    @property
    def span(self) -> int:
        """Latent frames denoised together: chunk + knot."""
        return self.chunk + self.knot.frames

    @property
    def history(self) -> int:
        """Latent frames of the past that a block may look at: window - chunk."""
        return self.window - self.chunk
