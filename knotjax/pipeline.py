"""From a picture and a sound to a video: the room that knows all others."""

import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from knotjax import bundle, drive
from knotjax.edits import Edit
from knotjax.errors import InputError
from knotjax.media import heard, read_picture
from knotjax.models.patch_codec import PatchCodec
from knotjax.models.pixels import to_float
from knotjax.portrait_stream import Piece, PortraitStream, decode, open_decoder
from knotjax.recording import Report, record
from knotjax.streaming.methods import METHODS
from knotjax.streaming.plan import StreamPlan


@partial(jax.jit, static_argnums=0)
def _encode_group(codec: PatchCodec, params, state, frames):
    return codec.encode_step(params, state, to_float(frames)[None])


class Animator:
    """Animates portraits with one loaded model.

    Example:
      Animator.load().animate("portrait.png", "hello.wav", "out.mp4")
    """

    def __init__(self, model: bundle.Bundle):
        self.model = model

    @classmethod
    def load(cls, weights: str | Path | None = None) -> "Animator":
        """Load a model folder; without one, the model that comes with the package.

        Raises:
          InputError: the weights are missing or altered.
        """
        return cls(bundle.load(weights))

    @property
    def size(self) -> int:
        """Height and width of the video in pixels."""
        return self.model.codec.size

    def plan(self, method: str | None = None) -> StreamPlan:
        """The streaming plan of a method, with the values that this model was trained for.

        A method that it was not trained for keeps its own numbers, but for the noise shift and what `given` holds.

        Raises:
          InputError: no such method.
        """
        method = method or self.model.method
        if method not in METHODS:
            raise InputError(f"method {method!r}: unknown; use one of {', '.join(METHODS)}")
        known = self.model.plan if method == self.model.method else {}
        accepted = inspect.signature(METHODS[method]).parameters
        for name in ("shift", "given_reference"):
            if name in self.model.plan and (name in accepted or "changes" in accepted):
                known = known | {name: self.model.plan[name]}
        try:
            return METHODS[method](**known)
        except TypeError as error:
            raise InputError(f"method {method!r}: these weights were made for another version ({error})") from error

    def open(self, image, *, plan: StreamPlan | None = None, **options) -> PortraitStream:
        """Start a stream that sound is pushed into; the arguments are those of `stream`."""
        picture = image if isinstance(image, np.ndarray) else read_picture(image, self.size)
        return PortraitStream(self.model, picture, plan=plan or self.plan(), **options)

    def stream(
        self,
        image,
        audio,
        *,
        rate: int = drive.SAMPLE_RATE,
        frames: int | None = None,
        plan: StreamPlan | None = None,
        channels: np.ndarray | None = None,
        present=None,
        emotion: str | None = None,
        action: str | None = None,
        edits: Sequence[Edit] = (),
        seed: int = 0,
    ) -> Iterator[Piece]:
        """Generate a video piece by piece while its sound comes in; memory does not grow with its length.

        Example:
          for piece in animator.stream("me.png", microphone, rate=48_000):
              show(piece.frames, piece.sound)

        Args:
          image: path of a picture, or uint8 [size, size, 3].
          audio: the sound as a path, as samples, or as any iterable of samples, of which the end need not be known:
            float (-1 .. 1) or integer arrays [n] or [n, channels] of any size. An item may also be a pair (samples,
            rate).
          rate: samples per second of arrays without a rate of their own.
          frames: length in pixel frames, at 25 fps; by default the sound decides. Past its end there is silence.
          plan: a streaming plan; the trained one by default.
          channels: float32 [T, C] motion in the order of `drive.CHANNELS`, or None to leave it to the model.
          present: bool [G], which groups of `drive.GROUPS` of `channels` are given; all by default.
          emotion, action: words of `drive.EMOTIONS` and `drive.ACTIONS`.
          edits: changes in mid-stream.
          seed: of the stream's noise.

        Yields:
          Pieces with frames uint8 [n, size, size, 3] and their sound float32 [640 n] at 16 kHz.

        Raises:
          InputError: the picture, or a part of the sound, cannot be used.
        """
        stream = self.open(
            image, plan=plan, frames=frames, channels=channels, present=present, emotion=emotion, action=action,
            edits=edits, seed=seed,
        )  # fmt: skip
        for samples, its_rate in heard(audio, rate):
            stream.push(samples, its_rate)
            yield from stream.pieces()
            if stream.done:
                return
        stream.end()
        yield from stream.pieces()

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """What the codec keeps of a video uint8 [T, size, size, 3] whose first frame is the portrait."""
        codec, params = self.model.pixels, self.model.params["codec"]
        latents = drive.latent_count(len(video))
        rows = np.clip(drive.latent_rows(0, latents).reshape(-1), 0, len(video) - 1)
        decoding = open_decoder(codec, params, video[0])
        encoding, out = codec.init_encode(1), []
        for group in np.split(rows, latents):
            encoding, latent = _encode_group(codec, params, encoding, video[group])
            decoding, pixels = decode(codec, params, decoding, latent)
            out.append(np.asarray(pixels[0]))
        return np.concatenate(out)[drive.STRIDE - 1 :][: len(video)]

    def reconstruction_db(self, picture: np.ndarray) -> float:
        """PSNR in dB of what the codec makes of a portrait uint8 [size, size, 3] that has moved a little."""
        shift = self.size // 40
        moved = np.pad(picture, ((shift, 0), (shift, 0), (0, 0)), mode="edge")[: self.size, : self.size]
        video = np.stack([picture, *(moved,) * drive.STRIDE])
        error = np.asarray(self.reconstruct(video)[-1], np.float64) - moved
        return float(10.0 * np.log10(255.0**2 / max(np.mean(np.square(error)), 1e-9)))

    def animate(self, image, audio, output, **options) -> Report:
        """Make a video file of a portrait speaking a recording; frames are written as they come.

        See `recording.record` for the arguments.
        """
        return record(self, image, audio, output, **options)
