"""Which wav2vec2 rows a latent frame hears in MultiTalk, InfiniteTalk and LiveAct, and in OmniAvatar and AvatarForcing.

Latent frame f shows pixel frames 4f-3 .. 4f; latent frame 0 shows pixel frame 0 alone. Row p belongs to pixel frame p.

Shapes: L layers, B batch, T rows at one per pixel frame, C channels, F latent frames.
"""

import jax.numpy as jnp
import numpy as np

from knotjax.drive import STRIDE, latent_rows

REACH = 2  # pixel frames that MultiTalk's window of 5 reaches to either side


def multitalk_rows(states):
    """Hidden states to MultiTalk's rows, what leaves every layer: [L + 1, B, T, C] -> [B, T, L, C]."""
    return jnp.moveaxis(states[1:], 0, 2)


def multitalk_first(rows):
    """The window of latent frame 0: pixel frames -2 .. 2, the clip's ends repeated: [B, T, L, C] -> [B, 5, L, C]."""
    return rows[:, np.clip(np.arange(-REACH, REACH + 1), 0, rows.shape[1] - 1)]


def multitalk_at(rows, start: int, count: int):
    """The windows of latent frames start .. start + count - 1, the clip's ends repeated.

    Each of the four pixel frames has a window of 5. Of these MultiTalk keeps the first 3 rows of the first, the centre
    of the middle two, and the last 3 of the last: the 8 rows in a row around the latent frame.

    Args:
      rows: [B, T, L, C] from `multitalk_rows`.
      start: first latent frame, 1 or later (see `multitalk_first` for 0).
      count: latent frames.

    Returns:
      [B, F, 8, L, C].

    Raises:
      ValueError: `start` is below 1.
    """
    if start < 1:
        raise ValueError(f"start {start}: latent frame 0 has a window of its own")
    at = latent_rows(start, count, before=REACH, after=REACH)
    return rows[:, np.clip(at, 0, rows.shape[1] - 1)]


def omniavatar_rows(states):
    """Hidden states to OmniAvatar's rows, the last state before all of them: [L + 1, B, T, C] -> [B, T, (L + 2) C]."""
    rows = jnp.moveaxis(jnp.concatenate([states[-1:], states]), 0, 2)  # [B, T, L + 2, C]
    return rows.reshape(*rows.shape[:2], -1)


def omniavatar_at(rows, start: int, count: int):
    """The groups of four rows of latent frames start .. start + count - 1.

    One frame of zeros stands before the sound, so pixel frame p hears row p - 1; latent frame 0 hears the zeros, four
    times.

    Args:
      rows: [B, T, C] from `omniavatar_rows`.
      start: first latent frame, 0 or later.
      count: latent frames.

    Returns:
      [B, F, 4 C].

    Raises:
      ValueError: `start` is below 0, or the rows end before the last latent frame.
    """
    needed = STRIDE * (start + count - 1)
    if start < 0 or needed > rows.shape[1]:
        raise ValueError(f"latent frames {start} .. {start + count - 1}: need {needed} rows, given {rows.shape[1]}")
    prefixed = jnp.concatenate([jnp.zeros_like(rows[:, :1]), rows], 1)
    groups = prefixed[:, np.maximum(latent_rows(start, count), 0)]  # [B, F, 4, C]
    return groups.reshape(*groups.shape[:2], -1)
