"""A portrait that a client sends in pieces."""

import tempfile

import numpy as np

from knotjax.errors import InputError
from knotjax.media import read_picture
from knotjax.serve.messages import Refusal


class Upload:
    """Collects a picture file of a size told before."""

    def __init__(self, size: int):
        self._size, self._pieces, self._held = size, [], 0

    def add(self, data: bytes) -> bool:
        """Add a piece; returns whether that was the last.

        Raises:
          Refusal: more bytes than were told.
        """
        self._held += len(data)
        if self._held > self._size:
            raise Refusal("bad_picture", f"portrait is longer than the {self._size} bytes told: send it again")
        self._pieces.append(data)
        return self._held == self._size

    def picture(self, size: int) -> np.ndarray:
        """Decode as uint8 [size, size, 3], in memory that the limits of `read_picture` bound.

        Raises:
          Refusal: it is no usable picture.
        """
        # A name of the server's own making, gone with the block: nothing of the client's reaches the file system.
        with tempfile.NamedTemporaryFile(prefix="knotjax-", suffix=".picture") as file:
            file.writelines(self._pieces)
            file.flush()
            try:
                return read_picture(file.name, size)
            except InputError as error:
                raise Refusal("bad_picture", str(error).replace(f"picture {file.name!r}", "portrait")) from None
