"""Making a video file: sound in, frames out, saved on the way, stopped or gone on with at any moment."""

import dataclasses
import hashlib
import itertools
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import drive
from knotjax.edits import Edit
from knotjax.errors import InputError
from knotjax.interrupts import Stoppable
from knotjax.media import SoundFile, VideoWriter, check_output, heard, part_of, read_picture
from knotjax.portrait_stream import PortraitStream
from knotjax.progress import Progress, peak_memory_mib
from knotjax.streaming.snapshot import load_snapshot, save_snapshot

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
    resumed: int = 0  # frames that an earlier process had made
    stopped: bool = False  # from outside, before the end of the sound

    @property
    def real_time_factor(self) -> float:
        """Computing time over playing time, after warm-up; below 1 keeps up."""
        return sum(self.block_seconds) / ((self.frames - self.resumed) / drive.FPS)

    def line(self) -> str:
        """The figures in one line."""
        p50, p95 = np.percentile(self.block_seconds, (50, 95)) * 1000.0
        return (
            f"{self.output}: {self.frames} frames ({self.frames / drive.FPS:.2f} s), "
            f"compiled in {self.compile_seconds:.1f} s, "
            f"first frame {self.first_frame_seconds * 1000:.0f} ms, block p50 {p50:.0f} ms p95 {p95:.0f} ms, "
            f"real-time factor {self.real_time_factor:.3f}, peak memory {self.memory_mib:.0f} MiB"
        )


def state_of(output) -> Path:
    """Where the state of an unfinished stream is kept."""
    return Path(output).with_name(Path(output).name + ".state")


class _Saves:
    """The saved state beside an unfinished file: the stream, and how far the file had grown."""

    def __init__(self, output, about: dict):
        self._output, self._path, self._about = Path(output), state_of(output), about

    def write(self, stream: PortraitStream, mark: tuple[int, int]) -> None:
        numbers = (*divmod(mark[0], 2**30), mark[1], stream.step)  # a file may outgrow 32 bits
        save_snapshot(self._path, stream.state | {"mark": jnp.asarray(numbers, jnp.int32)}, self._about)

    def check(self) -> None:
        """Refuse if nothing was saved.

        Raises:
          InputError: nothing was.
        """
        if not self._path.is_file() or not part_of(self._output).is_file():
            raise InputError(f"output {str(self._output)!r} has no saved state beside it: run without --resume")

    def read(self, like: PortraitStream) -> tuple[dict, int, tuple[int, int]]:
        """State, steps made, and the file's mark.

        Raises:
          InputError: saved by another stream.
        """
        state = load_snapshot(self._path, like.state | {"mark": jnp.zeros(4, jnp.int32)}, self._about)
        high, low, frames, step = (int(number) for number in state.pop("mark"))
        if part_of(self._output).stat().st_size < (size := high * 2**30 + low):
            raise InputError(f"{part_of(self._output)}: shorter than the {size} bytes that were saved: start anew")
        return state, step, (size, frames)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _identity(animator, picture, audio, **settings) -> dict:
    """What must be the same for a saved stream to go on."""
    digest = hashlib.sha256(picture.tobytes())
    for leaf in jax.tree.leaves(animator.model.params):
        digest.update(np.asarray(leaf).tobytes())
    with open(audio, "rb") as file:
        digest.update(file.read(2**20))
        digest.update(str(os.fstat(file.fileno()).st_size).encode())
    return {"inputs": digest.hexdigest()} | {name: repr(value) for name, value in settings.items()}


def record(
    animator,
    image,
    audio,
    output,
    *,
    rate: int = drive.SAMPLE_RATE,
    method: str | None = None,
    seconds: float | None = None,
    seed: int = 0,
    emotion: str | None = None,
    action: str | None = None,
    edits: Sequence[Edit] = (),
    face_box: tuple[float, float, float, float] | None = None,
    crop: bool = True,
    fps: str = "25",
    save_every: int = 250,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Report:
    """Make a video file of a portrait speaking; frames are written as they come.

    While it grows the file is `<output>.part`, which can be played at any moment. Ctrl-C and SIGTERM end the video
    where it is. Any other failure leaves nothing behind, but for a kill that cannot be handled: then `resume` goes on.

    Args:
      image: path of a PNG, JPEG or WebP picture, or uint8 [size, size, 3].
      audio: path of a sound file, samples, or an iterable of samples as for `Animator.stream`.
      output: path of the mp4 file to make.
      rate: samples per second of samples without a rate of their own.
      method: name in `streaming.methods.METHODS`.
      seconds: length of the video; by default that of the sound.
      seed: of the stream's noise.
      emotion, action: words of `drive.EMOTIONS` and `drive.ACTIONS`.
      edits: changes in mid-stream.
      face_box, crop: see `media.read_picture`.
      fps: frames per second of the file, in `drive.FILE_RATES`; the model makes 25, and each frame of the file shows
        the one of them that is due.
      save_every: blocks from one saved state to the next, 0 for none; only where `audio` is a path.
      resume: go on with a killed run of the same arguments; the file becomes what it would have been without the kill.
      overwrite: replace an existing output.
      progress: show frames, fps and time left on standard error.

    Raises:
      InputError: something given cannot be used. Nothing is left behind.
    """
    plan = animator.plan(method)
    if seconds is not None and not 0.0 < seconds <= 86_400.0:
        raise InputError(f"seconds {seconds}: must be above 0 and at most 86400")
    if fps not in drive.FILE_RATES:
        raise InputError(f"fps {fps!r}: use one of {', '.join(drive.FILE_RATES)}")
    if save_every < 0:
        raise InputError(f"save_every {save_every}: give a number of blocks, or 0 for none")
    try:
        drive.word_ids(emotion, action)
    except ValueError as error:
        raise InputError(str(error)) from error
    check_output(output, overwrite)
    frames = None if seconds is None else max(1, math.ceil(round(seconds * drive.FPS, 6)))
    picture = image if isinstance(image, np.ndarray) else read_picture(image, animator.size, face_box, crop)
    words = {"emotion": emotion, "action": action, "edits": edits, "seed": seed}
    saves = None
    if isinstance(audio, str | os.PathLike):
        path, audio = audio, SoundFile(audio)
        if save_every:
            settings = words | {"plan": plan, "frames": frames, "fps": fps, "save_every": save_every}
            saves = _Saves(output, _identity(animator, picture, path, **settings))
    if resume and saves is None:
        raise InputError("resume: needs a sound file and a number of blocks between saves: run without --resume")
    if resume:
        saves.check()

    notes = []
    if method not in (None, animator.model.method):
        notes.append(f"these weights were trained for {animator.model.method}, not for {method}: expect less of them")
    quality = animator.reconstruction_db(picture)
    if quality < HARD_PORTRAIT_DB:
        notes.append(f"this portrait is hard for the model: its codec moves it at only {quality:.1f} dB")
    began = time.perf_counter()
    stream, mark = animator.open(picture, plan=plan, frames=frames, **words), None
    if resume:
        state, step, mark = saves.read(stream)
        stream.restore(state, step)
    resumed = stream.made
    size, file_fps = animator.size, drive.FILE_RATES[fps]
    with (
        Stoppable() as stop,
        VideoWriter(output, size=size, overwrite=overwrite, file_fps=file_fps, resume=mark) as writer,
    ):
        try:
            times, first_frame, stopped = [], None, False
            _compile(animator, picture, plan)
            compiled, began = time.perf_counter() - began, time.perf_counter()
            with Progress(_expected(audio, frames), enabled=progress) as bar:
                bar.update(resumed)
                for samples, its_rate in itertools.chain(heard(audio, rate), [(None, 0)]):
                    before = time.perf_counter()  # waiting for sound is no work
                    if samples is None:
                        stream.end()
                    else:
                        stream.push(samples, its_rate)
                    if resumed:
                        writer.repeat_sound(stream.repeated())
                    for piece in stream.pieces():
                        now = time.perf_counter()
                        times.append(now - before)
                        first_frame = now - began if first_frame is None else first_frame
                        with stop.held():
                            writer.write_sound(piece.sound)
                            writer.write(piece.frames)
                            if saves and stream.step % save_every == 0 and not stream.done:
                                saves.write(stream, writer.save())
                        bar.update(len(piece.frames))
                        before = time.perf_counter()
                    if stream.done:
                        break
        except KeyboardInterrupt:
            if not times and resumed:  # nothing new yet: leave it as it was found
                writer.leave()
                saves = None
            if not times:
                raise
            stopped = True
        finally:
            stop.hold()
            if saves:
                saves.remove()
        if not stream.made:
            raise InputError("sound holds no samples (0 s): give another")
    if stream.broken:
        notes.append(f"{stream.broken} samples of the sound are not numbers; silence took their place")
    return Report(
        Path(output),
        stream.made,
        compiled,
        first_frame,
        tuple(times),
        peak_memory_mib(),
        tuple(notes),
        resumed,
        stopped,
    )


def _compile(animator, picture, plan) -> None:
    """Run a first block and one like all others."""
    for _ in animator.stream(picture, (), frames=drive.pixel_count(2 * plan.chunk), plan=plan):
        pass


def _expected(audio, frames: int | None) -> int | None:
    """Frames to come, as far as that can be told."""
    seconds = getattr(audio, "seconds", None)
    return frames if frames or not seconds else math.ceil(round(seconds * drive.FPS, 6))
