"""Pictures of results: rows of frames side by side, and mouth opening over time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from knotjax import drive

_GAP = 2  # white pixels between pictures
_PAPER, _INK = 255, 40


def strip(frames: Sequence[np.ndarray], times: Sequence[float], labels: Sequence[str]) -> np.ndarray:
    """Lay videos under each other as rows of stills: uint8 [height, width, 3].

    Args:
      frames: videos uint8 [T, H, W, 3] of one picture size, one per row; one frame is repeated, as a reference.
      times: seconds of the columns, at 25 frames per second.
      labels: one per row, written at its left; the times are written above the columns.

    Raises:
      ValueError: labels and rows differ in number, pictures differ in size, or a time lies outside a video.
    """
    if len(frames) != len(labels) or not frames or not len(times):
        raise ValueError(
            f"{len(frames)} rows, {len(labels)} labels, {len(times)} times: give a label a row, and a time"
        )
    height, width = frames[0].shape[1:3]
    numbers = [round(time * drive.FPS) for time in times]
    for video, label in zip(frames, labels, strict=True):
        if video.shape[1:] != (height, width, 3) or video.dtype != np.uint8:
            raise ValueError(
                f"row {label!r} is {video.dtype} {list(video.shape)}: give uint8 [T, {height}, {width}, 3]"
            )
        if len(video) > 1 and not 0 <= min(numbers) <= max(numbers) < len(video):
            raise ValueError(f"row {label!r} lasts {len(video) / drive.FPS:g} s: give times inside it")
    font = ImageFont.load_default(max(10, round(height / 10)))
    left = max(round(font.getlength(label)) for label in labels) + 3 * _GAP
    top = round(font.size * 1.5)
    sheet = Image.new(
        "RGB",
        (left + len(times) * (width + _GAP), top + len(frames) * (height + _GAP)),
        (_PAPER, _PAPER, _PAPER),
    )
    draw = ImageDraw.Draw(sheet)
    for row, (video, label) in enumerate(zip(frames, labels, strict=True)):
        y = top + row * (height + _GAP)
        draw.text((_GAP, y + height / 2), label, (_INK, _INK, _INK), font, anchor="lm")
        for column, number in enumerate(numbers):
            picture = video[number if len(video) > 1 else 0]
            sheet.paste(Image.fromarray(picture), (left + column * (width + _GAP), y))
    for column, time in enumerate(times):
        x = left + column * (width + _GAP) + width / 2
        draw.text((x, top / 2), f"{time:.2f} s", (_INK, _INK, _INK), font, anchor="mm")
    return np.asarray(sheet)


def plot_opening(path: str | Path, truth: np.ndarray, generated: np.ndarray, title: str = "") -> None:
    """Draw true and generated mouth opening, both [T] at 25 frames per second, over seconds into a picture file.

    Needs matplotlib. The kind of file follows the ending of `path` (.png, .svg, .pdf).

    Raises:
      ValueError: the tracks differ in length.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if len(truth) != len(generated):
        raise ValueError(f"tracks of {len(truth)} and {len(generated)} frames: cut both to the same frames")
    seconds = (np.arange(len(truth)) + 0.5) / drive.FPS
    figure = Figure((9, 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(seconds, truth, color="0.55", linewidth=2.2, label="truth")
    axes.plot(seconds, generated, color="tab:red", linewidth=1.2, label="generated")
    axes.set(xlabel="seconds", ylabel="mouth opening", ylim=(-0.05, 1.05), title=title)
    axes.set_xlim(0, len(truth) / drive.FPS)
    axes.legend(loc="upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)
