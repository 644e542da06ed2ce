"""Procedural talking portraits: anti-aliased ellipses, posed with parallax and composited per frame.

Lengths are in picture widths. The head has its own coordinates: x right, y down, z towards the viewer, origin between
the eyes and the mouth.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.data.identities import Identity, sample_identity

__all__ = ["CHUNK", "Identity", "in_chunks", "mouth_box", "render", "sample_identity", "stable_mask"]

CHUNK = 32  # frames per compiled call, so that a clip of any length reuses one program
HEAD_RADIUS = 0.24  # of the sphere that features sit on
PIVOT = 0.24  # the head turns about a point this far below its origin
JAW_DROP = 0.018  # how far the chin moves down at the widest opening
OPENING = 0.066  # half height of the mouth cavity at the widest opening


def _edge(distance, px):
    """Coverage of a pixel whose signed distance to an edge is `distance` (negative inside)."""
    return jnp.clip(0.5 - distance / px, 0, 1)


def _distance(x, y, rx, ry):
    """First-order distance to an ellipse; scaling the radius instead smears thin ellipses along their long axis."""
    ax, ay = x / rx, y / ry
    k0 = jnp.sqrt(ax * ax + ay * ay + 1e-9)
    bx, by = ax / rx, ay / ry
    return k0 * (k0 - 1) * jax.lax.rsqrt(bx * bx + by * by + 1e-9)


def _ellipse(x, y, rx, ry, px):
    return _edge(_distance(x, y, rx, ry), px)


def _over(image, cover, colour):
    """Composite a colour (three scalars or planes) over an image held as three planes."""
    return tuple(below + cover * (above - below) for below, above in zip(image, colour, strict=True))


def _tint(colour, gain):
    return tuple(colour[k] * gain for k in range(3))


def _ripple(x, y, waves):
    return sum(w[3] * jnp.sin(w[0] * x + w[1] * y + w[2]) for w in waves)


class _Pose(NamedTuple):
    """Turns scene points into head coordinates and puts head features where the turned head shows them."""

    sin_yaw: jax.Array
    cos_yaw: jax.Array
    sin_pitch: jax.Array
    cos_pitch: jax.Array

    def place(self, x, y, out=0.0):
        """Centre and stretch of a feature at (x, y) that stands `out` proud of the head."""
        z = jnp.sqrt(HEAD_RADIUS**2 - x * x - 0.5 * y * y) + out
        cx = x * self.cos_yaw + z * self.sin_yaw
        cy = y * self.cos_pitch + 0.6 * z * self.sin_pitch
        return cx, cy, jnp.clip(self.cos_yaw - x / z * self.sin_yaw, 0.4, 1.3)


def _pose(ch):
    return _Pose(jnp.sin(ch[0]), jnp.cos(ch[0]), jnp.sin(ch[1]), jnp.cos(ch[1]))


def _grid(size):
    axis = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    return axis[None, :], axis[:, None]


def _origin(ident):
    """Scene position of the pivot below the head."""
    return 0.5, ident.shoulders[0] - 0.36 + PIVOT


def _to_head(ident, ch, x, y):
    ox, oy = _origin(ident)
    shrink = jnp.exp(-ch[5])
    dx, dy = (x - ox - ch[3]) * shrink, (y - oy - ch[4]) * shrink
    sin, cos = jnp.sin(ch[2]), jnp.cos(ch[2])
    return cos * dx + sin * dy, cos * dy - sin * dx + PIVOT, shrink


def _from_head(ident, ch, x, y):
    ox, oy = _origin(ident)
    sin, cos = jnp.sin(ch[2]), jnp.cos(ch[2])
    y = y - PIVOT
    return ox + ch[3] + jnp.exp(ch[5]) * (cos * x - sin * y), oy + ch[4] + jnp.exp(ch[5]) * (sin * x + cos * y)


def _still_layers(ident, size):
    """Wall, and shirt with its coverage: they never move."""
    x, y = _grid(size)
    ripple = 1 + _ripple(x, y, ident.wall_waves)
    wall = tuple((ident.background[0, k] * (1 - y) + ident.background[1, k] * y) * ripple for k in range(3))
    top, half, neckline, neck = (ident.shoulders[k] for k in range(4))
    body = jnp.maximum(
        _ellipse(x - 0.5, y - top - 0.20, half, 0.21, 1 / size), _ellipse(x - 0.5, y - 1.1, half + 0.04, 0.26, 1 / size)
    )
    cut = _ellipse(x - 0.5, y - top - 0.005, neck * 1.05, neckline + 0.03, 1 / size)
    fold = 1 - 0.9 * (x - 0.5) ** 2 + 0.05 * jnp.sin(40 * (x - 0.5) * (1.6 - y) + 3 * y)
    collar = 1 - 0.25 * _edge(
        jnp.abs(_distance(x - 0.5, y - top - 0.005, neck * 1.05, neckline + 0.03)) - 0.008, 1 / size
    )
    return wall, body * (1 - cut), _tint(ident.shirt, fold * collar)


class _Head(NamedTuple):
    """Coverages of the parts that make up the outline of a posed head."""

    hair_back: jax.Array
    neck: jax.Array
    ear: jax.Array
    ring: jax.Array
    face: jax.Array
    hair_front: jax.Array


def _outline(ident, ch, pose, opening, scene, head, px, size):
    sx, sy = scene
    x, y = head
    skull, jaw, chin, length = (ident.face[k] for k in range(4))
    lean = 0.06 * pose.sin_yaw  # the front of the outline follows the turn, the back goes the other way
    dip = 0.07 * pose.sin_pitch
    wave = ident.hair_wave[0] * jnp.sin(ident.hair_wave[1] * y + ident.hair_wave[2])
    hx = x + wave + 0.4 * lean
    long = ident.hair_long
    back = jnp.maximum(
        ident.hair_amount * _ellipse(hx, y + 0.05, skull + 0.018, 0.22 + ident.hair_top, px),
        jnp.where(long > 0, _ellipse(hx, y - 0.10 * long, skull + 0.02 + 0.02 * long, 0.16 + 0.16 * long, px), 0),
    )
    ox, oy = _origin(ident)
    rise = jnp.clip((oy + 0.12 - sy) / 0.25, 0, 1)
    middle = 0.5 + (ch[3] - 0.16 * jnp.sin(-ch[2]) + 0.04 * pose.sin_yaw) * rise
    neck = _edge(jnp.abs(sx - middle) - ident.shoulders[3] * (0.92 + 0.25 * (1 - rise) ** 2), 1 / size)
    neck = neck * _edge(oy - 0.16 - sy, 1 / size)
    right = x > 0
    side = jnp.where(right, 1.0, -1.0)
    ear_x = side * (skull + 0.004) * pose.cos_yaw - 0.11 * pose.sin_yaw
    ear = _ellipse(x - ear_x, y - 0.005, 0.026, 0.046, px)
    ring = ident.has_earring * _ellipse(x - ear_x - side * 0.006, y - 0.062, 0.017, 0.019, px)
    face = jnp.maximum(
        _ellipse(x - lean, y + 0.045 - 0.6 * dip, skull, 0.222 * length, px),
        _ellipse(x - 1.5 * lean, y - 0.065 - dip, jaw, 0.195 * length, px),
    )
    chin_cx, chin_cy, _ = pose.place(0.0, 0.20)
    drop = JAW_DROP * opening
    face = jnp.maximum(face, _ellipse(x - 0.7 * chin_cx, y - 0.065 - dip - 0.135 * length - drop, chin, 0.068, px))
    cx, cy, fx = pose.place(0.0, 0.03)
    line, tilt, width = (ident.hairline[k] for k in range(3))
    bottom = 0.30
    inside = _ellipse(
        x - cx * 0.8,
        y - cy - 0.5 * (line + bottom) + tilt * (x - cx) * (y < 0.05),
        skull * width,
        0.5 * (bottom - line),
        px,
    )
    cap = _ellipse(x + wave - 0.4 * lean, y + 0.05, skull + 0.016, 0.23 + ident.hair_top, px)
    ends = _edge(y - 0.02 - 0.20 * long, 0.05)
    return _Head(back, neck, ear, ring, face, ident.hair_amount * cap * (1 - inside) * ends)


def _frame(ident, still, ch, opening, wide, size):
    """One picture as three planes [3, H, W]."""
    sx, sy = _grid(size)
    x, y, shrink = _to_head(ident, ch, sx, sy)
    px = shrink / size
    pose = _pose(ch)
    blink, brow, smile = ch[8], ch[9], ch[10]
    parts = _outline(ident, ch, pose, opening, (sx, sy), (x, y), px, size)
    wall, shirt_cover, shirt = still
    tx = x - 0.22 * pose.sin_yaw
    ty = y - 0.13 * pose.sin_pitch
    texture = 1 + _ripple(tx, ty, ident.skin_waves)
    nx, ny = x / 0.2, y / 0.27
    shade = 1 + ident.light[0] * (nx - 1.5 * pose.sin_yaw) - ident.light[1] * ny - 0.13 * (nx * nx + 0.4 * ny * ny)
    skin = _tint(ident.skin, jnp.clip(shade * texture + 0.06, 0, 1.15))
    strand = jnp.sin(85 * tx + 1.5 * jnp.sin(23 * ty + ident.hair_wave[2]) + 60 * tx * ty)
    streak = 1 + 0.09 * strand - 0.08 * ny * ny + 0.6 * ident.light[0] * nx
    hair = _tint(ident.hair, streak)

    image = _over(wall, parts.hair_back, _tint(hair, 0.72))
    image = _over(image, parts.neck, _tint(ident.skin, 0.80 + 0.35 * jnp.clip(sy - _origin(ident)[1] - 0.03, 0, 0.3)))
    image = _over(image, shirt_cover, shirt)
    image = _over(image, parts.ear * (1 - 0.85 * (ident.hair_long > 0)), _tint(skin, 0.93))
    image = _over(image, parts.face, skin)

    right = x > pose.place(0.0, -0.03)[0]
    side = jnp.where(right, 1.0, -1.0)

    def pair(px_, py_, out=0.0):
        lx, ly, lf = pose.place(-px_, py_, out)
        rx, ry, rf = pose.place(px_, py_, out)
        return (x - jnp.where(right, rx, lx)) / jnp.where(right, rf, lf), y - jnp.where(right, ry, ly)

    # Cheeks, beard shadow and the marks of age: soft edges.
    u, v = pair(0.10, 0.055)
    image = _over(
        image,
        ident.blush * 0.55 * _ellipse(u, v, 0.035, 0.03, 0.06),
        tuple(skin[k] * (1.02, 0.72, 0.70)[k] for k in range(3)),
    )
    cx, cy, _ = pose.place(0.0, 0.16)
    beard = _ellipse(x - cx, y - cy, 0.15, 0.11, 0.05) * ident.beard * parts.face
    image = _over(image, beard, ident.hair)

    # Eyes.
    half, height, ex, ey = (ident.eyes[k] for k in range(4))
    u, v = pair(half, height)
    lid = 1 - 0.97 * blink
    image = _over(image, 0.30 * _ellipse(u, v + 0.002, ex * 1.3, ey * 1.7, 0.03), _tint(skin, 0.72))
    image = _over(image, 0.5 * ident.age * _ellipse(u, v - 0.034, ex, 0.006, 0.014), _tint(skin, 0.7))
    open_y = ey * (1 + 0.22 * jnp.clip(brow, 0, 1) - 0.18 * jnp.clip(smile, 0, 1)) * lid + 0.0008
    down = v - ey * 0.5 * blink
    image = _over(image, 0.9 * _ellipse(u, down + 0.003, ex * 1.1, open_y + 0.005, px), _tint(ident.hair, 0.35))
    white = _ellipse(u, down, ex, open_y, px)
    white = white * jnp.clip(open_y / px - 0.2, 0, 1)
    image = _over(image, white, (0.93, 0.93, 0.92))
    gu, gv = u - 0.015 * ch[6], v - 0.008 * ch[7]
    image = _over(image, white * _ellipse(gu, gv, 0.0185, 0.0185, px), ident.iris)
    image = _over(image, white * _ellipse(gu, gv, 0.0085, 0.0085, px), (0.03, 0.03, 0.03))
    image = _over(image, 0.9 * white * _ellipse(gu + 0.006, gv + 0.007, 0.004, 0.004, px), (1.0, 1.0, 1.0))

    # Brows: lowered ones slope in, raised ones with the corners of the mouth down slope out.
    u, v = pair(half + 0.003, height - 0.052)
    tilt = 0.35 * jnp.clip(-brow, 0, 1) - 0.5 * jnp.clip(-smile, 0, 1) * jnp.clip(brow + 0.3, 0, 1)
    v = v + 0.024 * brow + tilt * side * u + 5.0 * u * u
    image = _over(image, ident.brow[2] * _ellipse(u, v, ident.brow[0], ident.brow[1], px), _tint(ident.hair, 0.8))

    # Nose: a lit ridge, a shadow below the tip, nostrils.
    wing, tip = ident.nose[0], ident.nose[1]
    cx, cy, _ = pose.place(0.0, tip, 0.035)
    bx, by, _ = pose.place(0.0, -0.02, 0.015)
    slope = (y - by) * (cx - bx) / (cy - by)
    image = _over(
        image,
        0.30 * _ellipse(x - bx - slope - 0.012 * jnp.sign(ident.light[0] + 1e-3), y - by - 0.01, 0.011, 0.06, 0.02),
        _tint(skin, 0.72),
    )
    image = _over(image, 0.75 * _ellipse(x - cx, y - cy - 0.008, wing, 0.013, 0.014), _tint(skin, 0.68))
    image = _over(image, 0.8 * _ellipse(x - cx, y - cy + 0.006, wing * 0.75, 0.017, 0.016), _tint(skin, 1.07))
    image = _over(
        image, 0.7 * _ellipse(jnp.abs(x - cx) - wing * 0.5, y - cy - 0.013, 0.006, 0.004, px), _tint(skin, 0.35)
    )

    image = _mouth(image, ident, pose, x, y, px, skin, opening, wide, smile)

    # Glasses stand proud of the face.
    u, v = pair(half, height + 0.004, 0.01)
    rim = _edge(jnp.abs(_distance(u, v, 0.058, 0.046)) - 0.0038, px)
    bridge = _ellipse(x - pose.place(0.0, height, 0.01)[0], y - pose.place(0.0, height)[1], 0.022, 0.0042, px)
    image = _over(image, ident.has_glasses * jnp.maximum(rim, bridge), (0.10, 0.09, 0.10))

    image = _over(image, parts.hair_front, hair)
    image = _over(image, parts.ring * (1 - parts.face), ident.earring)
    return jnp.clip(jnp.stack([jnp.broadcast_to(plane, (size, size)) for plane in image]), 0, 1)


def _mouth(image, ident, pose, x, y, px, skin, opening, wide, smile):
    mouth_w, mouth_y, lip = (ident.mouth[k] for k in range(3))
    cx, cy, fx = pose.place(0.0, mouth_y)
    u = (x - cx) / fx
    half = mouth_w * (1 + 0.17 * wide + 0.07 * smile - 0.06 * opening)
    h = OPENING * opening * (1 - 0.06 * wide)
    bend = 0.022 * smile * (jnp.clip(u / half, -1.3, 1.3) ** 2 - 0.4)
    v = y - cy + bend - 0.30 * h
    reach = half * (0.84 + 0.04 * opening)
    thick = lip * (1 - 0.15 * wide)
    image = _over(image, 0.45 * _ellipse(u, v - h - thick - 0.008, half * 0.6, 0.008, 0.02), _tint(skin, 0.72))
    upper = jnp.maximum(
        _ellipse(u + half * 0.32, v + 0.25 * thick, half * 0.68, h + thick * 0.85, px),
        _ellipse(u - half * 0.32, v + 0.25 * thick, half * 0.68, h + thick * 0.85, px),
    )
    image = _over(image, upper, _tint(ident.lips, 0.90))
    lower = _ellipse(u, v - 0.10 * thick, half * 0.92, h + thick, px) * _edge(-v, 0.01)
    image = _over(image, lower, _tint(ident.lips, 1.05))
    hollow = _ellipse(u, v, reach, h + 0.0035, px)
    show = jnp.clip((opening - 0.12) / 0.25, 0, 1)
    deep = _over(image, hollow, (0.13, 0.025, 0.03))
    tongue = hollow * show * _ellipse(u, v - 0.95 * h, reach * 0.62, 0.45 * h + 1e-3, 2 * px)
    deep = _over(deep, 0.85 * tongue, (0.52, 0.17, 0.18))
    teeth = hollow * show * _ellipse(u, v + h, reach * 0.72, 0.020, px)
    return _over(deep, 0.95 * teeth, (0.90, 0.88, 0.83))


@partial(jax.jit, static_argnames="size")
def _render_chunk(ident, channels, opening, wide, size):
    still = _still_layers(ident, size)
    # A few frames at a time keep all layers in the cache: three times faster than the whole chunk at once.
    tracks = (channels, opening, wide)
    planes = jax.lax.map(lambda track: _frame(ident, still, *track, size), tracks, batch_size=4)
    return jnp.moveaxis(planes, 1, -1)


def in_chunks(*tracks):
    """Cut tracks into (start, count, pieces of `CHUNK` frames), the last piece filled up with its last frame."""
    frames = len(tracks[0])
    for start in range(0, frames, CHUNK):
        rows = np.minimum(np.arange(start, start + CHUNK), frames - 1)
        yield start, min(CHUNK, frames - start), tuple(np.asarray(track, np.float32)[rows] for track in tracks)


def render(identity: Identity, channels: np.ndarray, open: np.ndarray, wide: np.ndarray, size: int = 128) -> np.ndarray:
    """Draw a clip: channels [T, 11], open [T] in 0..1 and wide [T] in -1..1 to float32 [T, size, size, 3] in 0..1."""
    pictures = np.empty((len(channels), size, size, 3), np.float32)

    def draw(chunk):
        start, count, tracks = chunk
        pictures[start : start + count] = np.asarray(_render_chunk(identity, *tracks, size=size))[:count]

    with ThreadPoolExecutor(2) as pool:  # one compiled call keeps one core busy
        list(pool.map(draw, in_chunks(channels, open, wide)))
    return pictures


@partial(jax.jit, static_argnames="size")
def _boxes(ident, channels, size):
    mouth_w, mouth_y, lip = (ident.mouth[k] for k in range(3))

    def one(ch):
        pose = _pose(ch)
        cx, cy, _ = pose.place(0.0, mouth_y)
        chin = 0.20 * ident.face[3] + 0.066 + 0.07 * pose.sin_pitch
        reach = mouth_w * 1.27 + 0.012
        xs = jnp.array([cx - reach, cx + reach])[jnp.array([0, 1, 0, 1])]
        top = cy - OPENING * 0.80 - 1.3 * lip - 0.020
        low = jnp.maximum(cy + 1.40 * OPENING + 1.3 * lip + 0.02, chin + JAW_DROP + 0.012)
        ys = jnp.stack([top, top, low, low])
        sx, sy = _from_head(ident, ch, xs, ys)
        return jnp.stack([sx.min(), sy.min(), sx.max(), sy.max()]) * size

    return jax.vmap(one)(channels)


def mouth_box(identity: Identity, channels: np.ndarray, size: int = 128) -> np.ndarray:
    """Box that holds mouth and chin at any opening: channels [T, 11] to float32 [T, 4] x0, y0, x1, y1 in pixels."""
    boxes = np.asarray(_boxes(identity, np.asarray(channels, np.float32), size))
    return np.clip(boxes + np.array([-1, -1, 1, 1]), 0, size).astype(np.float32)


@partial(jax.jit, static_argnames="size")
def _touched(ident, channels, size):
    _, shirt_cover, _ = _still_layers(ident, size)
    sx, sy = _grid(size)

    def one(ch):
        x, y, shrink = _to_head(ident, ch, sx, sy)
        parts = _outline(ident, ch, _pose(ch), 1.0, (sx, sy), (x, y), shrink / size, size)
        behind = jnp.maximum(parts.hair_back, parts.neck) * (1 - shirt_cover)
        return jnp.max(jnp.stack([behind, parts.ear, parts.ring, parts.face, parts.hair_front]), axis=0)

    return jax.vmap(one)(channels).max(axis=0)


def stable_mask(identity: Identity, channels: np.ndarray, size: int = 128) -> np.ndarray:
    """Pixels of wall and shirt that no moving part touches in the clip: channels [T, 11] to bool [size, size]."""
    touched = np.zeros((size, size), bool)
    for _, _, (piece,) in in_chunks(channels):
        touched |= np.asarray(_touched(identity, piece, size=size)) > 1e-4
    return ~touched
