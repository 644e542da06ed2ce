"""Scores of videos: fidelity, colour and sharpness drift, motion energy, and jumps where chunks join.

All videos are uint8 [T, H, W, 3] in sRGB. Nothing here needs network weights. Long videos are worked through in
pieces, so memory stays small.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_PIECE = 64  # frames turned to floating point at a time
_BLOCK = 8  # pixels along a side of the blocks of the low-pass boundary statistic
_SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _SRGB_TO_XYZ.sum(1)  # D65: the colour of (255, 255, 255)
_LINEAR = np.arange(256) / 255
_LINEAR = np.where(_LINEAR <= 0.04045, _LINEAR / 12.92, ((_LINEAR + 0.055) / 1.055) ** 2.4)


class ColourDrift(NamedTuple):
    """Paired colour error of a clip, in CIE76 units (about 2 is just visible side by side)."""

    first: float  # mean error over the first 20 % of the frames
    last: float  # mean error over the last 20 % of the frames
    drift: float  # last - first
    per_minute: float  # least-squares slope over the whole clip


class BoundaryRatios(NamedTuple):
    """How much more a video changes at one phase of the chunk than at all others."""

    phases: np.ndarray  # [period], 1 where nothing is special about a phase
    excess: float  # phase 0 over the mean of the other latent edges; 1 when chunk joins are like any latent edge


def _check(video: np.ndarray, truth: np.ndarray | None = None) -> None:
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
        raise ValueError(f"video is {video.dtype} {list(video.shape)}: give uint8 [T, H, W, 3]")
    if truth is not None and (truth.shape != video.shape or truth.dtype != np.uint8):
        raise ValueError(f"videos are {list(video.shape)} and {list(truth.shape)}: give two uint8 videos of one shape")


def _pieces(frames: int, overlap: int = 0) -> Iterator[slice]:
    for start in range(0, frames - overlap, _PIECE):
        yield slice(start, min(start + _PIECE, frames - overlap) + overlap)


def _ends(frames: int) -> tuple[slice, slice]:
    fifth = max(1, round(0.2 * frames))
    return slice(0, fifth), slice(frames - fifth, frames)


def psnr(a: np.ndarray, b: np.ndarray, box: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two videos uint8 [T, H, W, 3], from the squared error pooled over the clip.

    Args:
      box: [T, 4] or [4], x0, y0, x1, y1 in pixels; only pixels whose centre lies inside count. The whole
        frame when left out.

    Returns infinity for equal videos.

    Raises:
      ValueError: the shapes differ, or the boxes hold no pixel.
    """
    _check(a, b)
    frames, height, width, _ = a.shape
    if box is not None:
        box = np.broadcast_to(np.asarray(box, np.float64), (frames, 4))
    total, count = 0.0, 0
    for piece in _pieces(frames):
        error = np.square(a[piece].astype(np.float32) - b[piece]).sum(-1, dtype=np.float64)  # [t, H, W]
        if box is None:
            total, count = total + error.sum(), count + error.size
            continue
        x0, y0, x1, y1 = box[piece].T[:, :, None]  # each [t, 1]
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        columns, rows = ((x >= x0) & (x < x1)).astype(np.float64), ((y >= y0) & (y < y1)).astype(np.float64)
        total += np.einsum("thw,th,tw->", error, rows, columns, optimize=True)
        count += int((rows.sum(1) * columns.sum(1)).sum())
    if not count:
        raise ValueError("the boxes hold no pixel: give x0 < x1 and y0 < y1 inside the frame")
    return float(10 * np.log10(255**2 * 3 * count / total)) if total > 0 else float("inf")


def lab(pixels: np.ndarray) -> np.ndarray:
    """CIE Lab (D65, two-degree observer) of sRGB pixels: uint8 [..., 3] to float64 [..., 3] as L, a, b.

    Raises:
      ValueError: the pixels are not uint8.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype}: give uint8")
    ratio = _LINEAR[pixels] @ (_SRGB_TO_XYZ / _WHITE[:, None]).T
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def colour_drift(video: np.ndarray, truth: np.ndarray, mask: np.ndarray, fps: float = 25.0) -> ColourDrift:
    """Colour error against the truth over time: CIE76 distance in Lab of each pixel under the mask, averaged per frame.

    Args:
      video: uint8 [T, H, W, 3].
      truth: uint8 [T, H, W, 3], the same moments.
      mask: bool [H, W], pixels that nothing moves across (background, shirt).
      fps: frames per second, for the slope.

    A video with a constant colour error has error but no drift. Drift is negative when the error shrinks.

    Raises:
      ValueError: the shapes differ, or the mask is empty.
    """
    _check(video, truth)
    if mask.shape != video.shape[1:3] or not mask.any():
        raise ValueError(f"mask is {list(mask.shape)} with {int(mask.sum())} pixels: give a bool [H, W] with some")
    mask = mask.astype(bool)
    error = np.concatenate(
        [np.linalg.norm(lab(video[p][:, mask]) - lab(truth[p][:, mask]), axis=-1).mean(1) for p in _pieces(len(video))]
    )  # [T]
    return _drift(error, fps)


def face_drift(video: np.ndarray, truth: np.ndarray, box: np.ndarray, fps: float = 25.0) -> ColourDrift:
    """Colour error of the face over time: CIE76 distance of the mean colours inside a box, per frame.

    Means over a patch of skin hardly depend on the pose, so a video that chose its own pose can be compared too.

    Args:
      video, truth: uint8 [T, H, W, 3].
      box: x0 y0 x1 y1 in pixels, the same in all frames.

    Raises:
      ValueError: the shapes differ, or the box holds no pixel.
    """
    _check(video, truth)
    left, top, right, bottom = (round(float(edge)) for edge in box)
    if not (0 <= left < right <= video.shape[2] and 0 <= top < bottom <= video.shape[1]):
        raise ValueError(f"box {[left, top, right, bottom]} holds no pixel of a {list(video.shape[1:3])} picture")
    inside = (slice(None), slice(top, bottom), slice(left, right))
    colours = [np.concatenate([lab(v[p][inside]).mean((1, 2)) for p in _pieces(len(v))]) for v in (video, truth)]
    return _drift(np.linalg.norm(colours[0] - colours[1], axis=-1), fps)


def _drift(error: np.ndarray, fps: float) -> ColourDrift:
    """What a course of errors [T] says."""
    head, tail = _ends(len(error))
    first, last = error[head].mean(), error[tail].mean()
    minutes = np.arange(len(error)) / fps / 60
    slope = np.polyfit(minutes, error, 1)[0] if len(error) > 1 else 0.0
    return ColourDrift(float(first), float(last), float(last - first), float(slope))


def _changes(video: np.ndarray, block: int = 1) -> np.ndarray:
    """Mean absolute difference of neighbouring frames, of block means when block > 1, in grey levels, [T - 1]."""
    _check(video)
    if len(video) < 2:
        raise ValueError("1 frame has no change over time: give at least 2")
    height, width = (size // block * block for size in video.shape[1:3])
    if not height or not width:
        raise ValueError(f"frames are smaller than {block} pixels: give larger ones")
    steps = []
    for piece in _pieces(len(video), overlap=1):
        part = video[piece, :height, :width].astype(np.float32)
        if block > 1:
            part = part.reshape(len(part), height // block, block, width // block, block, 3).mean((2, 4))
        steps.append(np.abs(np.diff(part, axis=0)).mean((1, 2, 3), dtype=np.float64))
    return np.concatenate(steps)


def adj_l1(video: np.ndarray) -> float:
    """Mean absolute difference of neighbouring frames of a video uint8 [T, H, W, 3], in units of the full range (0..1).

    Raises:
      ValueError: fewer than two frames.
    """
    return float(_changes(video).mean() / 255)


def temporal_flickering(video: np.ndarray) -> float:
    """VBench's temporal flickering of a video uint8 [T, H, W, 3]: 1 minus `adj_l1`, so 1 for a frozen picture.

    Not a quality score by itself: a blurred or frozen video scores better than the truth.

    Raises:
      ValueError: fewer than two frames.
    """
    return 1 - adj_l1(video)


def motion_energy_ratio(video: np.ndarray, truth: np.ndarray) -> float:
    """`adj_l1` of a video over that of the truth, both uint8 [T, H, W, 3]: 0 when frozen, above 1 when restless.

    Returns nan when the truth does not move.

    Raises:
      ValueError: the shapes differ, or fewer than two frames.
    """
    _check(video, truth)
    still = adj_l1(truth)
    return adj_l1(video) / still if still > 0 else float("nan")


def sharpness_drift(video: np.ndarray) -> float:
    """Fine detail in the last 20 % of a video uint8 [T, H, W, 3] over that in the first 20 %: below 1 when it blurs.

    Detail is the energy of what a [1 2 1]/4 filter along both axes takes away.

    Returns nan when the first frames have no detail.

    Raises:
      ValueError: the video is not uint8 [T, H, W, 3], or has sides below 3 pixels.
    """
    _check(video)
    if min(video.shape[1:3]) < 3:
        raise ValueError(f"frames are {list(video.shape[1:3])}: give at least 3 by 3 pixels")
    head, tail = (video[end] for end in _ends(len(video)))
    first, last = (np.concatenate([_detail(end[p]) for p in _pieces(len(end))]).mean() for end in (head, tail))
    return float(last / first) if first > 0 else float("nan")


def _detail(part: np.ndarray) -> np.ndarray:
    part = part.astype(np.float32)
    rows = (part[:, :-2] + 2 * part[:, 1:-1] + part[:, 2:]) / 4
    smooth = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    return np.square(part[:, 1:-1, 1:-1] - smooth).mean((1, 2, 3), dtype=np.float64)


def boundary_ratios(
    video: np.ndarray, period: int = 12, *, stride: int = 4, start: int = 0, low_pass: bool = True
) -> BoundaryRatios:
    """How a video uint8 [T, H, W, 3] jumps where chunks join, against all other frames and against other latent edges.

    With d_t the mean absolute change from frame t-1 to t and phase (t - start) modulo `period`, the ratio R_p is the
    mean of d over frames of phase p divided by the mean over all other frames. `excess` is R_0 over the mean of R at
    the other multiples of `stride`, which a codec with its own period of `stride` frames does not move.

    Args:
      period: pixel frames in a chunk.
      stride: pixel frames in a latent frame.
      start: number of a frame that begins a chunk.
      low_pass: compare means of 8 x 8 blocks, which see a faint jump under noise.

    Ratios are nan where the video does not move.

    Raises:
      ValueError: the period holds no second latent edge, or the video is shorter than two chunks.
    """
    if period % stride or period < 2 * stride:
        raise ValueError(f"a period of {period} frames holds one latent edge only: give a larger multiple of {stride}")
    change = _changes(video, _BLOCK if low_pass else 1)
    if len(change) < 2 * period:
        raise ValueError(f"{len(video)} frames are too few: give more than {2 * period}")
    phase = (np.arange(1, len(video)) - start) % period
    sums, counts = np.bincount(phase, change, period), np.bincount(phase, minlength=period)
    rest = (sums.sum() - sums) / (counts.sum() - counts)
    ratios = np.divide(sums / counts, rest, out=np.full(period, np.nan), where=rest > 0)
    other = ratios[stride::stride].mean()
    return BoundaryRatios(ratios, float(ratios[0] / other) if other > 0 else float("nan"))
