"""Scores of one-dimensional tracks (mouth opening over time) and the bootstrap interval of any score.

A track is one clip's array [T] or a list of such arrays, which are pooled: joined end to end without first being
centred or scaled, so a clip with a wrong level or a wrong amplitude costs what it should.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Track = np.ndarray | Sequence[np.ndarray]
_STILL = 1e-6  # a track whose standard deviation is below this does not move


class Interval(NamedTuple):
    """A score with the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


def _pool(track: Track, truth: Track) -> tuple[np.ndarray, np.ndarray]:
    joined = []
    for value in (track, truth):
        parts = [value] if isinstance(value, np.ndarray) else list(value)
        joined.append(np.concatenate([np.asarray(part, np.float64).ravel() for part in parts]))
    if joined[0].shape != joined[1].shape:
        raise ValueError(f"tracks of {len(joined[0])} and {len(joined[1])} frames: cut both to the same frames")
    return joined[0], joined[1]


def correlation(track: Track, truth: Track) -> float:
    """Pearson's r between a measured track [T] and the true one [T], pooled over clips; 0 when either does not move.

    Raises:
      ValueError: the tracks differ in length.
    """
    a, b = _pool(track, truth)
    a, b = a - a.mean(), b - b.mean()
    if a.std() < _STILL or b.std() < _STILL:
        return 0.0
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def gain(track: Track, truth: Track) -> float:
    """Least-squares slope of a measured track [T] over the true one [T]: 1 full articulation, 0.5 half of it.

    Returns nan when the true track does not move.

    Raises:
      ValueError: the tracks differ in length.
    """
    a, b = _pool(track, truth)
    b = b - b.mean()
    return float(a @ b / (b @ b)) if b.std() >= _STILL else float("nan")


def best_lag(track: np.ndarray, truth: np.ndarray, max_lag: int = 12) -> int | None:
    """The delay in frames at which a track [T] fits the truth [T] best: positive when the track comes late.

    Each lag is judged by Pearson's r over the frames that both tracks have; of equal lags the smallest wins. Returns
    None when either track does not move, because a frozen mouth has no delay.

    Raises:
      ValueError: the tracks differ in length, or are too short to be shifted by `max_lag`.
    """
    a, b = _pool(np.asarray(track), np.asarray(truth))
    if len(a) < 2 * max_lag + 2:
        raise ValueError(f"{len(a)} frames are too few for lags up to {max_lag}: give at least {2 * max_lag + 2}")
    if a.std() < _STILL or b.std() < _STILL:
        return None
    best, best_r = None, -np.inf
    for lag in sorted(range(-max_lag, max_lag + 1), key=abs):
        late, early = (a[lag:], b[: len(b) - lag]) if lag >= 0 else (a[:lag], b[-lag:])
        r = correlation(late, early)
        if r > best_r + 1e-9:
            best, best_r = lag, r
    return best


def silence_opening(track: Track, silent: Track) -> float:
    """Mean opening of a track [T] over the frames where `silent` (bool [T]) holds; nan when none is silent.

    Raises:
      ValueError: the tracks differ in length.
    """
    a, quiet = _pool(track, silent)
    return float(a[quiet > 0].mean()) if (quiet > 0).any() else float("nan")


def bootstrap_ci(
    items: Sequence,
    statistic: Callable[[list], float] | None = None,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A score over clips with its percentile bootstrap interval, clips being drawn with replacement.

    Args:
      items: one entry per clip: numbers, or whatever `statistic` takes a list of, such as (track, truth) pairs.
      statistic: maps a list of entries to the score; their mean when left out.
      samples: number of bootstrap draws.
      level: probability that the interval covers.
      seed: of the draws, so a table can be made again.

    Returns the score of all items with the interval's ends. Draws whose score is not finite (for example a draw without
    a silent frame) are left out; both ends are nan when none is left.

    Raises:
      ValueError: there are no items.
    """
    if len(items) == 0:
        raise ValueError("no clips to draw from: give at least one")
    draws = np.random.default_rng(seed).integers(len(items), size=(samples, len(items)))
    if statistic is None:
        values = np.asarray(items, np.float64)
        score, scores = float(values.mean()), values[draws].mean(1)
    else:
        score = float(statistic(list(items)))
        scores = np.array([statistic([items[i] for i in draw]) for draw in draws], np.float64)
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return Interval(score, float("nan"), float("nan"))
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(score, float(low), float(high))
