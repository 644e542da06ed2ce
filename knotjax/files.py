"""Putting finished files in place so that a crash never leaves half of one under its final name."""

import os
from pathlib import Path


def commit(part: Path, path: Path) -> None:
    """Flush the finished file `part` to disk and rename it to `path` in one step.

    Raises:
      OSError: the disk refused (full, read-only, gone).
    """
    with open(part, "rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(part, path)
    if hasattr(os, "O_DIRECTORY"):  # the rename itself lives in the folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
