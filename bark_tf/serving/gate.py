"""What stands before every route: token, size of the body, graceful stop, counting."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import threading
import traceback
import uuid
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bark_tf.serving.metrics import Metrics

LOGGER = logging.getLogger("bark_tf.serving")
HEALTH = "/healthz"
# Open while the server stops, so that its end can be watched.
_ALWAYS_OPEN = (HEALTH, "/metrics")
RETRY_AFTER_S = 10
# Of a body that is too large, at most so much is read before the answer.
_DISCARD, _DISCARD_S = 64 * 2**20, 5


def error_response(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> JSONResponse:
    """An error in the form of OpenAI's.

    Args:
        status: HTTP status.
        message: What was expected and what came.
        param: The field of the request that is wrong.
        code: A word for programs.
    """
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    if status == 413:
        headers["Connection"] = "close"  # instead of reading all of the rest
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error}, status, headers)


class Refused(Exception):
    """A request that gets an error; arguments are those of `error_response`."""

    def __init__(self, status: int, message: str, **fields: Any):
        super().__init__(message)
        self.response = error_response(status, message, **fields)


def is_loopback(host: str | None) -> bool:
    """Whether only programs on this machine reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class Gate:
    """ASGI middleware that lets requests in, counts them, and logs a line for each.

    Lines are JSON objects and contain no text of a request.

    Args:
        app: The application behind it.
        metrics: Where to count.
        token: Clients must send it as `Authorization: Bearer TOKEN`; None: all may in.
        max_body: Most bytes of a body.
        only_loopback: Whether to refuse requests that name another host. A page of
            another site, whose name was made to point here, could read the answers
            otherwise (DNS rebinding).

    Attributes:
        is_closing: Whether no new request may in.
        max_bodies: Most bytes of a body, for paths with another limit.
        public: Paths that need no token.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        token: str | None,
        max_body: int,
        *,
        only_loopback: bool = False,
    ):
        self._app, self._metrics, self._max_body = app, metrics, max_body
        self._only_loopback = only_loopback
        self._token = None if token is None else f"Bearer {token}".encode()
        self._changed, self._inside = threading.Condition(), 0
        self.is_closing = False
        self.max_bodies: dict[str, int] = {}
        self.public = {HEALTH}

    def close(self) -> None:
        """Lets no new request in; those inside go on."""
        self.is_closing = True

    def wait_until_empty(self) -> None:
        """Blocks until all requests that are inside have been answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": uuid.uuid4().hex,
            "method": scope["method"],
            "status": None,
        }
        scope.setdefault("state", {})["facts"] = facts
        start, body = monotonic(), _Body(receive, scope, self._limit(scope))

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts["status"] = message["status"]
                if message["status"] == 413:
                    await body.discard()
                MutableHeaders(scope=message)["X-Request-ID"] = facts["id"]
            await send(message)

        self._count(1)
        try:
            app = self._refusal(scope) or self._app
            await app(scope, body, send_on)
        except Exception as error:
            # Without its message, which may quote the text. A response that has begun
            # ends without its end, so the client sees that something is missing.
            facts["error"] = type(error).__name__
            facts["trace"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(error.__traceback__)
            ]
        finally:
            self._count(-1)
            self._record(scope, facts, monotonic() - start)

    def _count(self, change: int) -> None:
        with self._changed:
            self._inside += change
            self._changed.notify_all()

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        if self._only_loopback and not _names_loopback(host := headers.get("host")):
            return error_response(
                403,
                "The server answers to localhost, 127.0.0.1 and [::1] only. "
                f"Received: host={host[:80]!r}. Behind a proxy, start it with a token "
                "or with --without-token",
                code="unknown_host",
            )
        if self._token is not None and path not in self.public:
            given = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._token):
                return error_response(
                    401,
                    "Send the server's token as `Authorization: Bearer TOKEN`",
                    code="invalid_api_key",
                )
        if self.is_closing and path not in _ALWAYS_OPEN:
            return error_response(503, "The server is stopping", code="stopping")
        limit = self._limit(scope)
        if int(headers.get("content-length", "0") or 0) > limit:
            return error_response(413, _too_large(limit), code="body_too_large")
        return None

    def _limit(self, scope: Scope) -> int:
        return self.max_bodies.get(scope["path"], self._max_body)

    def _record(self, scope: Scope, facts: dict[str, Any], seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, facts["status"]).inc()
        if route == "/v1/audio/speech":
            self._metrics.request_seconds.observe(seconds)
        LOGGER.info(json.dumps({**facts, "route": route, "seconds": round(seconds, 3)}))


class _Body:
    """The `receive` of a request: bounds a body that does not state its length."""

    def __init__(self, receive: Receive, scope: Scope, limit: int):
        self._receive, self._limit, self._size = receive, limit, 0
        # A client that waits for a "100 Continue" is not sending.
        self._ended = "expect" in Headers(scope=scope)

    async def __call__(self) -> Message:
        message = await self._read()
        if self._size > self._limit:
            raise HTTPException(413, _too_large(self._limit))
        return message

    async def _read(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Reads some of the rest.

        A connection that is closed with bytes unread is reset, and a client that is
        still sending may then never see the answer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while self._size < _DISCARD and not self._ended:
                    await self._read()


def _names_loopback(host: str | None) -> bool:
    """Whether a Host header, with or without a port, is of the loopback address."""
    try:
        return host is None or is_loopback(urlsplit(f"//{host}").hostname)
    except ValueError:
        return False


def _too_large(limit: int) -> str:
    return f"The body of a request must have at most {limit} bytes"
