"""How far a mouth is open, measured from the picture alone.

The probe is told neither pose nor speech. In every frame it searches around the place where the reference picture has
the mouth, over shift, roll and size, for the blend of the closed and the widest rendering of the same face that fits
best, turns the found mouth upright, and takes the amount of the widest rendering in it. The amount is linear in the
picture, so the blur and noise of a generated video hardly bias it; dark hair, shirt or beard do not look like a mouth.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from knotjax.errors import InputError

_ROLLS = np.linspace(-0.24, 0.24, 7)  # radians that the search tries
_SCALES = np.array([0.88, 0.94, 1.0, 1.06, 1.12])
_CONTEXT = 6 / 128  # skin around the changing part that a template holds, in picture widths
_MARGIN = 10 / 128  # head motion that the search allows for, in picture widths
_SEARCH_WIDTH = 64  # picture width at which the search runs
_LEAST_CHANGE = 60  # summed over the channels, in grey levels: less is no part of the mouth's opening
_CASTS = (0.7, 1.4)  # gains per channel that still count as a colour cast of the same face
_TOLERANCE = 2 / 128  # blur and misplacement that should not lessen a found opening, in picture widths
_PIECE = 64  # frames measured at a time
# Brightness at half weight beside red-green and yellow-blue: teeth are as bright as skin, but colourless as the cavity.
_OPPONENT = np.array([[1 / 6, 1, 0.5], [1 / 6, -0.5, 0.5], [1 / 6, -0.5, -1]], np.float32)


class Calibration(NamedTuple):
    """What the probe knows of one face."""

    box: np.ndarray  # [4] mouth box that both pictures share: x0, y0, x1, y1 in pixels
    centre: np.ndarray  # [2] x, y of the middle of the part that opening changes
    size: np.ndarray  # [2] width and height of that part
    ends: np.ndarray  # [2, H, W, 3] float32 closed and widest, RGB


def calibrate(closed: np.ndarray, widest: np.ndarray, box: np.ndarray) -> Calibration:
    """Take the two ends of the scale from two pictures uint8 [H, W, 3] of one face in one pose.

    Args:
      closed: the mouth shut, opening 0.
      widest: the widest vowel, opening 1.
      box: [4], x0, y0, x1, y1 in pixels, holds the mouth in both.

    Raises:
      InputError: the pictures differ in shape, or show the same mouth.
    """
    if closed.shape != widest.shape or closed.ndim != 3 or closed.dtype != np.uint8 or widest.dtype != np.uint8:
        raise InputError(
            f"calibration pictures {closed.shape} and {widest.shape}: give two uint8 [H, W, 3] of one size"
        )
    box = np.asarray(box, np.float64)
    x0, y0 = np.maximum(np.floor(box[:2]), 0).astype(int)
    x1, y1 = np.ceil(box[2:]).astype(int)
    change = np.abs(widest[y0:y1, x0:x1].astype(int) - closed[y0:y1, x0:x1]).sum(-1) > _LEAST_CHANGE
    if not change.any():
        raise InputError("calibration pictures show the same mouth inside the box: give one closed and one wide open")
    rows, columns = np.nonzero(change)
    low = np.array([x0 + np.percentile(columns, 1), y0 + np.percentile(rows, 1)])
    high = np.array([x0 + np.percentile(columns, 99), y0 + np.percentile(rows, 99)]) + 1
    ends = np.stack([closed, widest]).astype(np.float32)
    centre, size = (low + high) / 2, high - low
    return Calibration(box, centre, size, ends)


def opening(video: np.ndarray, face: Calibration, box: np.ndarray | None = None) -> np.ndarray:
    """Mouth opening in every frame of a video uint8 [T, H, W, 3]: float32 [T], 0 closed to 1 the widest rendering.

    Args:
      face: the same face's calibration, from pictures of the same size.
      box: [4], where the clip's reference picture has the mouth; the calibration's own box when left out. The mouth is
        found while it stays within 10 pixels (at 128) of that place.

    Raises:
      InputError: the frames' size is not that of the calibration pictures.
    """
    if video.ndim != 4 or video.dtype != np.uint8 or video.shape[1:] != face.ends.shape[1:]:
        raise InputError(
            f"video is {video.dtype} {list(video.shape)}: give uint8 [T, H, W, 3] of {list(face.ends.shape[1:3])}, "
            "the size of the calibration pictures"
        )
    moved = np.zeros(4) if box is None else np.asarray(box, np.float64) - face.box
    start = face.centre + (moved[:2] + moved[2:]) / 2
    width = video.shape[2]
    step = max(1, round(width / _SEARCH_WIDTH))
    size = face.size + 2 * _CONTEXT * width
    bank = _make_bank(face, size, step)
    closed, widest = _upright_view(face.ends, np.array([[*face.centre, 0, 1]]), size)
    change = (widest - closed) @ _OPPONENT
    weight = ndimage.gaussian_filter(change, (_TOLERANCE * width, _TOLERANCE * width, 0), mode="nearest")
    still = np.abs(widest - closed).sum(-1) < _LEAST_CHANGE / 4  # [h, w]
    amounts = []
    for first in range(0, len(video), _PIECE):
        frames = video[first : first + _PIECE].astype(np.float32)
        cast = np.ones(3, np.float32)
        for _ in range(2):  # the second search knows the colour cast that the first one found
            places = _find(frames * cast @ _OPPONENT, start, size, bank, step)
            mouths = _upright_view(frames, places, size)
            casts = np.clip(closed[still].mean(0) / np.maximum(mouths[:, still].mean(1), 1), *_CASTS)  # [T, 3]
            cast = np.median(casts, 0).astype(np.float32)
        excess = (mouths * casts[:, None, None] - closed) @ _OPPONENT
        amounts.append(np.einsum("thwc,hwc->t", excess, weight, optimize=True) / (weight * change).sum())
    return np.clip(np.concatenate(amounts), 0, 1).astype(np.float32) if amounts else np.zeros(0, np.float32)


class _Bank(NamedTuple):
    """The templates of the search."""

    poses: np.ndarray  # [P, 2] roll in radians, scale
    closed: np.ndarray  # [P, n]
    change: np.ndarray  # [P, n], widest - closed


def _make_bank(face: Calibration, size: np.ndarray, step: int) -> _Bank:
    poses = np.array([(roll, scale) for roll in _ROLLS for scale in _SCALES])
    x, y = _offsets(size, step)
    roll, scale = poses[:, 0, None, None], poses[:, 1, None, None]
    u = face.centre[0] + (x * np.cos(roll) + y * np.sin(roll)) / scale  # [P, h, w]
    v = face.centre[1] + (y * np.cos(roll) - x * np.sin(roll)) / scale
    closed, widest = (
        _sample(soft[None], u, v).reshape(len(poses), -1) for soft in _soften(face.ends @ _OPPONENT, step)
    )
    return _Bank(poses, closed, widest - closed)


def _find(frames: np.ndarray, start: np.ndarray, size: np.ndarray, bank: _Bank, step: int) -> np.ndarray:
    """Where frames [T, H, W, 3] have the mouth: float64 [T, 4] of x, y in pixels, roll, scale."""
    reach = int(np.ceil(_MARGIN * frames.shape[2] / step))
    x, y = _offsets(size, step, extra=reach)
    view = _sample(_soften(frames, step), x[None] + start[0], y[None] + start[1])
    rows, columns = _offsets(size, step)[0].shape
    patches = np.lib.stride_tricks.sliding_window_view(view, (rows, columns), (1, 2))  # [T, sy, sx, 3, h, w]
    patches = np.moveaxis(patches, 3, -1).reshape(len(frames), (2 * reach + 1) ** 2, -1)  # [T, s, n]
    overlap = patches @ bank.change.T - (bank.closed * bank.change).sum(1)  # [T, s, P], as are the next two
    energy = np.square(bank.change).sum(1)
    amount = np.clip(overlap / energy, 0, 1)
    error = np.square(bank.closed).sum(1) - 2 * (patches @ bank.closed.T) - amount * (2 * overlap - amount * energy)
    error += np.square(patches).sum(-1, keepdims=True)
    place, pose = np.divmod(error.reshape(len(frames), -1).argmin(1), len(bank.poses))
    shift = np.stack([place % (2 * reach + 1), place // (2 * reach + 1)], 1) - reach
    return np.concatenate([start + step * shift, bank.poses[pose]], 1)


def _offsets(size: np.ndarray, step: int, extra: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A grid around 0 over `size` pixels and `extra` more points on each side: x and y in pixels, each [h, w]."""
    halves = np.ceil(size / 2 / step).astype(int) + extra
    x, y = (step * (np.arange(2 * half) + 0.5 - half) for half in halves)
    return np.meshgrid(x, y)


def _upright_view(frames: np.ndarray, places: np.ndarray, size: np.ndarray) -> np.ndarray:
    """What frames [T, H, W, 3] show at places [T or 1, 4] (x, y, roll, scale), at resting size: [T, h, w, 3]."""
    x, y = _offsets(size, 1)
    px, py, roll, scale = places.T[:, :, None, None]
    u = px + scale * (x * np.cos(roll) - y * np.sin(roll))
    v = py + scale * (y * np.cos(roll) + x * np.sin(roll))
    return _sample(frames, u, v)


def _soften(pictures: np.ndarray, step: int) -> np.ndarray:
    """Pictures [N, H, W, C] averaged over step x step pixels, so that sampling every `step` pixels does not alias."""
    if step == 1:
        return pictures
    for axis in (1, 2):
        shifts = [k - step // 2 for k in range(step)]  # taken both ways, so that an even step shifts nothing
        pictures = sum(np.roll(pictures, k, axis) + np.roll(pictures, -k, axis) for k in shifts) / (2 * step)
    return pictures


def _sample(pictures: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear values of pictures [N, H, W, C] at x, y [M, h, w] in pixels (centres at .5): [max(N, M), h, w, C].

    Either N or M may be 1, which is repeated; edges of the pictures are repeated too.
    """
    height, width = pictures.shape[1:3]
    x, y = np.clip(x - 0.5, 0, width - 1.001), np.clip(y - 0.5, 0, height - 1.001)
    column, row = x.astype(int), y.astype(int)
    u, v = (x - column)[..., None].astype(np.float32), (y - row)[..., None].astype(np.float32)
    n = np.arange(len(pictures))[:, None, None]
    top = pictures[n, row, column] * (1 - u) + pictures[n, row, column + 1] * u
    bottom = pictures[n, row + 1, column] * (1 - u) + pictures[n, row + 1, column + 1] * u
    return top * (1 - v) + bottom * v
