import numpy as np
import pytest

from knotjax import drive
from knotjax.data import portraits, warped
from knotjax.data.motion import sample_motion

SIZE = 128
SOURCES = [(portraits, portraits.sample_identity), (warped, warped.sample_photo)]
both = pytest.mark.parametrize("room, sample", SOURCES, ids=["drawn", "photo"])


def still(frames=1):
    return np.zeros((frames, len(drive.CHANNELS)), np.float32)


def flat(value=0.0, frames=1):
    return np.full(frames, value, np.float32)


@both
def test_same_seed_same_picture_other_seed_other_picture(room, sample):
    first, again, other = (room.render(sample(s), still(), flat(), flat(), SIZE)[0] for s in (3, 3, 4))
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1 and first.std() > 0.05
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 0.02


@both
def test_length_is_free_and_frames_do_not_depend_on_each_other(room, sample):
    moves = sample_motion(np.random.default_rng(0), 37, "happy", "nod").channels
    opening = np.linspace(0, 1, 37, dtype=np.float32)
    whole = room.render(sample(5), moves, opening, flat(0, 37), SIZE)
    part = room.render(sample(5), moves[30:35], opening[30:35], flat(0, 5), SIZE)
    assert whole.shape[0] == 37
    assert np.abs(whole[30:35] - part).max() < 1e-5
    assert room.render(sample(5), still(0), flat(0, 0), flat(0, 0), SIZE).shape == (0, SIZE, SIZE, 3)


@both
def test_every_channel_shows(room, sample):
    sizes = {"tx": 0.02, "ty": 0.02, "scale": 0.03, "yaw": 0.1, "pitch": 0.1, "roll": 0.05}
    channels = still(1 + len(drive.CHANNELS) + 2)
    for row, name in enumerate(drive.CHANNELS, start=1):
        channels[row, row - 1] = sizes.get(name, 1.0)
    opening, wide = flat(0, len(channels)), flat(0, len(channels))
    opening[-2], wide[-1] = 1, 1
    pictures = room.render(sample(7), channels, opening, wide, SIZE)
    changed = (np.abs(pictures - pictures[0]).max(-1) > 0.05).sum(axis=(1, 2))
    figures = dict(zip(("rest", *drive.CHANNELS, "open", "wide"), changed.tolist()))
    print(figures)
    assert figures.pop("rest") == 0
    assert min(figures.values()) >= 8, figures


@both
def test_pose_directions(room, sample):
    channels = still(4)
    channels[1, drive.CHANNELS.index("yaw")] = 0.15
    channels[2, drive.CHANNELS.index("pitch")] = 0.15
    channels[3, drive.CHANNELS.index("roll")] = 0.1
    x0, y0, x1, y1 = room.mouth_box(sample(2), channels, SIZE).T
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    print("mouth moves", np.stack([x - x[0], y - y[0]], 1)[1:])
    assert x[1] > x[0] + 1 and y[2] > y[0] + 1
    assert x[3] > x[0] + 0.5  # clockwise about the neck


@both
def test_cavity_darkens_monotonically(room, sample):
    opening = np.linspace(0, 1, 11, dtype=np.float32)
    for seed in (0, 1, 2, 3):
        person = sample(seed)
        pictures = room.render(person, still(11), opening, flat(0, 11), SIZE)
        x0, y0, x1, y1 = room.mouth_box(person, still(), SIZE)[0].astype(int)
        inside = pictures[:, y0:y1, x0:x1]
        dark = (inside.max(-1) < 0.25).sum(axis=(1, 2))
        change = np.abs(inside - inside[0]).sum(axis=(1, 2, 3))
        print(seed, dark.tolist(), np.round(change).tolist())
        assert np.all(np.diff(dark[2:]) >= 0) and dark[-1] > dark[0] + 60
        assert np.all(np.diff(change) > 0)


@both
def test_mouth_box_holds_all_that_opening_moves(room, sample):
    for seed in range(6):
        person = sample(seed)
        moves = sample_motion(np.random.default_rng(seed), 40, drive.EMOTIONS[seed % 5], "nod").channels[::5].copy()
        moves[0, :2], moves[1, :2] = (0.4, -0.25), (-0.4, 0.28)
        wide = np.linspace(-1, 1, 8, dtype=np.float32)
        shut = room.render(person, moves, flat(0, 8), wide, SIZE)
        gape = room.render(person, moves, flat(1, 8), wide, SIZE)
        boxes = room.mouth_box(person, moves, SIZE)
        assert boxes.shape == (8, 4) and boxes.dtype == np.float32
        for frame, (x0, y0, x1, y1) in enumerate(boxes):
            rows, cols = np.nonzero(np.abs(gape[frame] - shut[frame]).max(-1) > 2 / 255)
            assert len(rows) > 100
            found = (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
            assert x0 <= found[0] and y0 <= found[1] and x1 >= found[2] and y1 >= found[3], (seed, frame, found)
            assert (x1 - x0) * (y1 - y0) < 0.2 * SIZE * SIZE


@both
def test_stable_pixels_never_change(room, sample):
    for seed in range(4):
        person = sample(seed)
        moves = sample_motion(np.random.default_rng(seed), 60, "surprised", "shake").channels
        opening = np.tile([0, 1], 30).astype(np.float32)
        pictures = room.render(person, moves, opening, flat(0, 60), SIZE)
        stable = room.stable_mask(person, moves, SIZE)
        spread = (pictures.max(0) - pictures.min(0)).max(-1)
        print(seed, "stable share", stable.mean(), "most change there", spread[stable].max())
        assert stable.dtype == bool and stable.shape == (SIZE, SIZE)
        assert stable.mean() > 0.2
        assert spread[stable].max() < 1e-5
        assert spread[~stable].max() > 0.3


def test_wide_open_mouth_is_large_enough_to_see():
    for seed in range(6):
        person = portraits.sample_identity(seed)
        pictures = portraits.render(person, still(2), np.array([0, 1], np.float32), flat(0, 2), SIZE)
        rows, cols = np.nonzero(np.abs(pictures[1] - pictures[0]).max(-1) > 0.25)
        high, broad = np.ptp(rows) + 1, np.ptp(cols) + 1
        print(seed, "mouth", high, "x", broad)
        assert 14 <= high <= 26 and 18 <= broad <= 28


def test_turning_the_head_hides_an_earring():
    person = portraits.sample_identity(0)._replace(
        has_earring=np.float32(1), hair_long=np.float32(0), earring=np.array([0, 1, 0], np.float32)
    )
    channels = still(3)
    channels[1:, 0] = (-0.35, 0.35)
    pictures = portraits.render(person, channels, flat(0, 3), flat(0, 3), SIZE)
    green = (pictures[..., 1] - pictures[..., [0, 2]].max(-1)) > 0.4
    left, right = green[:, :, :64].sum(axis=(1, 2)), green[:, :, 64:].sum(axis=(1, 2))
    print("ring pixels left", left, "right", right)
    assert left[0] > 4 and right[0] > 4
    assert right[1] > 2 * left[1] and left[2] > 2 * right[2]
