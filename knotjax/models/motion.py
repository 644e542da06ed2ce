"""Motion features: pose, gaze, blink and expression of each pixel frame, with a presence flag for each group.

The papers leave the module that such signals enter by open. Ours is the simplest that an ablation can judge: the
channels of a latent frame become a few tokens beside its sound (`conditioning.FrameTokens`), which the frame looks at
in a cross-attention after those of the words and the sound, in the first of every `DiTConfig.motion_every` blocks (with
`motion_tokens` 0 in none). The strength of motion is no channel of its own but a factor of the given channels
(`edits.Edit.strength`), so that 0 is the resting pose and needs no training; emotions and actions are words.
"""

import numpy as np

from knotjax.drive import CHANNELS, GROUPS, STRIDE, latent_rows

WIDTH = len(CHANNELS) + len(GROUPS)  # features per pixel frame
SPREAD = (0.10, 0.06, 0.04, 0.01, 0.01, 0.01, 0.5, 0.5, 0.5, 0.5, 0.5)  # typical size of each channel, in its own unit


def motion_windows(channels, present, start: int, count: int) -> np.ndarray:
    """Windows of latent frames start .. start+count-1; outside the clip its first or last frame is repeated.

    Args:
      channels: float32 [T, C] in the order of `CHANNELS`, T >= 1.
      present: bool [G] in the order of `GROUPS`; the channels of an absent group read zero.

    Returns:
      float32 [count, STRIDE, WIDTH].
    """
    flags = np.asarray(present, np.float32)
    shown = np.concatenate([np.full(g.stop - g.start, flag, np.float32) for g, flag in zip(GROUPS.values(), flags)])
    at = np.clip(latent_rows(start, count), 0, len(channels) - 1)
    values = np.asarray(channels, np.float32)[at] / np.float32(SPREAD) * shown
    return np.concatenate([values, np.broadcast_to(flags, (*at.shape, len(flags)))], -1)


NOTHING = np.zeros((1, len(CHANNELS)), np.float32), np.zeros(len(GROUPS), bool)  # arguments of an undriven stream
WINDOW_FRAMES = STRIDE
