"""The look of procedural people, drawn from seeds."""

from typing import NamedTuple

import numpy as np


class Identity(NamedTuple):
    """Look of one procedural person; every field is a float32 array, colours are RGB in 0..1."""

    skin: np.ndarray  # [3]
    hair: np.ndarray  # [3]
    iris: np.ndarray  # [3]
    lips: np.ndarray  # [3]
    shirt: np.ndarray  # [3]
    background: np.ndarray  # [2, 3] top and bottom
    earring: np.ndarray  # [3]
    has_earring: np.ndarray
    has_glasses: np.ndarray
    hair_amount: np.ndarray  # 0 bald .. 1
    hair_long: np.ndarray  # 0 short .. 1 to the shoulders
    hair_top: np.ndarray  # thickness above the skull
    hair_wave: np.ndarray  # amplitude, frequency, phase
    hairline: np.ndarray  # height, tilt, width of the opening for the face
    face: np.ndarray  # half width of the skull, of the jaw, of the chin; length factor
    eyes: np.ndarray  # half distance, height, half width, half height
    brow: np.ndarray  # half width, half thickness, darkness
    nose: np.ndarray  # half width, height of the tip
    mouth: np.ndarray  # half width, height, lip thickness
    beard: np.ndarray
    blush: np.ndarray
    age: np.ndarray
    light: np.ndarray  # sideways, from above
    shoulders: np.ndarray  # height, half width, depth of the neckline, half width of the neck
    skin_waves: np.ndarray  # [5, 4] frequency x, frequency y, phase, amplitude
    wall_waves: np.ndarray  # [4, 4]


def sample_identity(seed: int) -> Identity:
    """Draw a person from a seed; the same seed always gives the same person."""
    rng = np.random.default_rng([seed, 0x1D])
    uniform = rng.uniform
    tone = uniform(0, 1)
    stops = np.array(
        [[0.98, 0.85, 0.76], [0.93, 0.74, 0.60], [0.78, 0.56, 0.41], [0.56, 0.37, 0.26], [0.40, 0.26, 0.18]]
    )
    skin = np.array([np.interp(tone * 4, np.arange(5), stops[:, k]) for k in range(3)]) + rng.normal(0, 0.015, 3)
    hairs = [[0.08, 0.06, 0.05], [0.22, 0.13, 0.08], [0.42, 0.26, 0.13], [0.78, 0.60, 0.32], [0.60, 0.25, 0.10]]
    hairs += [[0.62, 0.61, 0.60], [0.85, 0.84, 0.82], [0.30, 0.28, 0.27]]
    irises = [[0.30, 0.18, 0.09], [0.22, 0.40, 0.62], [0.28, 0.46, 0.26], [0.45, 0.34, 0.14], [0.38, 0.45, 0.50]]
    hair = np.array(hairs[rng.integers(len(hairs))]) * uniform(0.8, 1.15)
    iris = np.array(irises[rng.integers(len(irises))]) * uniform(0.85, 1.2)
    lips = skin * np.array([0.90, 0.62, 0.62]) + np.array([uniform(-0.03, 0.06), 0.0, uniform(-0.02, 0.03)])
    shirt = _saturated(rng, 0.1, 0.8, 0.2, 0.9)
    wall = _saturated(rng, 0.05, 0.45, 0.35, 0.92)
    earring = np.array(
        [[0.95, 0.80, 0.25], [0.90, 0.92, 0.95], [0.85, 0.12, 0.20], [0.12, 0.65, 0.45], [0.2, 0.35, 0.9]]
    )
    long = float(rng.random() < 0.4)
    male = 1 - long
    fields = Identity(
        skin=skin,
        hair=hair,
        iris=iris,
        lips=lips,
        shirt=shirt,
        background=np.stack([wall * uniform(0.85, 1.1), wall * uniform(0.6, 1.0)]),
        earring=earring[rng.integers(len(earring))],
        has_earring=float(rng.random() < 0.45),
        has_glasses=float(rng.random() < 0.18),
        hair_amount=float(long or rng.random() > 0.14),
        hair_long=long * uniform(0.5, 1.0),
        hair_top=uniform(0.012, 0.05),
        hair_wave=np.array([uniform(0.0, 0.008), uniform(25, 60), uniform(0, 6.28)]),
        hairline=np.array([uniform(-0.20, -0.135), uniform(-0.2, 0.2), uniform(0.88, 0.99)]),
        face=np.array([uniform(0.185, 0.21), uniform(0.155, 0.185), uniform(0.075, 0.088), uniform(0.95, 1.04)]),
        eyes=np.array([uniform(0.070, 0.082), uniform(-0.050, -0.030), uniform(0.034, 0.041), uniform(0.016, 0.022)]),
        brow=np.array([uniform(0.036, 0.046), uniform(0.005, 0.0115), uniform(0.6, 0.95)]),
        nose=np.array([uniform(0.022, 0.033), uniform(0.022, 0.036)]),
        mouth=np.array([uniform(0.084, 0.096), uniform(0.122, 0.132), uniform(0.013, 0.020)]),
        beard=male * float(rng.random() < 0.4) * uniform(0.15, 0.6),
        blush=uniform(0.0, 0.35),
        age=uniform(0, 1) ** 2,
        light=np.array([uniform(-0.14, 0.14), uniform(0.02, 0.10)]),
        shoulders=np.array([uniform(0.81, 0.86), uniform(0.36, 0.46), uniform(0.02, 0.09), uniform(0.085, 0.115)]),
        skin_waves=_waves(rng, 5, 12, 60, 0.012),
        wall_waves=_waves(rng, 4, 4, 40, 0.018),
    )
    return Identity(*(np.clip(np.asarray(v, np.float32), -100, 100) for v in fields))


def _waves(rng: np.random.Generator, count: int, low: float, high: float, amplitude: float) -> np.ndarray:
    """Sine waves of a smooth texture, [count, 4]: frequency x and y in radians per picture width, phase, amplitude."""
    across = rng.choice((-1, 1), count) * rng.uniform(low, high, count)
    down, phase = rng.uniform(low, high, count), rng.uniform(0, 2 * np.pi, count)
    return np.stack([across, down, phase, rng.normal(0, amplitude, count)], axis=1)


def _saturated(rng: np.random.Generator, s_low: float, s_high: float, v_low: float, v_high: float) -> np.ndarray:
    hue, sat, val = rng.uniform(0, 6), rng.uniform(s_low, s_high), rng.uniform(v_low, v_high)
    ramp = np.clip(np.abs((hue - np.array([0, 2, 4]) + 3) % 6 - 3) - 1, 0, 1)
    return val * (1 - sat * ramp)
