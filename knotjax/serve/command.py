"""knotjax serve: a page on which a portrait speaks live."""

import argparse
import math
import os
import sys
from pathlib import Path

from knotjax.arguments import Parser
from knotjax.errors import InputError
from knotjax.interrupts import Stoppable

MAX_SESSIONS = 256


def _sessions(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_SESSIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is not in 1 .. {MAX_SESSIONS}")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not in 0 .. 65535")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0 s")
    return value


def _parser() -> Parser:
    parser = Parser(prog="knotjax serve", description="Serve a page on which a portrait speaks live.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 for any free one (default: %(default)s)")
    parser.add_argument(
        "--token",
        default=os.environ.get("KNOTJAX_TOKEN") or None,
        help="that clients must know; needed when other machines reach the address (default: $KNOTJAX_TOKEN)",
    )
    parser.add_argument("--sessions", type=_sessions, default=1, metavar="N", help="at once (default: %(default)s)")
    parser.add_argument("--max-seconds", type=_seconds, metavar="S", help="end a session after S s (default: never)")
    parser.add_argument("--weights", metavar="DIR", help="a trained model (default: the one that comes along)")
    parser.add_argument("--method", help="streaming method (default: the one that the model was trained for)")
    parser.add_argument("--record", type=Path, metavar="DIR", help="keep a recording of every session in this folder")
    return parser


def main(arguments: list[str]) -> None:
    """Run the command until it is interrupted.

    Raises:
      InputError: an option cannot be used, or a library is missing.
      KeyboardInterrupt: it was stopped, and all sessions ended in good order.
    """
    options = _parser().parse_args(arguments)
    try:
        from knotjax.serve.access import check_binding
        from knotjax.serve.app import ASSETS, Server, listen
        from knotjax.serve.hub import Hub
        from knotjax.serve.limits import Settings
        from knotjax.serve.recordings import check_folder
    except ModuleNotFoundError as error:
        raise InputError(f"knotjax serve needs {error.name}: pip install 'knotjax[serve]'") from None
    check_binding(options.host, options.token)
    if options.record is not None:
        check_folder(options.record)
    listener = listen(options.host, options.port)

    from knotjax.live import Engine
    from knotjax.media import read_picture
    from knotjax.pipeline import Animator

    animator = Animator.load(options.weights)
    plan = animator.plan(options.method)
    settings = Settings(options.sessions, options.token, options.record, options.max_seconds)
    hub = Hub(
        lambda: Engine(animator, slots=options.sessions, plan=plan),
        read_picture(ASSETS / "portrait.png", animator.size),
        options.method or animator.model.method,
        settings,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"knotjax: http://{shown}:{port}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
    with Stoppable():
        Server(hub).run(sockets=[listener])
    if hub.failure:
        raise InputError(f"the model did not start: {hub.failure}")
