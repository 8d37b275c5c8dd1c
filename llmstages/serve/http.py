"""What all requests go through: limits, the key, errors in OpenAI's shape, and a line in the log.

Promise: no text of a request or an answer, and no key, is ever written to the log; without a key
nothing is told but the page and whether the server works.
"""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmstages.serve.protocol import Refusal

OPEN_PATHS = ("/", "/health")
"""What needs no key."""
GRACE_SECONDS = 3.0
"""How long answers under way may go on after the server was told to end, and how long after its
time a request may take to say that it is over."""
GONE = 499
"""Status in the log of a request whose client left; the client never sees it."""
NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients send a request again after most errors, unless this is said."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """What a server accepts."""

    timeout_seconds: float
    max_body_bytes: int
    key: str | None = None
    only_local: bool = True
    """Whether this machine alone can reach it. Then pages of other sites must not either, through
    the browser of somebody here: only names of this machine are answered to."""


class Door:
    """The application, behind its limits."""

    def __init__(self, app: Starlette, limits: Limits, log: Callable[[str], None]) -> None:
        self._app, self._limits, self._log = app, limits, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def remember(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        error, note = None, ""
        try:
            async with asyncio.timeout(self._limits.timeout_seconds + GRACE_SECONDS):
                self._admit(scope)
                await self._app(scope, receive, remember)
        except Refusal as refusal:
            error = refusal
        except TimeoutError:
            error, note = too_slow(self._limits), " too slow"
        except Exception as failure:
            # The message may hold what the client sent.
            note = f" {type(failure).__name__}"
        if error is not None and not status:
            with suppress(OSError):
                await respond(error)(scope, receive, remember)
        note = scope.get("llmstages.note", "") + note
        seconds = time.monotonic() - began
        self._log(f"{scope['method']} {self._path(scope)} {status}{note} {seconds:.2f} s")

    def _path(self, scope: Scope) -> str:
        """The path as the application has it: what a client puts into one may be a text, too."""
        routes = (route for route in self._app.routes if isinstance(route, Route))
        found = (route.path_format for route in routes if route.matches(scope)[0] != Match.NONE)
        return next(found, "(no such path)")

    def _admit(self, scope: Scope) -> None:
        """Raise `Refusal` for a request that must not come in."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._limits.only_local and not is_local(headers.get(b"host", b"").decode("latin-1")):
            raise Refusal(403, "this server answers to the names of its own machine alone")
        if self._limits.key is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(given.strip(), self._limits.key.encode())
        if scheme.lower() != b"bearer" or not right:
            raise Refusal(
                401,
                "a key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def is_local(host: str) -> bool:
    """Whether a `Host` header, or an address to listen at, names this machine alone."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def too_slow(limits: Limits) -> Refusal:
    """A request has taken its time."""
    message = f"the answer was not ready within {limits.timeout_seconds:g} seconds"
    return Refusal(504, message, code="timeout", headers=NO_RETRY)


def respond(refusal: Refusal) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def make_app(
    routes: list[Route],
    lifespan: Callable[[Starlette], Any],
    limits: Limits,
    log: Callable[[str], None],
) -> ASGIApp:
    """An application of these routes, whose errors have OpenAI's shape."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return respond(error)

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    async def broken(request: Request, error: Exception) -> Response:
        return respond(Refusal(500, "the server failed"))

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = {404: "there is no such path", 405: f"{request.method} is not for this path"}
        message = said.get(error.status_code, str(error.detail))
        return respond(Refusal(error.status_code, message, headers=error.headers))

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            Refusal: refused,
            HTTPException: failed,
            ClientDisconnect: left,
            Exception: broken,
        },
    )
    return Door(app, limits, log)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request, JSON as it says. Raises `Refusal`.

    Pages of other sites can send other kinds of content without being asked, but not this.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "send JSON, with the header Content-Type: application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limits.max_body_bytes:
            raise Refusal(413, f"a request has at most {limits.max_body_bytes} bytes")
    return bytes(body)


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work, which is cancelled when the client leaves. Raises `ClientDisconnect`."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(watch())
    try:
        return await task
    except asyncio.CancelledError:
        if watcher.done():
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
        task.cancel()
