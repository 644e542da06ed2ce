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
    flush(path.parent)  # the rename itself lives in the folder


def flush(folder: Path) -> None:
    """Flush to disk which names a folder holds."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
