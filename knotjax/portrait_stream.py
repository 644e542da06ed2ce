"""One running portrait: sound goes in as it comes, pieces of video with their sound come out."""

import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import bundle, drive
from knotjax.edits import Moment
from knotjax.media.samples import Samples
from knotjax.models.dit import Conditions
from knotjax.models.patch_codec import DecodeState, PatchCodec
from knotjax.models.pixels import to_float, to_uint8
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import StreamState
from knotjax.streaming.step import jit_init, jit_step
from knotjax.streaming.switch import jit_switch
from knotjax.timeline import Piece, Timeline


@partial(jax.jit, static_argnums=0)
def open_decoder(codec: PatchCodec, params, picture):
    """A decoder for a portrait uint8 [H, W, 3]; its state holds the portrait's latent."""
    return codec.init_decode(params, to_float(picture)[None])


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(codec: PatchCodec, params, state, latents):
    """The next state and frames uint8 [B, 4F, H, W, 3] of latents [B, F, h, w, z]."""
    state, pixels = codec.decode_step(params, state, latents)
    return state, to_uint8(pixels)


def begin(model: bundle.Bundle, plan: StreamPlan, picture, rows, seed: int) -> tuple[StreamState, DecodeState]:
    """The states of one stream: picture uint8 [size, size, 3], text rows [T, text_dim]."""
    key = jax.random.split(jax.random.key(seed), 1)
    pixels = open_decoder(model.pixels, model.params["codec"], picture)
    text = jnp.asarray(rows)[None]
    return jit_init(model.denoiser, plan, model.params["dit"], pixels.portrait[:, None], text, key), pixels


def carry_out(
    model: bundle.Bundle, plan: StreamPlan, stream: StreamState, pixels: DecodeState, moment: Moment
) -> tuple[StreamState, DecodeState]:
    """The states of one stream after what a moment says about its portrait and its past."""
    if moment.picture is not None:
        fresh = open_decoder(model.pixels, model.params["codec"], moment.picture)
        pixels = dataclasses.replace(pixels, picture=fresh.picture, portrait=fresh.portrait)
    if moment.switch:
        text = jnp.asarray(moment.text)[None]
        reference = None if moment.picture is None else jnp.copy(pixels.portrait[:, None])
        recache = moment.switch == "recache" and plan.recache
        stream = jit_switch(model.denoiser, plan, model.params["dit"], stream, text, reference, recache=recache)
    return stream, pixels


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
      seed: of the stream's noise.
      told: for these see `Animator.stream`: channels, present, emotion, action, edits.
    """

    def __init__(
        self,
        model: bundle.Bundle,
        picture: np.ndarray,
        *,
        plan: StreamPlan,
        frames: int | None = None,
        seed: int = 0,
        **told,
    ):
        self.model, self.plan = model, plan
        self._timeline = Timeline(model, plan, **told)
        self._state, self._pixels = begin(model, plan, picture, self._timeline.script.rows, seed)
        self._samples = Samples()
        if frames is not None:
            self._close(frames)

    @property
    def broken(self) -> int:
        """Samples that were not numbers and became silence."""
        return self._samples.broken

    @property
    def frames(self) -> int | None:
        """Length in pixel frames, once it is known."""
        return self._timeline.frames

    @property
    def made(self) -> int:
        """Pixel frames given out."""
        return self._timeline.made

    @property
    def step(self) -> int:
        """Steps made."""
        return self._timeline.step

    @property
    def done(self) -> bool:
        """Whether the last frame was given out."""
        return self._timeline.done

    def push(self, samples, rate: int = drive.SAMPLE_RATE) -> None:
        """Add sound: float (-1 .. 1) or integer samples [n] or [n, channels], at any rate from 8 to 192 kHz.

        Raises:
          InputError: another rate, shape or kind.
        """
        self._timeline.hear(self._samples.push(samples, rate))

    def end(self) -> None:
        """The sound is over: what follows is silence, up to the end of the frame that its last sample falls into."""
        self._timeline.hear(self._samples.end())
        frames = self._timeline.finish()
        if self.frames is None:
            self._close(frames)

    def pieces(self) -> Iterator[Piece]:
        """Make all pieces for which there is enough sound."""
        while not self.done and self._timeline.ready:
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
        self._timeline.skip(step)
        self._state, self._pixels = state["stream"], state["pixels"]

    def repeated(self) -> np.ndarray:
        """Of the sound pushed since the last call, what belongs to frames made before `restore`: float32 [n]."""
        return self._timeline.repeated()

    def _close(self, frames: int) -> None:
        self._timeline.frames = frames
        self._state = dataclasses.replace(self._state, end=jnp.full(1, drive.latent_count(frames), jnp.int32))

    def _advance(self) -> Piece | None:
        """One step of the stream; None while a window of several blocks fills."""
        plan, model, timeline = self.plan, self.model, self._timeline
        moment = timeline.moment()
        self._state, self._pixels = carry_out(model, plan, self._state, self._pixels, moment)
        audio, moves = timeline.windows(moment.strength)
        conditions = Conditions(jnp.asarray(moment.text)[None], audio[None], moves[None])
        self._state, latents = jit_step(model.denoiser, plan, model.params["dit"], self._state, conditions)
        emitted = timeline.advance()
        if not emitted:
            return None
        fresh = latents[:, plan.chunk - len(emitted) :]
        self._pixels, block = decode(model.pixels, model.params["codec"], self._pixels, fresh)
        return timeline.piece(np.asarray(block[0]), emitted)
