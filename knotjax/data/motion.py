"""Head and face motion of a procedural portrait: pose, gaze, blinks, brows and smile over time."""

from typing import NamedTuple

import numpy as np

from knotjax import drive

# Where brow and smile rest for each emotion.
EXPRESSION = {
    "neutral": (0.0, 0.0),
    "happy": (0.2, 0.8),
    "sad": (0.35, -0.75),
    "angry": (-0.85, -0.35),
    "surprised": (0.9, 0.1),
}
POSE_SD = {"yaw": 0.10, "pitch": 0.06, "roll": 0.04, "tx": 0.008, "ty": 0.008, "scale": 0.01}
POSE_LIMIT = {"yaw": 0.45, "pitch": 0.30, "roll": 0.12, "tx": 0.024, "ty": 0.024, "scale": 0.03}
BLINK_SHAPE = np.array([0.35, 0.9, 1.0, 0.65, 0.2], np.float32)
STILL_GAIN = 0.3  # how much of the pose motion is left when the action is "still"


class Motion(NamedTuple):
    """Drive of one clip: `channels` float32 [T, 11] in `drive.CHANNELS` order, `words` int32 [2]."""

    channels: np.ndarray
    words: np.ndarray


def sample_motion(rng: np.random.Generator, frames: int, emotion: str | None, action: str | None) -> Motion:
    """Draw natural motion for `frames` frames at 25 fps, beginning near the resting pose.

    Args:
      rng: source of all randomness.
      frames: number of pixel frames, T.
      emotion: one of `drive.EMOTIONS` or None (rests like "neutral"); sets where brow and smile rest.
      action: one of `drive.ACTIONS` or None; "nod" and "shake" add bouts of a swing, "still" calms the pose.

    Returns:
      The channels (radians, picture sizes, or unit ranges: see `drive.CHANNELS`) and the two word numbers.

    Raises:
      ValueError: a word is not in the closed list.
    """
    words = drive.word_ids(emotion, action)
    columns = {}
    calm = STILL_GAIN if action == "still" else 1.0
    for name, sd in POSE_SD.items():
        columns[name] = np.clip(_wander(rng, frames, sd), -2.6 * sd, 2.6 * sd) * calm
    if action == "nod":
        columns["pitch"] = 0.6 * columns["pitch"] + _swing(rng, frames)
    elif action == "shake":
        columns["yaw"] = 0.6 * columns["yaw"] + _swing(rng, frames)
    columns = {name: np.clip(track, -POSE_LIMIT[name], POSE_LIMIT[name]) for name, track in columns.items()}
    columns["gaze_x"] = _saccades(rng, frames, 0.45, 0.9)
    columns["gaze_y"] = _saccades(rng, frames, 0.25, 0.7)
    columns["blink"] = _blinks(rng, frames)
    brow, smile = EXPRESSION[emotion or "neutral"]
    columns["brow"] = np.clip(brow + _wander(rng, frames, 0.10), -1, 1)
    columns["smile"] = np.clip(smile + _wander(rng, frames, 0.08), -1, 1)
    return Motion(np.stack([columns[name] for name in drive.CHANNELS], axis=1).astype(np.float32), words)


def _smooth(track: np.ndarray, taps: int, times: int = 1) -> np.ndarray:
    kernel = np.full(taps, 1 / taps)
    for _ in range(times):
        track = np.convolve(np.pad(track, taps // 2, mode="edge"), kernel, mode="valid")
    return track


def _wander(rng: np.random.Generator, frames: int, sd: float) -> np.ndarray:
    """Ornstein-Uhlenbeck path with stationary deviation `sd`, smoothed twice over 5 frames, starting near 0."""
    keep = np.exp(-1 / (drive.FPS * rng.uniform(2.0, 4.0)))
    noise = rng.normal(0, sd * np.sqrt(1 - keep**2), frames)
    path = np.empty(frames)
    value = rng.normal(0, 0.15 * sd)
    for frame in range(frames):
        path[frame] = value
        value = keep * value + noise[frame]
    return _smooth(path, 5, 2) if frames else path


def _swing(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Bouts of a sine swing at 0.4-0.8 Hz, with raised-cosine ends and pauses between them."""
    path = np.zeros(frames)
    start = int(rng.uniform(0.2, 0.8) * drive.FPS)
    while start < frames:
        length = int(rng.uniform(2.5, 4.5) * drive.FPS)
        time = np.arange(length) / drive.FPS
        ramp = np.clip(np.minimum(time, time[-1] - time) / 0.5, 0, 1)
        bout = rng.uniform(0.10, 0.15) * (0.5 - 0.5 * np.cos(np.pi * ramp))
        bout *= rng.choice((-1, 1)) * np.sin(2 * np.pi * rng.uniform(0.4, 0.8) * time)
        shown = min(length, frames - start)
        path[start : start + shown] = bout[:shown]
        start += length + int(rng.uniform(0.6, 1.8) * drive.FPS)
    return path


def _saccades(rng: np.random.Generator, frames: int, sd: float, limit: float) -> np.ndarray:
    """Fixations of 0.8-2.5 s joined by quick moves; the first one looks straight ahead."""
    path = np.zeros(frames)
    start = int(rng.uniform(0.8, 2.5) * drive.FPS)
    while start < frames:
        path[start:] = np.clip(rng.normal(0, sd), -limit, limit)
        start += int(rng.uniform(0.8, 2.5) * drive.FPS)
    return _smooth(path, 3) if frames else path


def _blinks(rng: np.random.Generator, frames: int) -> np.ndarray:
    path = np.zeros(frames, np.float32)
    start = int(rng.integers(10, 100))
    while start < frames:
        shown = min(len(BLINK_SHAPE), frames - start)
        path[start : start + shown] = BLINK_SHAPE[:shown]
        start += len(BLINK_SHAPE) + int(rng.integers(40, 141))
    return path
