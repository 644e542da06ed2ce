"""The training corpus of the small model: procedural clips, rendered once to disk, then encoded and kept in memory.

A stream may start at any latent group of a clip, and the first latent of a stream stands for a single pixel frame. So
two latents are kept per group: `group` (four frames) and `still` (its last frame alone: a stream's first latent, or a
reference picture).
"""

import contextlib
import hashlib
import logging
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import grain
import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from knotjax.data.clips import make_clip
from knotjax.drive import CHANNELS, FPS, GROUPS, STRIDE, TEXT_SLOTS
from knotjax.errors import InputError
from knotjax.models import motion, speech
from knotjax.models.patch_codec import linear_part
from knotjax.models.pixels import to_float

log = logging.getLogger("knotjax")


def render(folder: Path, clips: int, seconds: float) -> list[Path]:
    """Render the clips of seeds 0 .. clips - 1, one file each, cut to whole latent groups; files that exist are kept.

    A file holds frames uint8 [T, H, W, 3], speech float16 [T, features], channels float32 [T, C], words int32 [2] and
    mouth float32 [T, 4], the box x0 y0 x1 y1 in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    length = int(seconds * FPS) // STRIDE * STRIDE
    paths = [folder / f"{seed:06d}.safetensors" for seed in range(clips)]
    missing = [seed for seed in range(clips) if not paths[seed].exists()]
    start, work = time.time(), partial(_render, seconds=seconds, length=length)
    with contextlib.ExitStack() as stack:
        workers = min(os.cpu_count() or 1, len(missing) // 32, 16)
        if workers > 2:  # drawing keeps two cores busy as it is
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(workers, context, initializer=_on_cpu))
            spread = partial(pool.map, chunksize=4)
        else:
            spread = map
        for done, _ in enumerate(spread(work, missing, [paths[seed] for seed in missing]), 1):
            if done % 50 == 0:
                left = (time.time() - start) / done * (len(missing) - done)
                log.info("corpus: rendered %d of %d clips, %.0f s left", done, len(missing), left)
    return paths


def _on_cpu() -> None:
    """Keep a worker off the accelerator, which its parent holds."""
    jax.config.update("jax_platforms", "cpu")


def _render(seed: int, path: Path, seconds: float, length: int) -> None:
    """Render one clip into its file."""
    clip = make_clip(seed, seconds)
    arrays = {
        "frames": clip.frames[:length],
        "speech": speech.speech_rows(clip.wave, length).astype(np.float16),
        "channels": np.asarray(clip.channels[:length], np.float32),
        "words": np.asarray(clip.words, np.int32),
        "mouth": clip.mouth_box[:length],
    }
    part = path.with_suffix(".part")
    save_file(arrays, part)
    part.rename(path)


def read(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Some arrays of a rendered clip."""
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in names}


def encode(paths: list[Path], codec, params) -> list[dict[str, np.ndarray]]:
    """Rendered clips as training arrays, see `encode_clip`."""
    start = time.time()
    names = ("frames", "speech", "channels", "words", "mouth")
    corpus = [encode_clip(read(path, *names), codec, params) for path in paths]
    log.info("corpus: encoded %d clips in %.0f s", len(paths), time.time() - start)
    return corpus


def encode_clip(clip: dict[str, np.ndarray], codec, params) -> dict[str, np.ndarray]:
    """One clip as training arrays.

    Args:
      clip: arrays as in a rendered file, a multiple of four frames; without mouth, channels or words nothing is known
        of them.

    Returns:
      For every latent group, still and group: float16 [G, h, w, z]; mouth: bool [G, h, w], latents that the mouth's
      box touches; speech: float16 [T, features]; channels: float32 [T, C] (only when given); words: int32 [2].
    """
    group, still = _encode(codec, params, clip["frames"])
    arrays = {"group": np.asarray(group, np.float16), "still": np.asarray(still, np.float16)}
    if "mouth" in clip:
        arrays["mouth"] = touched(clip["mouth"], codec.config.patch, codec.config.grid)
    else:
        arrays["mouth"] = np.zeros(group.shape[:-1], bool)
    if "channels" in clip:
        arrays["channels"] = clip["channels"]
    return arrays | {"speech": clip["speech"], "words": clip.get("words", np.zeros(TEXT_SLOTS, np.int32))}


def codec_sum(params) -> str:
    """What tells a codec's latents from those of others: SHA-256 of its linear part in float16."""
    leaves = jax.tree.leaves(linear_part(params))
    return hashlib.sha256(b"".join(np.asarray(leaf, np.float16).tobytes() for leaf in leaves)).hexdigest()


def touched(boxes: np.ndarray, patch: int, grid: int) -> np.ndarray:
    """Latents that a box touches in any frame of their group: x0 y0 x1 y1 [T, 4] in pixels -> bool [G, grid, grid]."""
    low = np.arange(grid) * patch
    x0, y0, x1, y1 = (boxes[:, i, None] for i in range(4))
    columns, rows = (low < x1) & (low + patch > x0), (low < y1) & (low + patch > y0)  # [T, grid]
    inside = rows[:, :, None] & columns[:, None, :]
    return inside.reshape(-1, STRIDE, grid, grid).any(1)


@partial(jax.jit, static_argnums=0)
def _encode(codec, params, frames):
    pixels = to_float(frames)  # [T, H, W, 3]
    running = codec.init_encode(1, first=False)
    _, group = codec.encode_step(params, running, pixels[None])
    return group[0], codec.encode_picture(params, pixels[STRIDE - 1 :: STRIDE])[:, 0]


class Windows:
    """A grain map: from a clip and a random generator to one training sample."""

    def __init__(self, latents: int, drop: dict[str, float]):
        self.latents = latents
        self.drop = drop

    def sample(self, clip: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample of `latents` consecutive latent frames that begins like a stream.

        Returns:
          latents [F, h, w, z], mouth [F, h, w], reference [1, h, w, z], audio [F, P, C], motion [F, P, C], words [2],
          places int32 [2]: the latent groups that the window begins at and that the reference is the end of.

        Raises:
          InputError: the clip is too short.
        """
        groups = len(clip["group"])
        if groups < self.latents:
            have, need = (round(count * STRIDE / FPS, 2) for count in (groups, self.latents))
            raise InputError(f"a clip of {have} s is too short: this config needs clips of {need} s or more")
        start = int(rng.integers(0, groups - self.latents + 1))
        pick = clip["group"][start : start + self.latents].astype(np.float32)
        pick[0] = clip["still"][start]
        shown = int(rng.integers(0, groups))
        reference = clip["still"][shown].astype(np.float32)[None]

        # The group's last pixel frame is pixel frame 0 of the stream.
        begin = STRIDE * start + STRIDE - 1
        rows = clip["speech"].astype(np.float32)
        if rng.random() < 0.5:  # half of the streams begin with nothing heard before
            rows = rows[begin:]
            audio = speech.speech_windows(rows, 0, self.latents)
        else:
            audio = speech.speech_windows(rows[STRIDE - 1 :], start, self.latents)
        audio = audio + np.float32(rng.normal(0.0, 0.25))  # level of the recording
        audio = audio + rng.normal(0.0, 0.1, audio.shape[-1:]).astype(np.float32)  # colour of the microphone
        if rng.random() < self.drop["audio"]:
            audio = np.zeros_like(audio)
        draw = rng.random()
        channels = clip.get("channels")
        if channels is None or draw < self.drop["all_motion"]:
            present = np.zeros(len(GROUPS), bool)
        elif draw < self.drop["all_motion"] + self.drop["some_motion"]:
            present = rng.random(len(GROUPS)) < 0.5
        else:
            present = np.ones(len(GROUPS), bool)
        if channels is None:
            channels = np.zeros((len(clip["speech"]), len(CHANNELS)), np.float32)
        words = np.where(rng.random(2) < self.drop["words"], 0, clip["words"]).astype(np.int32)
        return {
            "latents": pick,
            "mouth": clip["mouth"][start : start + self.latents],
            "reference": reference,
            "audio": audio,
            "motion": motion.motion_windows(channels[begin:], present, 0, self.latents),
            "words": words,
            "places": np.array([start, shown], np.int32),
        }


class Pairs:
    """A grain map: from a rendered clip's path to a portrait and two neighbouring latent groups of that clip.

    Every fourth pair is a standing picture (one frame repeated), as the first latent of a stream is. Half are mirrored.
    """

    def sample(self, path: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """pictures uint8 [1 + 2 * STRIDE, H, W, 3], and mouth float32 [STRIDE, 4], boxes of the second group."""
        with safe_open(path, "np") as file:
            frames, boxes = file.get_slice("frames"), file.get_tensor("mouth")
            length, _, width, _ = frames.get_shape()
            at, other = rng.integers(0, length - 2 * STRIDE + 1), rng.integers(0, length)
            shown = np.full(2 * STRIDE, at) if rng.random() < 0.25 else at + np.arange(2 * STRIDE)
            pair = frames[at : at + 2 * STRIDE][shown - at]
            both, mouth = np.concatenate([frames[other : other + 1], pair]), boxes[shown[STRIDE:]]
        if rng.random() < 0.5:
            both = np.ascontiguousarray(both[:, :, ::-1])
            mouth = np.stack([width - mouth[:, 2], mouth[:, 1], width - mouth[:, 0], mouth[:, 3]], 1)
        return {"pictures": both, "mouth": mouth}


def batches(source, transform, batch: int, seed: int, shard: tuple[int, int] = (0, 1)):
    """A practically endless, resumable grain iterator over shuffled samples of `transform`.

    Args:
      batch: samples that this process loads at once.
      shard: (index, count): of every `count` batches this process takes the one of this index, so that the joint
        batches are the same for any number of processes.
    """
    epochs = 10**9 // len(source)  # grain cannot slice an endless dataset of batches of one
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs).random_map(transform.sample)
    dataset = dataset.batch(batch)[shard[0] :: shard[1]]
    threads = min(8, max(1, (os.cpu_count() or 1) // 2))  # cores that an accelerator leaves idle
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8)))
