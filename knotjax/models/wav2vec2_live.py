"""wav2vec2 features of a live stream: a window of rows from the sound around it, without the rest of the clip.

How near they come to the features of the whole clip (see `live_states`), given the same normalisation of the wave:
- Convolution features of the layer-normalised layout are exact: each looks at 25 ms only. Those of the group-normalised
  layout never are: their first normalisation runs over whatever sound there is.
- The positional convolution reaches 64 rows to either side: 1.28 s at 50 rows per second, 2.56 s at 25. With that much
  context (or the clip's own end) what enters the first layer is exact in the layer-normalised layout.
- Attention sees all rows, so what leaves a layer is never exact; context makes it better, and no amount makes it equal.
- The wave's own normalisation belongs to the whole clip. A live stream only has what it has heard so far.
"""

from functools import partial

import jax
import jax.numpy as jnp

from knotjax.drive import SAMPLE_RATE
from knotjax.models.wav2vec2 import Wav2Vec2


def normalize(wave, heard=None):
    """Zero mean and unit variance, as the published models expect.

    Args:
      wave: float [..., n].
      heard: float [..., m], the sound whose mean and variance are taken; None: `wave` itself, a whole clip. A stream
        passes what it has heard so far (or a fixed piece of it, so that no row changes scale later).

    Returns:
      float [..., n].
    """
    heard = wave if heard is None else heard
    mean = jnp.mean(heard, -1, keepdims=True)
    return (wave - mean) * jax.lax.rsqrt(jnp.var(heard, -1, keepdims=True) + 1e-7)


@partial(jax.jit, static_argnums=(0, 3))
def _states(model, params, wave, frames):
    return model.apply({"params": params}, wave, frames)


def live_states(model: Wav2Vec2, params, wave, start: int, count: int, *, left: float, right: float, fps: int = 50):
    """Hidden states of rows start .. start + count - 1 of a stream, computed from the sound around them.

    The window is cut where the sound begins and where it ends, so the first windows of a stream are shorter; all later
    ones have one shape and share one compiled program. Rows lie where `Wav2Vec2` puts them for a clip of whole frames
    (for example 640 samples a frame at 25 fps).

    Args:
      model: the encoder.
      params: its parameters.
      wave: float [n], the sound heard so far, normalised (see `normalize`). An endless stream passes the last seconds
        of it, cut where a row begins.
      start, count: rows at `fps`, counted from the first sample of `wave`.
      left: context before the window, in seconds; 2 or more is advisable.
      right: context after the window, in seconds: the latency that it costs. What has not been heard yet is left out.
      fps: rows per second: 50, or a rate that divides 50, to which features are interpolated before the transformer.

    Returns:
      [L + 1, count, C].

    Raises:
      ValueError: `fps` does not divide the encoder's own rate, or the window's own sound has not been heard yet.
    """
    c = model.config
    rate = SAMPLE_RATE // c.hop
    if fps <= 0 or rate % fps:
        raise ValueError(f"fps {fps}: must divide {rate}, the encoder's rows per second")
    step = rate // fps  # convolution frames per row
    heard = -(-c.conv_frames(len(wave)) // step)  # rows whose sound is there
    if start < 0 or count < 1 or start + count > heard:
        raise ValueError(f"rows {start} .. {start + count - 1}: sound is there for rows 0 .. {heard - 1}")
    first = max(0, start - round(left * fps))
    rows = min(heard, start + count + round(right * fps)) - first
    begin = first * step * c.hop
    piece = wave[begin : begin + (rows - 1) * step * c.hop + c.reach]
    states = _states(model, params, piece[None], None if step == 1 else rows)
    return states[:, 0, start - first : start - first + count]
