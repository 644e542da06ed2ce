"""One running portrait: sound goes in as it comes, pieces of video with their sound come out."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import bundle, drive
from knotjax.edits import Edit, Moment, Script
from knotjax.media.samples import Samples
from knotjax.models import motion, speech
from knotjax.models.dit import Conditions
from knotjax.models.patch_codec import PatchCodec
from knotjax.models.pixels import to_float, to_uint8
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.step import jit_init, jit_step
from knotjax.streaming.switch import jit_switch

FRAME = drive.SAMPLE_RATE // drive.FPS  # samples of a pixel frame


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some frames of a video and their sound."""

    frames: np.ndarray  # uint8 [n, size, size, 3], 25 per second
    sound: np.ndarray  # float32 [640 n], mono, 16 kHz; silence past the end of what was pushed


@partial(jax.jit, static_argnums=0)
def open_decoder(codec: PatchCodec, params, picture):
    """A decoder for a portrait uint8 [H, W, 3]; its state holds the portrait's latent."""
    return codec.init_decode(params, to_float(picture)[None])


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(codec: PatchCodec, params, state, latents):
    """The next state and frames uint8 [B, 4F, H, W, 3] of latents [B, F, h, w, z]."""
    state, pixels = codec.decode_step(params, state, latents)
    return state, to_uint8(pixels)


class PortraitStream:
    """A stream of one portrait. Its memory does not grow with its length.

    Push sound, take the pieces that are ready, end the sound, take the rest:

      stream.push(samples, rate)
      for piece in stream.pieces():
          ...
      stream.end()
      for piece in stream.pieces():
          ...

    A block is made as soon as the sound that it hears is there: its own, that of the frames denoised ahead with it, and
    87.5 ms more. Which pieces the sound came in makes no difference to the frames.

    Args:
      picture: uint8 [size, size, 3], the portrait.
      frames: length in pixel frames when it is known; by default the sound decides.
      For the others see `Animator.stream`.
    """

    def __init__(
        self,
        model: bundle.Bundle,
        picture: np.ndarray,
        *,
        plan: StreamPlan,
        frames: int | None = None,
        channels: np.ndarray | None = None,
        present=None,
        emotion: str | None = None,
        action: str | None = None,
        edits: Sequence[Edit] = (),
        seed: int = 0,
    ):
        self.model, self.plan = model, plan
        if channels is None:
            channels, present = motion.NOTHING
        elif present is None:
            present = np.ones(len(drive.GROUPS), bool)
        self._channels, self._present = channels, present
        self._script = Script(edits, emotion, action, lambda words: model.text(jnp.asarray(words)[None])[0])
        text = jnp.asarray(self._script.rows)[None]
        key = jax.random.split(jax.random.key(seed), 1)
        self._pixels = open_decoder(model.pixels, model.params["codec"], picture)
        self._state = jit_init(model.denoiser, plan, model.params["dit"], self._pixels.portrait[:, None], text, key)
        self._samples, self._speech = Samples(), speech.LiveSpeech()
        self._sound = [np.zeros(0, np.float32)]  # not given out yet
        self.frames = None  # length in pixel frames, once it is known
        self._repeated = 0  # samples of frames made before `restore` that are still to come
        self.made = 0  # pixel frames given out
        self.step = 0  # steps made
        if frames is not None:
            self._close(frames)

    @property
    def broken(self) -> int:
        """Samples that were not numbers and became silence."""
        return self._samples.broken

    @property
    def done(self) -> bool:
        """Whether the last frame was given out."""
        return self.frames is not None and self.made >= self.frames

    def push(self, samples, rate: int = drive.SAMPLE_RATE) -> None:
        """Add sound: float (-1 .. 1) or integer samples [n] or [n, channels], at any rate from 8 to 192 kHz.

        Raises:
          InputError: another rate, shape or kind.
        """
        self._hear(self._samples.push(samples, rate))

    def end(self) -> None:
        """The sound is over: what follows is silence, up to the end of the frame that its last sample falls into."""
        self._hear(self._samples.end())
        self._speech.end()
        if self.frames is None:
            self._close(-(-self._speech.samples // FRAME))

    def pieces(self) -> Iterator[Piece]:
        """Make all pieces for which there is enough sound."""
        while not self.done and self._speech.covers(self.plan.first_frame(self.step), self.plan.span):
            piece = self._advance()
            if piece is not None:
                yield piece

    @property
    def state(self) -> dict:
        """All that the frames to come depend on, besides the arguments and the sound; for `save_snapshot`."""
        return {"stream": self._state, "pixels": self._pixels}

    def restore(self, state: dict, step: int) -> None:
        """Go on where another stream with the same arguments was after `step` steps, bit for bit.

        The sound must be pushed from its beginning; `repeated` gives back the part whose frames are made already.
        """
        for number in range(step):
            self._moment(number)
        self._state, self._pixels, self.step = state["stream"], state["pixels"], step
        self.made = drive.pixel_count(self.plan.emitted(step - 1).stop) if step else 0
        self._repeated = self.made * FRAME

    def repeated(self) -> np.ndarray:
        """Of the sound pushed since the last call, what belongs to frames made before `restore`: float32 [n]."""
        held = np.concatenate(self._sound)
        sound, self._sound = held[: self._repeated], [held[self._repeated :]]
        self._repeated -= len(sound)
        self._speech.forget(self.plan.first_frame(self.step))
        return sound

    def _close(self, frames: int) -> None:
        self.frames = frames
        self._state = dataclasses.replace(self._state, end=jnp.full(1, drive.latent_count(frames), jnp.int32))

    def _hear(self, samples: np.ndarray) -> None:
        self._speech.push(samples)
        self._sound.append(samples)

    def _advance(self) -> Piece | None:
        """One step of the stream; None while a window of several blocks fills."""
        plan, model = self.plan, self.model
        first = plan.first_frame(self.step)
        text, strength = self._direct()
        audio = self._speech.windows(first, plan.span)[None]
        moves = motion.motion_windows(self._channels * strength, self._present, first, plan.span)[None]
        conditions = Conditions(text, audio, moves)
        self._state, latents = jit_step(model.denoiser, plan, model.params["dit"], self._state, conditions)
        emitted = plan.emitted(self.step)
        self.step += 1
        if not emitted:
            return None
        fresh = latents[:, plan.chunk - len(emitted) :]
        self._pixels, block = decode(model.pixels, model.params["codec"], self._pixels, fresh)
        block = np.asarray(block[0])[drive.STRIDE - 1 if emitted.start == 0 else 0 :]
        if self.frames is not None:
            block = block[: self.frames - self.made]
        self.made += len(block)
        return Piece(block, self._take(len(block) * FRAME))

    def _moment(self, step: int) -> Moment:
        """What the edits say about a step; every step is asked for once, in order."""
        plan = self.plan
        newest = plan.first_frame(step) + plan.span - plan.knot.frames - plan.chunk
        return self._script.at(drive.pixel_count(max(0, newest)) / drive.FPS)

    def _direct(self):
        """Carry out the edits that are due at a step; returns its text rows and the strength of its motion."""
        plan, model = self.plan, self.model
        moment = self._moment(self.step)
        text = jnp.asarray(moment.text)[None]
        if moment.picture is not None:
            fresh = open_decoder(model.pixels, model.params["codec"], moment.picture)
            self._pixels = dataclasses.replace(self._pixels, picture=fresh.picture, portrait=fresh.portrait)
        if moment.switch:
            reference = None if moment.picture is None else jnp.copy(self._pixels.portrait[:, None])
            recache = moment.switch == "recache" and plan.recache
            self._state = jit_switch(
                model.denoiser, plan, model.params["dit"], self._state, text, reference, recache=recache
            )
        return text, moment.strength

    def _take(self, count: int) -> np.ndarray:
        held = np.concatenate(self._sound)
        self._sound = [held[count:]]
        return np.pad(held[:count], (0, max(0, count - len(held))))
