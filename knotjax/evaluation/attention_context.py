"""What every emitted latent frame looked at, how much that changes from one to the next, and which frames mattered.

Knot Forcing (arXiv 2512.21734) shows both, in Fig. 3 (IoU of the attention contexts of neighbouring frames) and Fig. 5
(contribution of each context frame), and gives the measures in words only. The definitions here are reconstructed.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from knotjax.streaming.plan import StreamPlan

REFERENCE = -1  # stands for the reference among key frames, wherever its position is


def block_context(plan: StreamPlan, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Latent frames that one step denoises together, and the frames that each of them sees (compressed ones left out).

    Returns:
      int [F] numbers of the denoised frames, and int [K] of the keys in rising order: the reference, the past, and the
      denoised frames.
    """
    first, anchor = plan.first_frame(block), plan.anchor
    denoised = np.arange(first, first + plan.span)
    denoised = denoised[denoised >= 0]
    held = {"reference": [REFERENCE], "none": []}.get(anchor.source, range(plan.sink if first > 0 else 0))
    past = np.arange(max(first - plan.history, plan.sink), max(first, plan.sink))
    return denoised, np.concatenate([np.asarray(held, int), past, denoised])


def visible(plan: StreamPlan, blocks: int) -> list[tuple[int, np.ndarray]]:
    """Every denoised frame with its context, over the first blocks of a stream.

    A knot frame stands in the list twice, once for each block that denoises it. The knot of the last block is left out,
    because the block that emits it is not there.

    Returns:
      Pairs of a frame number and its key frames, int [K], block by block.
    """
    rows = []
    for block in range(blocks):
        denoised, keys = block_context(plan, block)
        rows += [(int(frame), keys) for frame in denoised if frame < plan.first_frame(blocks)]
    return rows


def emitted_context(rows: Iterable[tuple[int, np.ndarray]]) -> list[np.ndarray]:
    """The context of every emitted frame, in the order of frames.

    A knot frame is the average of what two blocks predict, so it has seen what either of them sees: the union.
    (`dict(rows)` instead keeps the block that emits the frame, and with it the bare attention mask.)
    """
    seen: dict[int, np.ndarray] = {}
    for frame, keys in rows:
        seen[frame] = np.union1d(seen.get(frame, keys), keys)
    return [seen[frame] for frame in sorted(seen)]


def context_iou(sets: Iterable[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Intersection over union of the contexts of neighbouring frames (Fig. 3, reconstructed).

    Args:
      sets: key frames of T frames in order, `REFERENCE` among them. Frames count, not tokens.

    Returns:
      float64 [T - 1]; 1 where a frame sees what the frame before it saw.

    Raises:
      ValueError: there are fewer than two sets, or one is empty.
    """
    sets = [np.unique(np.asarray(keys, np.int64)) for keys in sets]
    names = np.unique(np.concatenate(sets)) if sets else np.zeros(0, np.int64)
    return weighted_iou(np.stack([np.isin(names, keys) for keys in sets]) if sets else np.zeros((0, 0)))


def weighted_iou(weights: np.ndarray) -> np.ndarray:
    """`context_iou` of contexts with weights: the sum of the smaller over the sum of the larger weights.

    Args:
      weights: [T, K], at least 0: how much each of T frames attends to each of K key frames.

    Returns:
      float64 [T - 1].

    Raises:
      ValueError: there are fewer than two rows, a weight is negative or not a number, or a row is all zero.
    """
    weights = np.asarray(weights, np.float64)
    if len(weights) < 2:
        raise ValueError(f"{len(weights)} contexts have no neighbours: give at least 2")
    if not np.all(weights >= 0) or not np.all(weights.any(1)):
        raise ValueError("a context is empty or has a negative weight: give every frame something to look at")
    before, after = weights[:-1], weights[1:]
    return np.minimum(before, after).sum(1) / np.maximum(before, after).sum(1)


def contribution(weights: np.ndarray, values: np.ndarray, key_frames: np.ndarray) -> dict[int, float]:
    """How much the attention output of one frame changes without each of its key frames (Fig. 5).

    The paper's score is the L2 norm of the change over the L2 norm of the output. Reconstructed: a frame is taken away
    by leaving its keys out of the softmax, so the other weights grow to sum to 1; both norms run over all queries and
    heads. A query without weight on any other frame has output 0 then.

    Args:
      weights: [..., Q, K], softmax weights of the queries of one frame; rows sum to 1. `...` may be heads.
      values: [..., K, D].
      key_frames: int [K], the frame of each key, such as its number minus that of the query's frame.

    Returns:
      Scores by key frame, in rising order.

    Raises:
      ValueError: the shapes do not belong together, or the output is zero.
    """
    weights, values, key_frames = (
        np.asarray(weights, np.float64),
        np.asarray(values, np.float64),
        np.asarray(key_frames),
    )
    if key_frames.shape != weights.shape[-1:] or values.shape[:-1] != (*weights.shape[:-2], weights.shape[-1]):
        shapes = [list(array.shape) for array in (weights, values, key_frames)]
        raise ValueError(f"weights, values, key_frames are {shapes}: give [..., Q, K], [..., K, D] and [K]")
    output = weights @ values
    size = np.linalg.norm(output)
    if not size:
        raise ValueError("the attention output is zero: nothing contributes to it")
    scores = {}
    for frame in np.unique(key_frames):
        kept = weights * (key_frames != frame)
        mass = kept.sum(-1, keepdims=True)
        kept = np.divide(kept, mass, out=np.zeros_like(kept), where=mass > 0)
        scores[int(frame)] = float(np.linalg.norm(kept @ values - output) / size)
    return scores


def _rows(count: int, height: float, **how):
    """A figure with a row of axes for each of `count` methods; `height` of a row in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((9, 0.8 + height * count), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(count, squeeze=False, **how)[:, 0]


def plot_context_iou(path: str | Path, series: Mapping[str, np.ndarray]) -> None:
    """Draw the IoU of every latent frame's context with that of the frame before into a picture file (Fig. 3).

    Needs matplotlib (extra `evaluate`). The kind of file follows the ending of `path` (.png, .svg, .pdf).

    Args:
      series: method to `context_iou`, [T - 1], a row each, with its mean; the first value stands at latent frame 1.

    Raises:
      ValueError: there is no series, or one is empty.
    """
    if not series or not all(len(values) for values in series.values()):
        raise ValueError("a method without values: give every method the contexts of at least 2 frames")
    figure, rows = _rows(len(series), 0.55, sharex=True)
    for axes, (name, values) in zip(rows, series.items()):
        frames = np.arange(1, len(values) + 1)
        axes.fill_between(frames, values, step="mid", alpha=0.3)
        axes.step(frames, values, where="mid", linewidth=1.0)
        axes.set(ylim=(0, 1.08), yticks=(0, 1), xlim=(0.5, max(len(v) for v in series.values()) + 0.5))
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        note = f"mean {np.mean(values):.2f}\nleast {np.min(values):.2f}"
        axes.text(1.005, 0.5, note, transform=axes.transAxes, va="center", size=8)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("latent frame")
    rows[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle("IoU of a frame's attention context with that of the frame before")
    figure.savefig(path, dpi=120)


def plot_contributions(path: str | Path, series: Mapping[str, Mapping[str, float]]) -> None:
    """Draw how much every frame in view contributes to a frame's attention into a picture file (Fig. 5).

    Args:
      series: method to scores by the name of each frame, a row of bars each.

    Raises:
      ValueError: there is no series, or one is empty.
    """
    if not series or not all(series.values()):
        raise ValueError("a method without values: give every method at least one frame")
    figure, rows = _rows(len(series), 1.5)
    for axes, (name, scores) in zip(rows, series.items()):
        axes.bar(range(len(scores)), list(scores.values()), width=0.7)
        axes.set_xticks(range(len(scores)), list(scores), size=8)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("change of a frame's attention output without each of the frames in view")
    figure.savefig(path, dpi=120)
