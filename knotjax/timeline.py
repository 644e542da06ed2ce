"""The host's side of one stream: what every step is told, and which frames come of it."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from knotjax import bundle, drive
from knotjax.edits import Edit, Moment, Script
from knotjax.models import motion, speech
from knotjax.streaming.plan import StreamPlan


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some frames of a video and their sound."""

    frames: np.ndarray  # uint8 [n, size, size, 3], 25 per second
    sound: np.ndarray  # float32 [640 n], mono, 16 kHz; silence past the end of what was pushed


class Timeline:
    """Sound, words and motion of one stream, step by step, from a bounded part of them.

    For every step, in this order: `ready`, `moment`, `windows`, `advance`, and `piece` where the step emitted frames.

    Args:
      channels: float32 [T, C] motion in the order of `drive.CHANNELS`, or None to leave it to the model.
      present: bool [G], which groups of `drive.GROUPS` of `channels` are given; all by default.
      emotion, action: words that hold from the start.
      edits: changes in mid-stream; `edit` adds others.
    """

    def __init__(
        self,
        model: bundle.Bundle,
        plan: StreamPlan,
        *,
        channels: np.ndarray | None = None,
        present=None,
        emotion: str | None = None,
        action: str | None = None,
        edits: Sequence[Edit] = (),
    ):
        self.plan = plan
        if channels is None:
            channels, present = motion.NOTHING
        elif present is None:
            present = np.ones(len(drive.GROUPS), bool)
        self._channels, self._present = channels, present
        self.script = Script(edits, emotion, action, lambda words: model.text(jnp.asarray(words)[None])[0])
        self._speech = speech.LiveSpeech()
        self._sound = [np.zeros(0, np.float32)]  # not given out yet
        self._repeated = 0  # samples of frames made before `skip` that are still to come
        self.frames: int | None = None  # length in pixel frames, once it is known
        self.made = 0  # pixel frames given out
        self.step = 0  # steps made

    @property
    def done(self) -> bool:
        """Whether the last frame was given out."""
        return self.frames is not None and self.made >= self.frames

    @property
    def samples(self) -> int:
        """Samples heard so far."""
        return self._speech.samples

    @property
    def ready(self) -> bool:
        """Whether all sound that the next step hears is there."""
        return self._speech.covers(self.plan.first_frame(self.step), self.plan.span)

    def needed(self, step: int) -> int:
        """Samples, from the beginning of the stream, that a step hears."""
        return speech.LiveSpeech.needed(self.plan.first_frame(step), self.plan.span)

    def hear(self, samples: np.ndarray) -> None:
        """Append sound, float32 [n], mono, 16 kHz."""
        self._speech.push(samples)
        self._sound.append(samples)

    def finish(self) -> int:
        """The sound is over, there is only silence from here on; returns the pixel frames that it takes."""
        self._speech.end()
        return -(-self._speech.samples // drive.FRAME)

    def cut(self) -> None:
        """Forget the sound of frames that are still to be made."""
        kept = min(self.samples, self.made * drive.FRAME)
        self._speech.rewind(kept)
        self._sound = [np.zeros(0, np.float32)]

    def edit(self, edit: Edit) -> None:
        """Have a change take effect with the next step, whatever its time."""
        self.script.edits.append(dataclasses.replace(edit, seconds=self._seconds(self.step)))

    def moment(self) -> Moment:
        """What the edits say about the next step; to be asked once."""
        return self.script.at(self._seconds(self.step))

    def windows(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows of sound [F, P, C] and of motion [F, P, C] of the frames that the next step denoises."""
        first, span = self.plan.first_frame(self.step), self.plan.span
        audio = self._speech.windows(first, span)
        return audio, motion.motion_windows(self._channels * strength, self._present, first, span)

    def advance(self) -> range:
        """Count a step; returns the numbers of the latent frames that it emits, none while a window fills."""
        self.step += 1
        return self.plan.emitted(self.step - 1)

    def piece(self, pixels: np.ndarray, emitted: range) -> Piece:
        """The frames that count among those decoded from emitted latents, uint8 [4F, H, W, 3], and their sound."""
        pixels = pixels[drive.STRIDE - 1 if emitted.start == 0 else 0 :]
        if self.frames is not None:
            pixels = pixels[: self.frames - self.made]
        self.made += len(pixels)
        count = len(pixels) * drive.FRAME
        held = np.concatenate(self._sound)
        self._sound = [held[count:]]
        return Piece(pixels, np.pad(held[:count], (0, max(0, count - len(held)))))

    def skip(self, step: int) -> None:
        """Take the steps before one to be made; their sound must be pushed nevertheless, see `repeated`."""
        for number in range(step):
            self.script.at(self._seconds(number))
        self.step = step
        self.made = drive.pixel_count(self.plan.emitted(step - 1).stop) if step else 0
        self._repeated = self.made * drive.FRAME

    def repeated(self) -> np.ndarray:
        """Of the sound heard since the last call, what belongs to frames made before `skip`: float32 [n]."""
        held = np.concatenate(self._sound)
        sound, self._sound = held[: self._repeated], [held[self._repeated :]]
        self._repeated -= len(sound)
        self._speech.forget(self.plan.first_frame(self.step))
        return sound

    def save(self) -> tuple[np.ndarray, dict]:
        """The sound that frames to come hear, float32 [n], and numbers; for `restore`. Edits are the script's part."""
        held, numbers = self._speech.save()
        return held, {"step": self.step, "made": self.made, "speech": numbers}

    def restore(self, held: np.ndarray, numbers: dict) -> None:
        """Go on where `save` was called on another timeline with the same arguments."""
        self.step, self.made = numbers["step"], numbers["made"]
        self._speech.restore(held, numbers["speech"])
        ahead = self.samples - self.made * drive.FRAME
        self._sound = [held[len(held) - ahead :]]

    def _seconds(self, step: int) -> float:
        """Where the newest block of a step begins."""
        plan = self.plan
        newest = plan.first_frame(step) + plan.span - plan.knot.frames - plan.chunk
        return drive.pixel_count(max(0, newest)) / drive.FPS
