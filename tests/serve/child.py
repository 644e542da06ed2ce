"""A server with the engine that needs no model, as a process of its own: python -m tests.serve.child FOLDER."""

import sys
from pathlib import Path

import numpy as np

from knotjax.interrupts import Stoppable
from knotjax.serve.app import Server, listen
from knotjax.serve.hub import Hub
from knotjax.serve.limits import Settings
from tests.serve.fake import Engine

if __name__ == "__main__":
    listener = listen("127.0.0.1", 0)
    settings = Settings(record=Path(sys.argv[1]))
    hub = Hub(lambda: Engine(speed=4.0), np.full((64, 64, 3), 120, np.uint8), "knot_forcing", settings)
    print(listener.getsockname()[1], flush=True)
    try:
        with Stoppable():
            Server(hub).run(sockets=[listener])
    except KeyboardInterrupt:
        sys.exit(130)
