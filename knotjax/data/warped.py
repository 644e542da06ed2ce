"""A talking portrait warped from one real photograph: skimage's `astronaut`, a public-domain NASA picture.

The functions mirror `knotjax.data.portraits`. Every picture is a backward warp of the photograph: compact and Gaussian
bumps move head, lids, irises, brows and lips, and a dark cavity with teeth fills the gap between the lips.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.data.portraits import in_chunks

SIDE = 256  # pixels of the square that is cut from the photograph
CORNER = (0, 96)  # its top left: row, column

# Landmarks in parts of that square (x right, y down).
HEAD, HEAD_RADII = (0.512, 0.395), (0.300, 0.335)
PIVOT = (0.505, 0.72)
EYES = ((0.420, 0.394), (0.589, 0.401))
BROWS = ((0.415, 0.348), (0.605, 0.361))
MOUTH, MOUTH_HALF = (0.5015, 0.5508), 0.077
LIPS_MEET, UPPER_LIP, LOWER_LIP = 0.019, 0.009, 0.034  # how far the lip edges sag below the corners in the photograph
PHOTO_SMILE = 0.9  # the person smiles in the photograph
# Outline of hair, face and suit, in 1/1024 of the square.
FIGURE = (
    *((230, 300), (258, 230), (320, 170), (380, 120), (440, 85), (540, 62), (640, 75), (720, 120), (780, 190)),
    *((815, 270), (824, 350), (800, 430), (762, 490), (728, 538), (690, 550), (672, 600), (640, 690), (700, 720)),
    *((770, 790), (825, 870), (838, 940), (940, 1024), (0, 1024), (0, 880), (70, 830), (70, 750), (110, 725)),
    *((150, 650), (220, 605), (300, 590), (352, 592), (343, 527), (312, 517), (296, 475), (250, 430), (233, 370)),
)

OPENING = 0.095  # distance between the lips at the widest opening
UPPER_SHARE = 0.22  # of the opening that the upper lip makes
UPPER_REACH, LOWER_REACH = 0.065, 0.130  # how far above and below the lips the skin follows
_MIRROR = np.array([-1, 1, -1, -1, 1, 1, -1, 1, 1, 1, 1], np.float32)


class PhotoIdentity(NamedTuple):
    """One look of the photograph; every field is a float32 array."""

    photo: np.ndarray  # [SIDE, SIDE, 3] in 0..1, recoloured
    crop: np.ndarray  # x0, y0, width in parts of the photograph
    mirrored: np.ndarray  # 0 or 1


@lru_cache(maxsize=1)
def _photograph() -> np.ndarray:
    from skimage import data, filters

    whole = data.astronaut()[CORNER[0] : CORNER[0] + SIDE, CORNER[1] : CORNER[1] + SIDE]
    return filters.gaussian(whole / 255.0, 0.7, channel_axis=-1).astype(np.float32)


@lru_cache(maxsize=1)
def _wall() -> np.ndarray:
    """Coverage of the wall behind the person, float64 [SIDE, SIDE]."""
    from skimage import draw, filters

    columns, rows = np.array(FIGURE).T / 1024 * SIDE
    person = draw.polygon2mask((SIDE, SIDE), np.stack([rows, columns], axis=1))
    return filters.gaussian(1.0 - person, 1.2)


def sample_photo(seed: int) -> PhotoIdentity:
    """Draw colours, crop and mirroring of the photograph from a seed."""
    rng = np.random.default_rng([seed, 0x9A])
    photo = _photograph().copy()
    y = (np.arange(SIDE)[:, None] + 0.5) / SIDE
    photo *= 1 - _wall()[..., None] * (1 - rng.uniform(0.45, 1.1, 3))
    suit = (np.clip((photo[..., 0] - photo[..., 2] - 0.35) * 6, 0, 1) * (y > 0.75))[..., None]
    photo += suit * (photo[..., rng.permutation(3)] - photo)
    photo = np.clip(photo, 0, 1) ** rng.uniform(0.75, 1.4) * rng.uniform(0.9, 1.08) * rng.uniform(0.92, 1.08, 3)
    width = rng.uniform(0.80, 0.95)
    x0 = HEAD[0] - width / 2 + rng.uniform(-0.03, 0.03)
    y0 = min(rng.uniform(0.0, 0.03), 1 - width)
    crop = np.array([np.clip(x0, 0, 1 - width), y0, width])
    return PhotoIdentity(*(np.asarray(v, np.float32) for v in (np.clip(photo, 0, 1), crop, rng.random() < 0.5)))


def _bump(distance, reach):
    """1 at 0, exactly 0 from `reach` on, smooth; its slope stays below 1.54 / reach."""
    return jnp.clip(1 - (distance / reach) ** 2, 0, 1) ** 2


def _gauss(x, y, centre, sx, sy):
    return jnp.exp(-0.5 * (((x - centre[0]) / sx) ** 2 + ((y - centre[1]) / sy) ** 2))


def _head_weight(x, y):
    """1 on the head, exactly 0 on wall and suit."""
    r = jnp.sqrt(((x - HEAD[0]) / HEAD_RADII[0]) ** 2 + ((y - HEAD[1]) / HEAD_RADII[1]) ** 2)
    ramp = jnp.clip((1.32 - r) / 0.36, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _unpose(ch, x, y, width):
    """Where a picture point lies on the resting head, as if all of it belonged to the head."""
    shrink, sin, cos = jnp.exp(-ch[5]), jnp.sin(ch[2]), jnp.cos(ch[2])
    dx, dy = (x - PIVOT[0] - width * ch[3]) * shrink, (y - PIVOT[1] - width * ch[4]) * shrink
    x, y = PIVOT[0] + cos * dx + sin * dy, PIVOT[1] + cos * dy - sin * dx
    depth = 0.20 * _gauss(x, y, (HEAD[0], 0.46), 0.17, 0.20)
    return x - depth * jnp.sin(ch[0]), y - 0.6 * depth * jnp.sin(ch[1])


def _scene(ident, size):
    axis = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    x, y = jnp.broadcast_arrays(axis[None, :], axis[:, None])
    x = jnp.where(ident.mirrored > 0, 1 - x, x)
    return ident.crop[0] + ident.crop[2] * x, ident.crop[1] + ident.crop[2] * y


def _frame(ident, ch, opening, wide, size):
    ch = jnp.where(ident.mirrored > 0, ch * _MIRROR, ch)
    sx, sy = _scene(ident, size)
    px = ident.crop[2] / size
    hx, hy = _unpose(ch, sx, sy, ident.crop[2])
    weight = _head_weight(sx, sy)
    x, y = sx + weight * (hx - sx), sy + weight * (hy - sy)

    # Brows, lids and irises.
    for brow, eye in zip(BROWS, EYES, strict=True):
        y = y + 0.016 * ch[9] * _gauss(x, y, brow, 0.055, 0.026)
        y = y - 0.036 * ch[8] * _gauss(x, y, (eye[0], eye[1] - 0.004), 0.036, 0.024)
        iris = _gauss(x, y, eye, 0.014, 0.014)
        x, y = x - 0.009 * ch[6] * iris, y - 0.005 * ch[7] * iris

    # Width and corners of the mouth, then the opening between the lips.
    near = _gauss(x, y, (MOUTH[0], MOUTH[1] + 0.02), 0.09, 0.05)
    x = MOUTH[0] + (x - MOUTH[0]) * (1 - 0.20 * (wide - 0.2) * near)
    u = (x - MOUTH[0]) / MOUTH_HALF
    y = y - 0.020 * (PHOTO_SMILE - ch[10]) * (jnp.clip(u * u, 0, 2) - 0.4) * near
    v = y - MOUTH[1]
    arch = jnp.clip(1 - u * u, 0, 1)
    gap = OPENING * opening
    upper, lower = (LIPS_MEET - UPPER_SHARE * gap) * arch, (LIPS_MEET + (1 - UPPER_SHARE) * gap) * arch
    above = v < 0.5 * (upper + lower)
    shift = jnp.where(
        above,
        (upper - UPPER_LIP * arch) * _bump(v - upper, UPPER_REACH),
        (lower - LOWER_LIP * arch) * _bump(v - lower, LOWER_REACH),
    )
    inner = jnp.where(above, jnp.minimum(v - shift, UPPER_LIP * arch), jnp.maximum(v - shift, LOWER_LIP * arch))
    # The Gaussian bumps have no end of their own: they end with the head.
    at = jnp.where(weight > 0, jnp.stack([MOUTH[1] + inner, x]), jnp.stack([sy, sx])) * SIDE - 0.5
    planes = [jax.scipy.ndimage.map_coordinates(ident.photo[..., k], at, order=1, mode="nearest") for k in range(3)]

    inside = jnp.clip((v - upper) / px + 0.5, 0, 1) * jnp.clip((lower - v) / px + 0.5, 0, 1)
    inside = inside * jnp.clip(arch * 6, 0, 1)
    show = jnp.clip((opening - 0.12) / 0.25, 0, 1) * jnp.clip(arch * 4 - 0.8, 0, 1)
    teeth = 0.95 * show * jnp.clip((upper + 0.022 - v) / px + 0.5, 0, 1)
    tongue = 0.8 * show * jnp.clip((v - lower + 0.25 * gap) / (3 * px), 0, 1)
    for k, (dark, pink, white) in enumerate(((0.13, 0.50, 0.90), (0.03, 0.18, 0.87), (0.03, 0.18, 0.82))):
        hollow = dark + tongue * (pink - dark)
        planes[k] = planes[k] + inside * (hollow + teeth * (white - hollow) - planes[k])
    return jnp.clip(jnp.stack(planes, axis=-1), 0, 1)


@partial(jax.jit, static_argnames="size")
def _render_chunk(ident, channels, opening, wide, size):
    return jax.lax.map(lambda t: _frame(ident, *t, size), (channels, opening, wide), batch_size=4)


def render(identity: PhotoIdentity, channels: np.ndarray, open: np.ndarray, wide: np.ndarray, size: int = 128):
    """Draw a clip: channels [T, 11], open [T] in 0..1 and wide [T] in -1..1 to float32 [T, size, size, 3] in 0..1."""
    pictures = np.empty((len(channels), size, size, 3), np.float32)
    for start, count, tracks in in_chunks(channels, open, wide):
        pictures[start : start + count] = np.asarray(_render_chunk(identity, *tracks, size=size))[:count]
    return pictures


@partial(jax.jit, static_argnames="size")
def _mouth_points(ident, channels, size):
    """Per frame the box, in pixels, around the points that show what an opening may move."""
    sx, sy = _scene(ident, size)
    axis = (jnp.arange(size, dtype=jnp.float32) + 0.5)[None, :]

    def one(ch):
        ch = jnp.where(ident.mirrored > 0, ch * _MIRROR, ch)
        hx, hy = _unpose(ch, sx, sy, ident.crop[2])
        weight = _head_weight(sx, sy)
        x, v = sx + weight * (hx - sx) - MOUTH[0], sy + weight * (hy - sy) - MOUTH[1]
        # The corners move by at most 0.04 with a smile, and the mouth widens by at most a quarter.
        held = (jnp.abs(x) < 1.3 * MOUTH_HALF) & (v > -UPPER_REACH - 0.04)
        held &= v < LIPS_MEET + (1 - UPPER_SHARE) * OPENING + LOWER_REACH
        cols, rows = held.any(0), held.any(1)
        spans = [(jnp.min(jnp.where(hit, axis[0], size)), jnp.max(jnp.where(hit, axis[0], 0))) for hit in (cols, rows)]
        return jnp.stack([spans[0][0], spans[1][0], spans[0][1], spans[1][1]])

    return jax.lax.map(one, channels, batch_size=4)


def mouth_box(identity: PhotoIdentity, channels: np.ndarray, size: int = 128) -> np.ndarray:
    """Box that holds mouth and jaw at any opening: channels [T, 11] to float32 [T, 4] x0, y0, x1, y1 in pixels."""
    boxes = np.empty((len(channels), 4), np.float32)
    for start, count, (piece,) in in_chunks(channels):
        boxes[start : start + count] = np.asarray(_mouth_points(identity, piece, size=size))[:count]
    return np.clip(boxes + np.array([-1, -1, 1, 1], np.float32), 0, size)


def stable_mask(identity: PhotoIdentity, channels: np.ndarray, size: int = 128) -> np.ndarray:
    """Pixels of wall and suit that the moving head never reaches: channels [T, 11] to bool [size, size]."""
    del channels  # the head's reach is the same for any motion
    x, y = _scene(identity, size)
    return np.asarray(_head_weight(x, y) == 0)
