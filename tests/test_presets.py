"""Sizes of the public models."""

import jax
import pytest

from knotjax.models.dit import DiT
from knotjax.presets import PRESETS, shapes

# forcing.md and the model cards: 1.42, 14.3, 16.39 and, with sound, 18.88 billion
COUNTS = {
    "wan2.1-t2v-1.3b": 1_418_996_800,
    "wan2.1-t2v-14b": 14_288_491_584,
    "wan2.1-i2v-14b": 16_394_878_784,
    "wan2.1-inpaint-1.3b": 1_418_996_800 + 17 * 4 * 1536,  # mask and given channels
    "wan2.1-inpaint-14b": 14_288_491_584 + 17 * 4 * 5120,
    "omniavatar-1.3b": 1_418_996_800 + 17 * 4 * 1536 + (43008 * 32 + 3 * 32) + 14 * 33 * 1536,
    "omniavatar-14b": 14_288_491_584 + 17 * 4 * 5120 + (43008 * 32 + 3 * 32) + 19 * 33 * 5120,
    "infinitetalk-14b": 18_882_046_784,
    "liveact-14b": 18_882_046_784 + 40 * 2 * 5 * 5120,  # kernels of the memory
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameters(name, count):
    assert PRESETS.keys() == COUNTS.keys()
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(DiT(PRESETS[name])))) == count


def test_input_channels():
    channels = {name: config.in_channels for name, config in PRESETS.items()}
    assert channels["wan2.1-t2v-1.3b"] == 16
    assert channels["wan2.1-i2v-14b"] == channels["liveact-14b"] == 36
    assert channels["omniavatar-1.3b"] == 33
