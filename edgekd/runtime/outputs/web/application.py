"""The web application of Starlette: its paths, and who may read them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edgekd.runtime.outputs.web.access import Access
from edgekd.runtime.outputs.web.server import BoundedConnection

PAGE = Path(__file__).parent / "page"
STATIC = {
    "/style.css": ("style.css", "text/css"),
    "/script.js": ("script.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> file in `page/`, content type."""
HEALTH = "/healthz"
JSON, EVENTS = "application/json", "text/event-stream"
UNBUFFERED = {"X-Accel-Buffering": "no"}
"""Header that makes a proxy pass events on at once."""
COOKIE_S = 31_536_000
"""How long a browser keeps the cookie, seconds."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every response."""

Document = tuple[str, Callable[[], bytes]]
"""Content type of a path, and the function that makes its content."""


def web_application(
    access: Access,
    documents: Mapping[str, Document],
    health: Callable[[], tuple[bool, str]],
    snapshot: Callable[[], bytes],
) -> ASGIApp:
    """The application. All functions are called in the server's thread and must not wait.

    Args:
        access: who may read.
        documents: by path.
        health: whether decisions are made, and a line about it.
        snapshot: the first event of a stream.
    """
    pages = {"/": ("text/html", (PAGE / "index.html").read_bytes)}
    pages |= {path: (kind, (PAGE / file).read_bytes) for path, (file, kind) in STATIC.items()}
    fixed = {path: (kind, _constant(read())) for path, (kind, read) in pages.items()}

    async def events(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=EVENTS)
        # a body would be read for as long as the stream lasts
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            return PlainTextResponse("Content Too Large\n", 413)
        connection: BoundedConnection = request.state.connection
        stream = connection.open_stream(snapshot())
        if stream is None:
            return PlainTextResponse("Service Unavailable\n", 503, {"Retry-After": "10"})
        return StreamingResponse(stream.parts(), media_type=EVENTS, headers=UNBUFFERED)

    async def healthz(_request: Request) -> Response:
        is_well, line = health()
        return PlainTextResponse(f"{line}\n", 200 if is_well else 503)

    routes = [Route(path, _endpoint(*document)) for path, document in {**fixed, **documents}.items()]
    application = Starlette(routes=[*routes, Route("/events", events), Route(HEALTH, healthz)])
    application.router.redirect_slashes = False
    return Guard(application, access)


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _endpoint(kind: str, content: Callable[[], bytes]) -> Callable[[Request], Any]:
    async def endpoint(_request: Request) -> Response:
        return Response(content(), media_type=kind)

    return endpoint


class Guard:
    """Passes requests that may be answered on to an application. The health and the looks of the page need no token."""

    def __init__(self, application: ASGIApp, access: Access) -> None:
        self._application, self._access = application, access
        self._login = (PAGE / "login.html").read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._refusal(Request(scope)) or self._application)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        """The response to a request that may not read, or has the token in its query; None where it may read."""
        # the path that is routed; in many versions of Starlette the header Host can change that of `request.url`
        access, path = self._access, request.scope["path"]
        host = request.headers.get("host", "")
        origins = [origin for origin in request.headers.getlist("origin") if not access.allows_origin(origin)]
        if origins or not access.allows_host(host):
            return PlainTextResponse(f"{access.refusal((*origins, host)[0])}\n", 403)
        if path == HEALTH or path in STATIC:
            return None
        given = request.query_params.get("token", "") if path == "/" else ""
        if access.is_token(given):
            response = RedirectResponse("./", 303)  # so that the token leaves the address bar
            response.set_cookie(access.cookie_name, access.cookie, COOKIE_S, httponly=True, samesite="strict")
            return response
        if access.is_authorized(request.headers):
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        if path == "/":
            return HTMLResponse(self._login.replace(b" hidden>", b">") if given else self._login, 401, challenge)
        return PlainTextResponse("Unauthorized\n", 401, challenge)
