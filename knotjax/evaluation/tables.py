"""Results as a table for people and as JSON for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from knotjax.evaluation.tracks import Interval

Score = Interval | float | int | str | None
Rows = Mapping[str, Mapping[str, Score]]


def _cell(score: Score, digits: int) -> str:
    if score is None:
        return "-"
    if isinstance(score, str):
        return score
    if isinstance(score, Interval):
        mean, low, high = (_cell(value, digits) for value in score)
        return mean if low == mean == high or "-" in (low, high) else f"{mean} [{low}, {high}]"
    if isinstance(score, int | np.integer):
        return str(score)
    if not math.isfinite(score):
        return "-" if math.isnan(score) else "inf" if score > 0 else "-inf"
    return f"{score:.{digits}f}"


def table(rows: Rows, *, title: str = "", digits: int | Mapping[str, int] = 2, markdown: bool = True) -> str:
    """A text table of scores.

    Args:
      rows: name of each row (a model, a baseline) to its scores by column name. A row may lack columns; they stand in
        the order of their first appearance. A score is a number, a text, or an `Interval`, shown as mean [low, high].
      title: of the column of names.
      digits: decimals of all columns, or of each column by name (2 where it is not named).
      markdown: with column rules, to paste into a document; else plain text aligned by spaces.

    Raises:
      ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no rows: give at least one")
    columns = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    places = {name: digits if isinstance(digits, int) else digits.get(name, 2) for name in columns}
    lines = [[title, *columns]]
    lines += [[row, *(_cell(scores.get(name), places[name]) for name in columns)] for row, scores in rows.items()]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    padded = [[line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))] for line in lines]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in padded) + "\n"
    rule = ["-" * max(widths[0], 3), *("-" * (max(w, 3) - 1) + ":" for w in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])) + "\n"


def _plain(value: Any) -> Any:
    """The value in JSON's own types: intervals as mean, low, high; numbers that JSON lacks as None or "inf"."""
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | range):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"{type(value).__name__} has no place in a result file: give numbers, texts, lists and mappings")


def _version() -> str:
    try:
        return metadata.version("knotjax")
    except metadata.PackageNotFoundError:
        return "unknown"


def dump(path: str | Path, results: Mapping[str, Any], config: Mapping[str, Any], seeds: Sequence[int]) -> None:
    """Write one run's results to a JSON file together with what is needed to make them again.

    Args:
      path: of the file; it is replaced as a whole.
      results: scores, nested as wished: numbers, texts, arrays, `Interval`s and other named tuples. nan is written as
        null, infinity as "inf".
      config: settings of the run.
      seeds: of the clips, in order.

    Raises:
      TypeError: a value is of another kind.
      OSError: the file cannot be written.
    """
    document = {"knotjax": _version(), "seeds": _plain(list(seeds)), "clips": len(seeds)}
    document |= {"config": _plain(config), "results": _plain(results)}
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    path = Path(path)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
