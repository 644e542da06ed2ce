"""The training corpus of the small model: procedural clips, encoded once and kept in memory as latents.

A stream may start at any latent group of a clip, and the first latent of a stream stands for a single pixel frame. So
two latents are kept per group: `group` (four frames) and `still` (its last frame alone: a stream's first latent, or a
reference picture).
"""

import logging
import time
from functools import partial
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from knotjax.data.clips import make_clip
from knotjax.drive import FPS, GROUPS, STRIDE
from knotjax.models import motion, speech
from knotjax.models.patch_codec import EncodeState, PatchCodec

log = logging.getLogger("knotjax")


def clip_frames(seconds: float) -> int:
    """Pixel frames of a clip, cut to whole latent groups."""
    return int(seconds * FPS) // STRIDE * STRIDE


def encode_clip(codec: PatchCodec, params, clip) -> dict[str, np.ndarray]:
    """A clip as training arrays.

    Returns:
      group, still: float16 [G, h, w, z]; speech: float16 [T, features]; channels: float32 [T, C]; words: int32 [2].
    """
    frames = clip.frames[: len(clip.frames) // STRIDE * STRIDE]
    group, still = _encode(codec, params, jnp.asarray(frames))
    return {
        "group": np.asarray(group, np.float16),
        "still": np.asarray(still, np.float16),
        "speech": speech.speech_rows(clip.wave, len(frames)).astype(np.float16),
        "channels": np.asarray(clip.channels[: len(frames)], np.float32),
        "words": np.asarray(clip.words, np.int32),
    }


@partial(jax.jit, static_argnums=0)
def _encode(codec: PatchCodec, params, frames):
    pixels = frames.astype(jnp.float32) / 127.5 - 1.0  # [T, H, W, 3]
    _, group = codec.encode_step(params, EncodeState(jnp.zeros(1, bool)), pixels[None])
    return group[0], codec.encode_picture(params, pixels[STRIDE - 1 :: STRIDE])[:, 0]


def build(folder: Path, codec: PatchCodec, params, clips: int, seconds: float) -> list[dict[str, np.ndarray]]:
    """Render and encode clips with seeds 0 .. clips-1, one file each; files that exist are kept.

    Returns:
      The clips' arrays, in seed order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start, made = time.time(), 0
    corpus = []
    for seed in range(clips):
        path = folder / f"{seed:06d}.safetensors"
        if not path.exists():
            part = path.with_suffix(".part")
            save_file(encode_clip(codec, params, make_clip(seed, seconds)), part)
            part.rename(path)
            made += 1
            if made % 50 == 0:
                left = (time.time() - start) / made * (clips - seed - 1)
                log.info("corpus: %d of %d clips, %.0f s left", seed + 1, clips, left)
        corpus.append(load_file(path))
    return corpus


class Windows:
    """A grain map: from a clip and a random generator to one training sample."""

    def __init__(self, latents: int, drop: dict[str, float]):
        self.latents = latents
        self.drop = drop

    def sample(self, clip: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample of `latents` consecutive latent frames that begins like a stream.

        Returns:
          latents [F, h, w, z], reference [1, h, w, z], audio [F, P, C], motion [F, P, C], words [2].
        """
        groups = len(clip["group"])
        start = int(rng.integers(0, groups - self.latents + 1))
        pick = clip["group"][start : start + self.latents].astype(np.float32)
        pick[0] = clip["still"][start]
        reference = clip["still"][rng.integers(0, groups)].astype(np.float32)[None]

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
        if draw < self.drop["all_motion"]:
            present = np.zeros(len(GROUPS), bool)
        elif draw < self.drop["all_motion"] + self.drop["some_motion"]:
            present = rng.random(len(GROUPS)) < 0.5
        else:
            present = np.ones(len(GROUPS), bool)
        words = np.where(rng.random(2) < self.drop["words"], 0, clip["words"]).astype(np.int32)
        return {
            "latents": pick,
            "reference": reference,
            "audio": audio,
            "motion": motion.motion_windows(clip["channels"][begin:], present, 0, self.latents),
            "words": words,
        }


def batches(corpus, latents: int, drop: dict[str, float], batch: int, seed: int):
    """An endless, resumable grain iterator over shuffled samples."""
    windows = Windows(latents, drop)
    dataset = grain.MapDataset.source(_Source(corpus)).seed(seed).shuffle().repeat().random_map(windows.sample)
    return iter(dataset.batch(batch).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


class _Source:
    """Random access over the clips."""

    def __init__(self, corpus):
        self.corpus = corpus

    def __len__(self):
        return len(self.corpus)

    def __getitem__(self, index):
        return self.corpus[index]
