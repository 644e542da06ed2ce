"""The map between pixel frames and latent frames, and the word list."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knotjax import drive


def latent_of(frame):
    """Which latent frame shows a pixel frame: 0 alone, then four by four."""
    latent, shown = 0, 1
    while frame >= shown:
        latent, shown = latent + 1, shown + 4
    return latent


@given(st.integers(0, 300))
def test_counts(frames):
    expected = len({latent_of(frame) for frame in range(frames)})
    assert drive.latent_count(frames) == expected
    assert drive.pixel_count(expected) >= frames
    assert expected == 0 or drive.pixel_count(expected - 1) < frames


def test_counts_at_the_edges():
    assert [drive.latent_count(n) for n in (-3, 0, 1, 2, 5, 6)] == [0, 0, 1, 2, 2, 3]
    assert [drive.pixel_count(n) for n in (-1, 0, 1, 2, 3)] == [0, 0, 1, 5, 9]


@given(st.integers(0, 40), st.integers(0, 8), st.integers(0, 5), st.integers(0, 5))
def test_rows(start, count, before, after):
    rows = drive.latent_rows(start, count, before=before, after=after)
    assert rows.shape == (count, before + 4 + after)
    for i in range(count):
        latent = start + i
        shown = [frame for frame in range(4 * latent + 9) if latent_of(frame) == latent]
        assert rows[i, before + 4 - len(shown) : before + 4].tolist() == shown
        assert np.all(np.diff(rows[i]) == 1)


def test_words():
    assert drive.word_ids().tolist() == [0, 0]
    ids = drive.word_ids("sad", "shake")
    assert ids.dtype == np.int32 and [drive.WORDS[i] for i in ids] == ["sad", "shake"]
    assert len(ids) == drive.TEXT_SLOTS and len(set(drive.WORDS)) == len(drive.WORDS)
    with pytest.raises(ValueError, match=r"'furious'.*neutral, happy"):
        drive.word_ids("furious")
    with pytest.raises(ValueError, match=r"'happy'.*still, nod"):
        drive.word_ids(None, "happy")
