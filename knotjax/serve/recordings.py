"""Recordings that the server keeps: `<id>.mp4.part` while they grow (it can be played), `<id>.mp4` when finished."""

import os
import uuid
from pathlib import Path

from knotjax.errors import InputError
from knotjax.files import commit
from knotjax.media import part_of


def check_folder(folder: Path) -> None:
    """Check that recordings can be kept in a folder; creates nothing.

    Raises:
      InputError: it is missing or not writable.
    """
    if not folder.is_dir():
        raise InputError(f"--record {str(folder)!r} is not a folder: create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--record {str(folder)!r} is read-only: choose another folder")


class Recording:
    """One recording, under a name of the server's own making; the same bytes that the client was sent.

    Args:
      head: what the file begins with.

    Raises:
      OSError: the disk refused.
    """

    def __init__(self, folder: Path, head: bytes):
        self.path = folder / f"{uuid.uuid4()}.mp4"
        self._file = open(part_of(self.path), "xb", buffering=0)  # noqa: SIM115, closed by `close`
        self._head, self._empty = head, True

    def write(self, fragment: bytes) -> None:
        """Append a fragment."""
        data = self._head + fragment if self._empty else fragment
        self._empty = False
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Finish: the recording takes its final name, an empty one is removed."""
        self._file.close()
        if self._empty:
            part_of(self.path).unlink(missing_ok=True)
        else:
            commit(part_of(self.path), self.path)
