"""Timed edits of a running stream: words, portrait and strength of motion, at a time in seconds, with a ramp."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from knotjax import drive
from knotjax.errors import InputError

POLICIES = ("keep", "anchor", "recache")


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change that takes effect with the first block that begins at or after its time.

    Words that an edit does not name stay as they are. A stream that looks ahead further than one block (a rolling
    window) shows an edit late by as many blocks as it holds.

    Raises:
      InputError: a field is out of range.
    """

    seconds: float  # when, from the start of the video
    emotion: str | None = None  # one of `drive.EMOTIONS`
    action: str | None = None  # one of `drive.ACTIONS`
    ramp: float = 0.0  # seconds over which new words fade in, and the strength changes
    strength: float | None = None  # factor of the given motion channels
    picture: np.ndarray | None = None  # uint8 [size, size, 3], another portrait
    policy: str = "anchor"  # what becomes of the past: see `knotjax.streaming.switch`

    def __post_init__(self):
        if not (math.isfinite(self.seconds) and self.seconds >= 0.0):
            raise InputError(f"edit at {self.seconds} s: give a time of 0 s or more")
        if not (math.isfinite(self.ramp) and self.ramp >= 0.0):
            raise InputError(f"edit at {self.seconds} s: a ramp of {self.ramp} s is not possible; give 0 or more")
        if self.strength is not None and not 0.0 <= self.strength <= 4.0:
            raise InputError(f"edit at {self.seconds} s: strength {self.strength} must lie in 0 .. 4")
        if self.policy not in POLICIES:
            raise InputError(f"edit at {self.seconds} s: policy {self.policy!r}; use one of {', '.join(POLICIES)}")
        try:
            drive.word_ids(self.emotion, self.action)
        except ValueError as error:
            raise InputError(f"edit at {self.seconds} s: {error}") from error

    @classmethod
    def parse(cls, text: str) -> "Edit":
        """Read "SECONDS WORD [RAMP]", such as "2.5 happy" or "4 nod 0.5".

        Raises:
          InputError: it reads otherwise.
        """
        parts = text.split()
        try:
            if not 2 <= len(parts) <= 3:
                raise ValueError
            times = [float(part) for part in (parts[0], *parts[2:])]
        except ValueError:
            raise InputError(f'edit {text!r}: write "SECONDS WORD [RAMP]", such as "2.5 happy 0.5"') from None
        name = "action" if parts[1] in drive.ACTIONS else "emotion"
        return cls(times[0], ramp=times[1] if times[1:] else 0.0, **{name: parts[1]})


@dataclasses.dataclass(frozen=True)
class Moment:
    """What one block is given."""

    text: np.ndarray  # [TEXT_SLOTS, text_dim]
    strength: float
    switch: str | None = None  # a policy other than "keep", to be carried out before this block
    picture: np.ndarray | None = None


class Script:
    """The edits of one stream, read block by block, in order of time."""

    def __init__(self, edits: Sequence[Edit], emotion, action, text: Callable[[np.ndarray], np.ndarray]):
        """`emotion` and `action` hold from the start; `text` turns word numbers int32 [TEXT_SLOTS] into rows."""
        self.edits = sorted(edits, key=lambda edit: edit.seconds)
        self.words, self.strength, self.encode = [emotion, action], 1.0, text
        self.rows = self.text_of(self.words)
        self.running: tuple[Edit, np.ndarray, np.ndarray, float, float] | None = None

    def text_of(self, words) -> np.ndarray:
        return np.asarray(self.encode(drive.word_ids(*words)))

    def at(self, seconds: float) -> Moment:
        """What holds for the block that begins at a time; times must not fall."""
        switch = picture = None
        while self.edits and self.edits[0].seconds <= seconds:
            edit = self.edits.pop(0)
            self._settle()
            self.words = [new or old for new, old in zip((edit.emotion, edit.action), self.words)]
            strength = self.strength if edit.strength is None else edit.strength
            self.running = (edit, self.rows, self.text_of(self.words), self.strength, strength)
            if edit.picture is not None:
                picture, switch = edit.picture, "anchor" if edit.policy == "keep" else edit.policy
        if self.running:
            edit, old, new, weak, strong = self.running
            share = 1.0 if edit.ramp == 0.0 else min(1.0, (seconds - edit.seconds) / edit.ramp)
            self.rows, self.strength = old + share * (new - old), weak + share * (strong - weak)
            if share == 1.0:
                switch = edit.policy if switch is None and edit.policy != "keep" else switch
                self._settle()
        return Moment(self.rows.astype(np.float32), self.strength, switch, picture)

    def save(self) -> tuple[np.ndarray, dict]:
        """What the blocks to come depend on besides edits to come, float32 [3, TEXT_SLOTS, text_dim], and numbers."""
        numbers = {"words": self.words, "strength": self.strength, "ramp": None}
        if self.running is None:
            return np.stack([self.rows] * 3).astype(np.float32), numbers
        edit, old, new, weak, strong = self.running
        numbers["ramp"] = {
            "seconds": edit.seconds, "ramp": edit.ramp, "policy": edit.policy, "weak": weak, "strong": strong
        }  # fmt: skip
        return np.stack([self.rows, old, new]).astype(np.float32), numbers

    def restore(self, rows: np.ndarray, numbers: dict) -> None:
        """Go on where `save` was called."""
        self.rows, self.words, self.strength = rows[0], numbers["words"], numbers["strength"]
        if ramp := numbers["ramp"]:
            edit = Edit(ramp["seconds"], ramp=ramp["ramp"], policy=ramp["policy"])
            self.running = (edit, rows[1], rows[2], ramp["weak"], ramp["strong"])

    def _settle(self) -> None:
        """End a ramp at its goal."""
        if self.running:
            _, _, self.rows, _, self.strength = self.running
            self.running = None
