"""The rows that a latent frame hears, against the rules written out frame by frame."""

import numpy as np
import pytest

from knotjax.models.wav2vec2_windows import (
    multitalk_at,
    multitalk_first,
    multitalk_rows,
    omniavatar_at,
    omniavatar_rows,
)


def states(rows=13, layers=3, width=4):
    return np.random.default_rng(0).standard_normal((layers + 1, 2, rows, width)).astype(np.float32)


def test_multitalk_rows():
    given = states()
    rows = multitalk_rows(given)
    assert rows.shape == (2, 13, 3, 4)
    np.testing.assert_array_equal(rows[1, 5, 2], given[3, 1, 5])


def test_multitalk_windows_follow_the_merge_rule():
    rows = np.asarray(multitalk_rows(states()))

    def window(frame):  # five frames around a pixel frame, the clip's ends repeated
        return [rows[:, min(max(frame + k, 0), rows.shape[1] - 1)] for k in range(-2, 3)]

    np.testing.assert_array_equal(multitalk_first(rows), np.stack(window(0), 1))
    for latent in range(1, 4):
        four = [window(frame) for frame in range(4 * latent - 3, 4 * latent + 1)]
        merged = [*four[0][:3], four[1][2], four[2][2], *four[3][2:]]
        np.testing.assert_array_equal(multitalk_at(rows, latent, 1)[:, 0], np.stack(merged, 1))
    assert multitalk_at(rows, 1, 3).shape == (2, 3, 8, 3, 4)
    np.testing.assert_array_equal(multitalk_at(rows, 1, 3)[:, 2], multitalk_at(rows, 3, 1)[:, 0])
    with pytest.raises(ValueError, match="window of its own"):
        multitalk_at(rows, 0, 2)


def test_published_widths():
    base = np.zeros((13, 1, 9, 768), np.float32)
    assert multitalk_first(multitalk_rows(base))[0].size == 46_080
    assert multitalk_at(multitalk_rows(base), 1, 1)[0, 0].size == 73_728
    assert omniavatar_rows(base).shape[-1] == 10_752
    assert omniavatar_at(omniavatar_rows(base), 1, 2).shape == (1, 2, 43_008)


def test_omniavatar_groups():
    given = states()
    rows = np.asarray(omniavatar_rows(given))
    assert rows.shape == (2, 13, 5 * 4)
    np.testing.assert_array_equal(rows[1, 6], np.concatenate([given[3, 1, 6], *given[:, 1, 6]]))
    groups = np.asarray(omniavatar_at(rows, 0, 4)).reshape(2, 4, 4, 20)
    assert not np.any(groups[:, 0])
    prefixed = np.concatenate([np.zeros((2, 1, 20), np.float32), rows], 1)
    for latent in range(1, 4):
        np.testing.assert_array_equal(groups[:, latent], prefixed[:, 4 * latent - 3 : 4 * latent + 1])
    np.testing.assert_array_equal(omniavatar_at(rows, 2, 2).reshape(2, 2, 4, 20), groups[:, 2:])
    for start, count in ((0, 5), (-1, 2)):
        with pytest.raises(ValueError, match="given 13"):
            omniavatar_at(rows, start, count)
