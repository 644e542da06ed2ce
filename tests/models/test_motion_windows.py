"""Motion features of latent frames."""

import numpy as np

from knotjax import drive
from knotjax.models import motion


def clip(frames, seed=0):
    return np.random.default_rng(seed).standard_normal((frames, len(drive.CHANNELS))).astype(np.float32)


def test_windows_hold_scaled_channels_and_flags():
    channels, present = clip(17), np.ones(4, bool)
    windows = motion.motion_windows(channels, present, 0, 6)
    assert windows.shape == (6, 4, motion.WIDTH) and windows.dtype == np.float32
    for f in range(6):
        for p in range(4):
            frame = min(max(4 * f - 3 + p, 0), 16)  # the first and the last frame repeat
            np.testing.assert_allclose(windows[f, p, :11], channels[frame] / np.float32(motion.SPREAD), rtol=1e-6)
            np.testing.assert_array_equal(windows[f, p, 11:], 1.0)
    np.testing.assert_array_equal(motion.motion_windows(channels, present, 2, 3), windows[2:5])
    np.testing.assert_array_equal(motion.motion_windows(channels, present, 100, 1)[0, 0], windows[5, 3])


def test_absent_groups_read_zero():
    channels = clip(9)
    for i, (name, columns) in enumerate(drive.GROUPS.items()):
        present = np.arange(4) != i
        windows = motion.motion_windows(channels, present, 0, 3)
        full = motion.motion_windows(channels, np.ones(4, bool), 0, 3)
        assert not np.any(windows[..., columns]), name
        rest = np.delete(np.arange(11), columns)
        np.testing.assert_array_equal(windows[..., rest], full[..., rest])
        np.testing.assert_array_equal(windows[..., 11:], np.broadcast_to(present, (3, 4, 4)))
    assert not np.any(motion.motion_windows(*motion.NOTHING, 0, 5))


def test_layout():
    assert motion.WIDTH == 15 and len(motion.SPREAD) == len(drive.CHANNELS) and min(motion.SPREAD) > 0
    covered = np.concatenate([np.arange(11)[columns] for columns in drive.GROUPS.values()])
    np.testing.assert_array_equal(covered, np.arange(11))
