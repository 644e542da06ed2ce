"""Finding the face in a picture, where scikit-image is installed; it ships the cascade, nothing is downloaded."""

import numpy as np
from PIL import Image

SEARCHED = 256  # pixels of the longer side in which faces are searched
SMALLEST = 0.12  # side of the smallest face, relative to the shorter side of the picture


def find_face(picture: np.ndarray) -> tuple[float, float, float, float] | None:
    """The largest frontal face of uint8 [H, W, 3], as left, top, width and height in pixels; None without one."""
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError:
        return None
    height, width = picture.shape[:2]
    scale = max(1.0, max(height, width) / SEARCHED)
    small = Image.fromarray(picture).resize((max(1, round(width / scale)), max(1, round(height / scale))))
    side = min(small.size)
    smallest = max(24, round(SMALLEST * side))  # the cascade's own window is 24 pixels
    if side < smallest:
        return None
    found = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale(
        np.asarray(small), scale_factor=1.1, step_ratio=1, min_size=(smallest, smallest), max_size=(side, side)
    )
    if not found:
        return None
    face = max(found, key=lambda box: box["width"] * box["height"])
    return tuple(float(face[name]) * scale for name in ("c", "r", "width", "height"))
