"""Procedural talking portraits for tensorflow-datasets. Neither writing nor reading needs TensorFlow.

builder = KnotPortraits(data_dir="out/tfds", file_format="array_record")
builder.download_and_prepare()  # renders; nothing is downloaded
source = builder.as_data_source("train")  # random access, for grain
"""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from knotjax.data import clips
from knotjax.drive import CHANNELS, SAMPLE_RATE, TEXT_SLOTS


class KnotPortraits(tfds.core.GeneratorBasedBuilder):
    """Clips of seeds 0 .. (train) and 1,000,000 .. (held_out), with everything that drives them.

    Args:
      train, held_out: how many clips of each split.
      seconds: length of a clip at 25 fps.
      size: side of the pictures in pixels.
      utterance: speech of all clips; None: every clip says its own (needs espeak-ng).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}

    def __init__(
        self, *, train: int = 1000, held_out: int = 48, seconds: float = 4.8, size: int = 128, utterance=None, **kwargs
    ):
        self._counts = {"train": train, "held_out": held_out}
        self._seconds, self._size, self._utterance = seconds, size, utterance
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        tensor = tfds.features.Tensor
        features = {
            "frames": tensor(shape=(None, self._size, self._size, 3), dtype=np.uint8),
            "wave": tensor(shape=(None,), dtype=np.float32),
            "channels": tensor(shape=(None, len(CHANNELS)), dtype=np.float32),
            "words": tensor(shape=(TEXT_SLOTS,), dtype=np.int32),
            "mouth_box": tensor(shape=(None, 4), dtype=np.float32),
            "text": tfds.features.Text(),
            "seed": tfds.features.Scalar(np.int64),
        }
        what = f"Procedural talking portraits at 25 fps; sound is mono at {SAMPLE_RATE} Hz."
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), description=what)

    def _split_generators(self, dl_manager):
        begin = {"train": 0, "held_out": clips.FIRST_HELD_OUT_SEED}
        return {split: self._generate_examples(split, begin[split], count) for split, count in self._counts.items()}

    def _generate_examples(self, split: str, first: int, count: int):
        for seed in range(first, first + count):
            clip = clips.make_clip(seed, self._seconds, split, self._size, self._utterance)
            names = ("frames", "wave", "channels", "words", "mouth_box", "text", "seed")
            sample = {name: getattr(clip, name) for name in names}
            yield seed, sample | {"channels": np.asarray(clip.channels, np.float32)}
