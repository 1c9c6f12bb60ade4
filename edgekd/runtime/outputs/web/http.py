"""HTTP/1.1 requests and responses as bytes; no sockets here."""

import re
from typing import NamedTuple

MAX_REQUEST = 8192
"""Bytes of request line and headers."""
REASONS = {
    200: "OK",
    303: "See Other",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
TEXT = "text/plain; charset=utf-8"
HEADERS = "".join(
    f"{name}: {value}\r\n"
    for name, value in {
        "Connection": "close",
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }.items()
)
_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\t\x80-\xff]*)")


class HttpRequest(NamedTuple):
    """A request. path: without the query. headers: names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


class HttpResponse(NamedTuple):
    """A response. kind: the content type. headers: further ones. stream: the connection stays open, and `body` is the
    first part."""

    status: int
    kind: str = TEXT
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    stream: bool = False


def problem(status: int) -> HttpResponse:
    """A response with an error status and its phrase."""
    return HttpResponse(status, TEXT, f"{REASONS[status]}\n".encode())


def parse(head: bytes) -> HttpRequest | None:
    """A request from its bytes before the empty line; None where they are malformed."""
    first, *lines = head.decode("latin-1").split("\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    pairs = [_HEADER.fullmatch(line) for line in lines]
    if request is None or None in pairs:
        return None
    headers = {pair[1].lower(): pair[2].strip() for pair in pairs if pair is not None}
    if len(headers) < len(lines) and sum(line.lower().startswith("host:") for line in lines) > 1:
        return None
    path, _, query = request[2].partition("?")
    return HttpRequest(request[1], path, query, headers)


def encode(response: HttpResponse, *, with_body: bool = True) -> bytes:
    """A response as bytes."""
    length = "" if response.stream else f"Content-Length: {len(response.body)}\r\n"
    more = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    head = (
        f"HTTP/1.1 {response.status} {REASONS[response.status]}\r\nContent-Type:"
        f" {response.kind}\r\n{length}{more}{HEADERS}\r\n"
    )
    return head.encode("latin-1") + (response.body if with_body else b"")
