"""Who may talk to the server: addresses, tokens, origins, and what browsers are told to forbid."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from knotjax.errors import InputError

MIN_TOKEN = 16
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=(self)",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_binding(host: str, token: str | None) -> None:
    """Refuse to be reached from other machines without a token, and tokens that are soon guessed.

    Raises:
      InputError: so it is.
    """
    if token is None and not is_loopback(host):
        raise InputError(f"--host {host}: other machines reach it: give --token or set KNOTJAX_TOKEN")
    if token is not None and not (MIN_TOKEN <= len(token) <= 200 and token.isascii() and token.isprintable()):
        raise InputError(f"--token: give {MIN_TOKEN} to 200 printable characters, such as `openssl rand -hex 16` makes")


def token_matches(given: str, token: str | None) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return token is None or hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def bearer(headers) -> str:
    """The token of an Authorization header, or ""."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _name(netloc: str) -> str:
    try:
        return (urlsplit("//" + netloc).hostname or "").lower()
    except ValueError:
        return ""


def host_allowed(headers, token: str | None) -> bool:
    """Without a token only this machine's own names are served, lest another site's name be pointed at it."""
    name = _name(headers.get("host", ""))
    return bool(name) and (token is not None or name in LOCAL_NAMES or is_loopback(name))


def same_origin(headers) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == headers.get("host", "").lower()


class Guard:
    """ASGI middleware: refuses foreign Host names and adds the headers."""

    def __init__(self, app, token: str | None):
        self._app, self._token = app, token

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "http":
            send = _with_headers(send)
        if not host_allowed(given, self._token):
            await _refuse(scope, send)
            return
        await self._app(scope, receive, send)


def _with_headers(send):
    async def sending(message) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *ours]
        await send(message)

    return sending


async def _refuse(scope, send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": "unknown host"})
        return
    await send({"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"unknown host\n"})
