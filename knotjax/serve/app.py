"""The server: a page, a WebSocket, and what machines ask of it."""

import contextlib
import importlib.util
import json
import os
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, Response

from knotjax.drive import ACTIONS, EMOTIONS, FPS
from knotjax.errors import InputError
from knotjax.serve import limits
from knotjax.serve.access import Guard, bearer, same_origin, token_matches
from knotjax.serve.client import Client
from knotjax.serve.hub import Hub
from knotjax.serve.monitor import metrics

PAGE = Path(__file__).parent / "page"
ASSETS = Path(__file__).parents[1] / "assets"
# The only files that are served, each under a name of its own; no path is ever made from a request.
FILES = {
    "/": (PAGE / "index.html", "text/html; charset=utf-8"),
    "/page.js": (PAGE / "page.js", "text/javascript; charset=utf-8"),
    "/page.css": (PAGE / "page.css", "text/css; charset=utf-8"),
    "/portrait.png": (ASSETS / "portrait.png", "image/png"),
    "/hello.wav": (ASSETS / "hello.wav", "audio/wav"),
}


def create_app(hub: Hub) -> FastAPI:
    """The ASGI application that serves the sessions of a hub."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):
        hub.start()
        yield
        await hub.stop()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, token=hub.settings.token)
    for address, (path, kind) in FILES.items():
        app.get(address)(_file(path.read_bytes(), kind))
    about = {
        "size": hub.size,
        "fps": FPS,
        "method": hub.method,
        "emotions": EMOTIONS,
        "actions": ACTIONS,
        "webrtc": importlib.util.find_spec("aiortc") is not None,
        "token": hub.settings.token is not None,
    }

    @app.get("/about")
    async def _about():
        return Response(json.dumps(about), media_type="application/json")

    @app.get("/healthz")
    async def _health():
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def _ready():
        if hub.ready:
            return PlainTextResponse("ready\n")
        state = "the model did not start" if hub.failure else "the model starts"
        return PlainTextResponse(state + "\n", 503, {"retry-after": "5"})

    @app.get("/metrics")
    async def _metrics(request: Request):
        if not token_matches(bearer(request.headers), hub.settings.token):
            return PlainTextResponse("send the token in an Authorization header\n", 401, {"www-authenticate": "Bearer"})
        return PlainTextResponse(metrics(hub))

    @app.websocket("/live")
    async def _live(websocket: WebSocket):
        if not same_origin(websocket.headers):
            hub.counts["wrong_origin"] += 1
            await websocket.close(limits.POLICY)
            return
        await websocket.accept()
        await Client(websocket, hub).run()

    return app


def _file(data: bytes, kind: str):
    async def answer():
        return Response(data, media_type=kind)

    return answer


class Server(uvicorn.Server):
    """A uvicorn server that lets sessions finish their block before it goes."""

    def __init__(self, hub: Hub):
        places = hub.settings.sessions + limits.WAITING
        config = uvicorn.Config(
            create_app(hub),
            ws_max_size=limits.MESSAGE_BYTES,
            ws_ping_interval=limits.PING_SECONDS,
            ws_ping_timeout=limits.PONG_SECONDS,
            ws_per_message_deflate=False,
            limit_concurrency=2 * places + limits.CONNECTIONS,
            timeout_graceful_shutdown=1,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        super().__init__(config)
        self.hub = hub
        hub.on_failure = self._give_up

    def _give_up(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets=None) -> None:
        for server in self.servers:
            server.close()
        await self.hub.end_all()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for clients; port 0 takes a free one.

    Raises:
      InputError: the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"--host {host}: {error.strerror}: give an address of this machine") from None
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Clients inherit these: who stops reading costs little memory and is cut off by the system at last.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise InputError(f"{host} port {port}: {error.strerror}: choose another with --port") from None
    return listener
