"""From a picture and a sound to a video: the room that knows all others."""

import dataclasses
import inspect
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import bundle, drive
from knotjax.edits import Edit, Script
from knotjax.errors import InputError
from knotjax.media import VideoWriter, read_picture, read_sound
from knotjax.models import motion, speech
from knotjax.models.dit import Conditions
from knotjax.models.patch_codec import PatchCodec
from knotjax.models.pixels import to_float, to_uint8
from knotjax.progress import Progress, peak_memory_mib
from knotjax.streaming.methods import METHODS
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.step import jit_init, jit_step
from knotjax.streaming.switch import jit_switch

HARD_PORTRAIT_DB = 24.0  # below this the codec's own reconstruction of the portrait is visibly poor


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run measured."""

    output: Path | None
    frames: int
    compile_seconds: float  # before the stream starts
    first_frame_seconds: float  # from the start of the stream, warm
    block_seconds: tuple[
        float, ...
    ]  # one per block: features, denoising, commit, decoding, transfer; no video encoding
    memory_mib: float  # peak resident memory of the process
    notes: tuple[str, ...] = ()

    @property
    def real_time_factor(self) -> float:
        """Computing time over playing time, after warm-up; below 1 keeps up."""
        return sum(self.block_seconds) / (self.frames / drive.FPS)

    def line(self) -> str:
        """The figures in one line."""
        p50, p95 = np.percentile(self.block_seconds, (50, 95)) * 1000.0
        return (
            f"{self.output}: {self.frames} frames ({self.frames / drive.FPS:.2f} s), "
            f"compiled in {self.compile_seconds:.1f} s, "
            f"first frame {self.first_frame_seconds * 1000:.0f} ms, block p50 {p50:.0f} ms p95 {p95:.0f} ms, "
            f"real-time factor {self.real_time_factor:.3f}, peak memory {self.memory_mib:.0f} MiB"
        )


@partial(jax.jit, static_argnums=0)
def _open(codec: PatchCodec, params, picture):
    """A decoder for a portrait uint8 [H, W, 3]; its state holds the portrait's latent."""
    return codec.init_decode(params, to_float(picture)[None])


@partial(jax.jit, static_argnums=0)
def _encode_group(codec: PatchCodec, params, state, frames):
    return codec.encode_step(params, state, to_float(frames)[None])


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _decode(codec: PatchCodec, params, state, latents):
    state, pixels = codec.decode_step(params, state, latents)
    return state, to_uint8(pixels)


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

    def stream(
        self,
        picture: np.ndarray,
        wave: np.ndarray,
        frames: int,
        *,
        plan: StreamPlan | None = None,
        channels: np.ndarray | None = None,
        present=None,
        emotion: str | None = None,
        action: str | None = None,
        edits: Sequence[Edit] = (),
        seed: int = 0,
    ) -> Iterator[np.ndarray]:
        """Generate a video block by block; memory does not grow with its length.

        Args:
          picture: uint8 [size, size, 3], the portrait.
          wave: float32 [n], mono, 16 kHz; silence is assumed past its end.
          frames: pixel frames wanted, at 25 fps.
          plan: a streaming plan; the trained one by default.
          channels: float32 [T, C] motion in the order of `drive.CHANNELS`, or None to leave it to the model.
          present: bool [G], which groups of `drive.GROUPS` of `channels` are given; all by default.
          emotion, action: words of `drive.EMOTIONS` and `drive.ACTIONS`.
          edits: changes in mid-stream.
          seed: of the stream's noise.

        Yields:
          uint8 [n, size, size, 3], `frames` in total.
        """
        plan = plan or self.plan()
        denoiser, codec, params = self.model.denoiser, self.model.pixels, self.model.params
        if channels is None:
            channels, present = motion.NOTHING
        elif present is None:
            present = np.ones(len(drive.GROUPS), bool)
        script = Script(edits, emotion, action, lambda words: self.model.text(jnp.asarray(words)[None])[0])
        text = jnp.asarray(script.rows)[None]
        key = jax.random.split(jax.random.key(seed), 1)
        pixels = _open(codec, params["codec"], picture)
        state = jit_init(denoiser, plan, params["dit"], pixels.portrait[:, None], text, key)
        total = drive.latent_count(frames)
        state = dataclasses.replace(state, end=jnp.full(1, total, jnp.int32))
        heard = frames + drive.STRIDE * plan.span + speech.CONTEXT  # the last block looks ahead too
        rows = speech.speech_rows(wave, min(heard, len(wave) // speech.FRAME + 2))
        left = frames
        for step in range(plan.steps(total)):
            first = plan.first_frame(step)
            newest = drive.pixel_count(max(0, first + plan.span - plan.knot.frames - plan.chunk))
            moment = script.at(newest / drive.FPS)
            text = jnp.asarray(moment.text)[None]
            if moment.picture is not None:
                fresh = _open(codec, params["codec"], moment.picture)
                pixels = dataclasses.replace(pixels, picture=fresh.picture, portrait=fresh.portrait)
            if moment.switch:
                reference = None if moment.picture is None else jnp.copy(pixels.portrait[:, None])
                recache = moment.switch == "recache" and plan.recache
                state = jit_switch(denoiser, plan, params["dit"], state, text, reference, recache=recache)
            audio = speech.speech_windows(rows, first, plan.span)[None]
            moves = motion.motion_windows(channels * moment.strength, present, first, plan.span)[None]
            state, latents = jit_step(denoiser, plan, params["dit"], state, Conditions(text, audio, moves))
            emitted = plan.emitted(step)
            if not emitted:
                continue
            pixels, block = _decode(codec, params["codec"], pixels, latents[:, plan.chunk - len(emitted) :])
            block = np.asarray(block[0])[drive.STRIDE - 1 if emitted.start == 0 else 0 :][:left]
            yield block
            left -= len(block)

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """What the codec keeps of a video uint8 [T, size, size, 3] whose first frame is the portrait."""
        codec, params = self.model.pixels, self.model.params["codec"]
        latents = drive.latent_count(len(video))
        rows = np.clip(drive.latent_rows(0, latents).reshape(-1), 0, len(video) - 1)
        decoding = _open(codec, params, video[0])
        encoding, out = codec.init_encode(1), []
        for group in np.split(rows, latents):
            encoding, latent = _encode_group(codec, params, encoding, video[group])
            decoding, pixels = _decode(codec, params, decoding, latent)
            out.append(np.asarray(pixels[0]))
        return np.concatenate(out)[drive.STRIDE - 1 :][: len(video)]

    def reconstruction_db(self, picture: np.ndarray) -> float:
        """PSNR in dB of what the codec makes of a portrait uint8 [size, size, 3] that has moved a little."""
        shift = self.size // 40
        moved = np.pad(picture, ((shift, 0), (shift, 0), (0, 0)), mode="edge")[: self.size, : self.size]
        video = np.stack([picture, *(moved,) * drive.STRIDE])
        error = np.asarray(self.reconstruct(video)[-1], np.float64) - moved
        return float(10.0 * np.log10(255.0**2 / max(np.mean(np.square(error)), 1e-9)))

    def animate(
        self,
        image,
        audio,
        output,
        *,
        method: str | None = None,
        seconds: float | None = None,
        seed: int = 0,
        emotion: str | None = None,
        action: str | None = None,
        edits: Sequence[Edit] = (),
        overwrite: bool = False,
        progress: bool = False,
    ) -> Report:
        """Make a video file of a portrait speaking a recording; frames are written as they come.

        Args:
          image: path of a PNG, JPEG or WebP picture, or uint8 [size, size, 3].
          audio: path of a sound file, or float32 [n] mono at 16 kHz.
          output: path of the mp4 file to make.
          method: name in `streaming.methods.METHODS`.
          seconds: length of the video; by default that of the sound.
          seed: of the stream's noise.
          emotion, action: words of `drive.EMOTIONS` and `drive.ACTIONS`.
          edits: changes in mid-stream.
          overwrite: replace an existing output.
          progress: show frames, fps and time left on standard error.

        Raises:
          InputError: something given cannot be used. Nothing is left behind.
        """
        plan = self.plan(method)
        picture = image if isinstance(image, np.ndarray) else read_picture(image, self.size)
        wave = audio if isinstance(audio, np.ndarray) else read_sound(audio)
        if seconds is not None and not 0.0 < seconds <= 86_400.0:
            raise InputError(f"seconds {seconds}: must be above 0 and at most 86400")
        if seconds is not None:
            wave = wave[: round(seconds * drive.SAMPLE_RATE)]
        duration = len(wave) / drive.SAMPLE_RATE if seconds is None else seconds
        frames = max(1, int(np.ceil(round(duration * drive.FPS, 6))))
        try:
            drive.word_ids(emotion, action)
        except ValueError as error:
            raise InputError(str(error)) from error

        notes = []
        if method not in (None, self.model.method):
            notes.append(f"these weights were trained for {self.model.method}, not for {method}: expect less of them")
        quality = self.reconstruction_db(picture)
        if quality < HARD_PORTRAIT_DB:
            notes.append(f"this portrait is hard for the model: its codec moves it at only {quality:.1f} dB")
        with VideoWriter(output, size=self.size, overwrite=overwrite) as writer:
            began = time.perf_counter()
            compiled_by = drive.pixel_count(2 * plan.chunk)  # a first block and one like all others
            warm = self.stream(picture, wave[:0], compiled_by, plan=plan)
            for _ in warm:
                pass
            compiled = time.perf_counter() - began
            writer.write_sound(wave)
            times, first_frame = [], None
            began = before = time.perf_counter()
            with Progress(frames, enabled=progress) as bar:
                blocks = self.stream(
                    picture, wave, frames, plan=plan, emotion=emotion, action=action, edits=edits, seed=seed
                )
                for block in blocks:
                    now = time.perf_counter()
                    times.append(now - before)
                    first_frame = now - began if first_frame is None else first_frame
                    writer.write(block)
                    bar.update(len(block))
                    before = time.perf_counter()
        return Report(Path(output), frames, compiled, first_frame, tuple(times), peak_memory_mib(), tuple(notes))
