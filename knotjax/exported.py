"""Run an exported portrait animator, without the library that made it.

This one file and the folder that it lies in are all that is needed, besides jax, numpy and flatbuffers (by which jax
reads exported programs):

    from exported import load

    stream = load("DIR").start(picture, words=["happy"], seed=1)  # picture: uint8 [size, size, 3]
    for samples in microphone:  # float [n] in -1 .. 1, mono, 16 kHz, pieces of any size
        show(stream.step(samples)[0])  # uint8 [n, size, size, 3], 25 frames a second, those that are ready
    show(stream.end()[0])

A folder whose programs were exported for B portraits runs B streams side by side, each with its own picture, sound and
seed. `Model.run` runs the programs one by one: `manifest.json` lists the names, shapes and kinds of what goes into each
and comes out. Weights and programs are checked against the SHA-256 sums in that file, which guard against damage and
mix-ups, not against a forger: load folders of people you trust.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.export
import numpy as np

ARTEFACT = 1  # version of the folder's layout
STORED = {"F16": np.float16, "F32": np.float32}


class ArtefactError(ValueError):
    """The folder, or something given to a stream, cannot be used; one line: the thing, the reason, the cure."""


def load(folder: str | os.PathLike = ".") -> "Model":
    """Read an exported folder after checking every byte of its weights and programs.

    Raises:
      ArtefactError: a file is missing or altered, or the folder was made by another version or for another machine.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    manifest = _unseal(_read(path, 2**26))
    if manifest is None:
        raise ArtefactError(f"{path}: damaged or edited: export it again")
    signature = manifest.get("config")
    if not isinstance(signature, dict) or "artefact" not in signature:
        raise ArtefactError(f"{path}: does not describe an exported animator: make one with 'knotjax export'")
    if signature["artefact"] != ARTEFACT:
        found = f"version {signature['artefact']!r}, this loader reads {ARTEFACT}"
        raise ArtefactError(f"{path}: an export of {found}: use the loader that lies beside it, or export it again")
    backend = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if backend not in signature["platforms"]:
        made = ", ".join(signature["platforms"])
        raise ArtefactError(f"{folder}: exported for {made}, but jax runs on {backend}: export with --platforms")
    files = {name: _checked(folder, name, facts) for name, facts in manifest["files"].items()}
    tensors = {name: array for data in files.values() for name, array in _tensors(data)}
    programs = {}
    for name, facts in signature["programs"].items():
        data = _checked(folder, facts["file"], facts)
        try:
            call = jax.export.deserialize(bytearray(data)).call
        except ModuleNotFoundError as error:
            raise ArtefactError(f"{folder}: {error}: pip install flatbuffers") from None
        except Exception as error:
            problem = f"made by jax {signature['jax']}, jax {jax.__version__} cannot read it"
            raise ArtefactError(f"{folder / facts['file']}: {problem}: export it again") from error
        # An exported program has forgotten which of its inputs it may overwrite.
        donated = tuple(facts["arguments"].index(argument) for argument in facts["donated"])
        programs[name] = jax.jit(call, donate_argnums=donated)
    return Model(signature, programs, tensors)


class Model:
    """An exported folder: `signature` (what `manifest.json` says: plan, sizes, rates, words, and every program's inputs
    and outputs), `programs` (name -> jitted function) and `weights` (program -> its first argument).
    """

    def __init__(self, signature: dict, programs: dict, tensors: dict[str, np.ndarray]):
        self.signature, self.programs, self.weights = signature, programs, {}
        arrays = {}
        for name, facts in signature["programs"].items():
            wanted = [row for row in facts["inputs"] if row["name"].startswith("weights/")]
            mine = {row["name"].removeprefix("weights/"): row["dtype"] for row in wanted}
            for key, dtype in mine.items():
                if key not in arrays:
                    arrays[key] = jax.device_put(tensors[key].astype(dtype))
            self.weights[name] = {key: arrays[key] for key in mine}

    def run(self, name: str, *arguments):
        """Run one program; its weights go in by themselves. What it is said to donate is used up."""
        weights = self.weights[name]
        return self.programs[name](*([weights] if weights else []), *arguments)

    def start(self, picture, words: Sequence[str] = (), seed: int | Sequence[int] = 0) -> "Stream":
        """Start streams, side by side.

        Args:
          picture: uint8 [size, size, 3] for all streams, or [B, size, size, 3].
          words: an emotion, an action or both, of `signature["slots"]`.
          seed: of the noise, one per stream; a single number is that of the first stream, and the others count on.

        Raises:
          ArtefactError: another picture or word.
        """
        return Stream(self, picture, words, seed)


class Stream:
    """Streams that run side by side. Their memory does not grow with their length."""

    def __init__(self, model: Model, picture, words: Sequence[str], seed: int | Sequence[int]):
        self.model, self.signature = model, model.signature
        self.batch, self.plan, self.sound = (self.signature[name] for name in ("batch", "plan", "sound"))
        seeds = [seed + i for i in range(self.batch)] if np.ndim(seed) == 0 else list(seed)
        if len(seeds) != self.batch or not all(0 <= one < 2**32 for one in seeds):
            raise ArtefactError(f"seed {seed}: give one number in 0 .. {2**32 - 1}, or {self.batch} of them")
        self._ids = [0] * len(self.signature["slots"])
        self._text = self._rows(words)
        self._decoder = model.run("open", self._picture(picture))
        self._state = model.run("init", self._decoder["portrait"], self._text, np.array(seeds, np.uint32))
        shape = next(row["shape"] for row in self.signature["programs"]["step"]["inputs"] if row["name"] == "motion")
        self._motion = jax.device_put(np.zeros(shape, np.float32))  # nothing is given
        self._at = self._begin(0)  # sample that the held sound begins with
        self._held = np.zeros((self.batch, -self._at), np.float32)  # nothing before the beginning
        self._step = self._heard = self.made = 0
        self.frames = None  # length in frames, once it is known

    def step(self, samples) -> np.ndarray:
        """Hear some sound, and make the frames for which there is enough of it.

        Args:
          samples: float [n] for all streams, or [B, n], in -1 .. 1, mono, 16 kHz; n may be anything.

        Returns:
          uint8 [B, m, size, size, 3]; often m is 0, as a block of frames is made at once.
        """
        samples = np.asarray(samples)
        if samples.dtype.kind != "f" or samples.shape[:-1] not in ((), (self.batch,)):
            raise ArtefactError(f"sound {samples.dtype}{list(samples.shape)}: give floats [n] or [{self.batch}, n]")
        if self.frames is not None:
            raise ArtefactError("the sound has ended: start another stream")
        samples = np.clip(np.where(np.isfinite(samples), samples, 0.0), -1.0, 1.0).astype(np.float32)
        self._held = np.concatenate([self._held, np.broadcast_to(samples, (self.batch, samples.shape[-1]))], 1)
        self._heard += samples.shape[-1]
        return self._ready()

    def end(self) -> np.ndarray:
        """The sound is over: the frames that are left, up to its last sample, uint8 [B, m, size, size, 3]."""
        self.frames = -(-self._heard // self.sound["frame"])
        latents = 1 + -(-(self.frames - 1) // self.signature["stride"]) if self.frames else 0
        end = np.full(self.batch, latents, np.int32)
        # Placed like the array that it replaces, or the step would be compiled again.
        self._state = self._state | {"end": jax.device_put(end, self._state["end"].sharding)}
        return self._ready()

    def switch(self, words: Sequence[str] = (), picture=None) -> None:
        """Change words or portrait from the next block on; a word of a kind that is not named stays."""
        pictures = None if picture is None else self._picture(picture)
        self._text = self._rows(words)
        if pictures is not None:
            fresh = self.model.run("open", pictures)
            self._decoder = self._decoder | {name: fresh[name] for name in ("picture", "portrait")}
        self._state = self.model.run("switch", self._state, self._text, self._decoder["portrait"])

    def _ready(self) -> np.ndarray:
        size, frame, margin = self.signature["size"], self.sound["frame"], self.sound["margin"]
        length = self.sound["rows"] * frame + 2 * margin  # samples that a step hears
        made = [np.zeros((self.batch, 0, size, size, 3), np.uint8)]
        while self.frames is None or self.made < self.frames:
            begin = self._begin(self._step)
            if self.frames is None and self._heard < begin + length:
                break
            self._held, self._at = self._held[:, begin - self._at :], begin
            heard = self._held[:, :length]
            heard = np.pad(heard, ((0, 0), (0, length - heard.shape[1])))  # silence after the end
            made.append(self._block(heard, (begin + margin) // frame))
            self.made += made[-1].shape[1]
        return np.concatenate(made, 1)

    def _block(self, heard: np.ndarray, row: int) -> np.ndarray:
        """One step: the sound that it hears [B, length] from pixel frame `row` on -> uint8 [B, n, size, size, 3]."""
        plan, run = self.plan, self.model.run
        audio = run("hear", heard, np.int32(row))
        self._state, latents = run("step", self._state, self._text, audio, self._motion)
        first = self._first(self._step)
        self._step += 1
        count = max(0, first + plan["chunk"]) - max(0, first)  # latent frames that exist
        if not count:  # a window of several blocks fills
            return np.zeros((self.batch, 0, *self._decoder["picture"].shape[1:]), np.uint8)
        name = "decode" if count == plan["chunk"] else "decode_first"
        self._decoder, frames = run(name, self._decoder, latents)
        skipped = self.signature["stride"] - 1 if first <= 0 else 0  # the first latent is one frame
        frames = np.asarray(frames)[:, skipped:]
        return frames if self.frames is None else frames[:, : self.frames - self.made]

    def _first(self, step: int) -> int:
        """Number of the oldest latent frame that a step denoises; negative while a window fills."""
        return (step - self.plan["blocks"] + 1) * self.plan["chunk"] - self.plan["missing"]

    def _begin(self, step: int) -> int:
        """The first sample that a step hears."""
        row = self.signature["stride"] * (self._first(step) - 1) + 1 - self.sound["context"]
        return row * self.sound["frame"] - self.sound["margin"]

    def _picture(self, picture) -> np.ndarray:
        picture, size = np.asarray(picture), self.signature["size"]
        if picture.dtype != np.uint8 or picture.shape not in ((size, size, 3), (self.batch, size, size, 3)):
            found = f"{picture.dtype}{list(picture.shape)}"
            raise ArtefactError(f"picture {found}: give uint8 [{size}, {size}, 3] or [{self.batch}, {size}, {size}, 3]")
        return np.broadcast_to(picture, (self.batch, size, size, 3))

    def _rows(self, words: Sequence[str]) -> jax.Array:
        """Text rows after some words have changed."""
        ids, slots = list(self._ids), self.signature["slots"]
        for word in [words] if isinstance(words, str) else words:
            at = next((i for i, allowed in enumerate(slots) if word in allowed), None)
            if at is None:
                raise ArtefactError(f"word {word!r}: use one of {', '.join(w for allowed in slots for w in allowed)}")
            ids[at] = self.signature["words"].index(word)
        self._ids = ids
        return self.model.run("words", np.tile(np.int32(ids), (self.batch, 1)))


def _read(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}): export it again") from None


def _unseal(data: bytes) -> dict | None:
    """The manifest, or None when a byte differs from what was written: its last entry is a digest of the others."""
    text, _, digest = data.rpartition(b',\n "sha256": "')
    text += b"\n}"
    return json.loads(text) if digest == hashlib.sha256(text).hexdigest().encode() + b'"\n}\n' else None


def _checked(folder: Path, name: str, facts: dict) -> bytes:
    """A file's bytes, if they are those that the manifest describes."""
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise ArtefactError(f"{folder}: lists a file {name!r} outside of it: export it again")
    data = _read(folder / name, facts["bytes"])
    if len(data) != facts["bytes"] or hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise ArtefactError(f"{folder / name}: damaged or altered (its SHA-256 differs): export it again")
    return data


def _tensors(data: bytes):
    """Names and arrays of a safetensors file: the length of a JSON header, the header, the arrays' bytes."""
    begin = 8 + int.from_bytes(data[:8], "little")
    for name, facts in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            start, stop = (begin + offset for offset in facts["data_offsets"])
            array = np.frombuffer(memoryview(data)[start:stop], STORED[facts["dtype"]])
            yield name, array.reshape(facts["shape"])
