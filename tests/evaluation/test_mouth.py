"""The mouth probe on a drawn face whose opening, place and distractors are known."""

import numpy as np
import pytest

SIZE = 128
BOX = np.array([44, 78, 84, 104], np.float32)  # holds the mouth of the resting face at any opening


def face(opening, dx=0.0, dy=0.0, roll=0.0, scale=1.0, skin=(205, 160, 135), beard=False):
    """One picture uint8 [128, 128, 3]: hair, shirt, eyes and nostrils are as dark as the mouth's cavity."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    u, v = (x - 64 - dx) / scale, (y - 64 - dy) / scale
    u, v = u * np.cos(roll) + v * np.sin(roll), v * np.cos(roll) - u * np.sin(roll)
    picture = np.empty((SIZE, SIZE, 3))
    picture[:] = (90, 120, 150)

    def ellipse(cx, cy, rx, ry, colour):
        k0 = np.hypot((u - cx) / rx, (v - cy) / ry)
        k1 = np.hypot((u - cx) / rx**2, (v - cy) / ry**2) + 1e-9
        cover = np.clip(0.5 - scale * k0 * (k0 - 1) / k1, 0, 1)[..., None]
        picture[:] = picture * (1 - cover) + cover * np.array(colour)

    ellipse(0, 75, 60, 28, (30, 32, 45))  # shirt
    ellipse(0, -14, 43, 48, (40, 28, 22))  # hair
    ellipse(0, 4, 34, 46, skin)
    if beard:
        ellipse(0, 40, 24, 14, np.multiply(skin, (0.55, 0.5, 0.5)))
    for side in (-1, 1):
        ellipse(side * 13, -8, 7, 4, (240, 240, 240))
        ellipse(side * 13, -8, 3, 3, (35, 25, 20))
        ellipse(side * 3, 13, 1.5, 1, (60, 30, 30))
    ellipse(0, 27, 13, 3 + 6 * opening, (175, 85, 85))  # lips
    ellipse(0, 27, 10, 0.3 + 5.5 * opening, (55, 15, 20))  # cavity
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
