"""Events posted to an HTTP address by httpx, through the proxy of the environment if it names one. Messages show only
the address's host, because the path of many addresses is a password."""

import base64
import importlib.util
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.outputs.base import reason_text
from edgekd.runtime.outputs.hooks.delivery import DeliveryError
from edgekd.text import short_line

TOKEN_VARIABLE = "EDGEKD_WEBHOOK_TOKEN"
WAITS_S = (1.0, 4.0, 16.0)
"""Seconds between attempts. After the last wait and one more attempt the event is dropped."""
RETRIED = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Statuses besides 5xx after which another attempt may succeed."""
PORTS = {"http": 80, "https": 443}
EXAMPLE = "give for instance https://example.org/scene"
PATH_LETTERS = "/%:@!$&'()*+,;=~?"
"""Characters that stay unquoted in the path and the query of an address."""


class WebhookAddress(NamedTuple):
    """Where to post. host, port: to connect to; shown in messages. target: path and query. authorization: value of that
    header, or None."""

    host: str
    port: int
    tls: bool
    target: str
    authorization: str | None

    def __repr__(self) -> str:
        return f"WebhookAddress({self.shown})"  # path and authorization may be secret

    @property
    def shown(self) -> str:
        """Host and port, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def scheme(self) -> str:
        """ "http" or "https"."""
        return "https" if self.tls else "http"


class WebhookDelivery:
    """Posts events, with several attempts each."""

    name = "webhook"

    def __init__(self, address: WebhookAddress, timeout_s: float) -> None:
        self._address, self._timeout_s, self._stopped = address, timeout_s, threading.Event()
        self._tls = ssl.create_default_context() if address.tls else None
        self.error: str | None = None

    def deliver(self, body: bytes) -> None:
        """Post an event. An error that may pass is retried after `WAITS_S`. If the event does not arrive, `error` says
        why until a later event arrives."""
        for wait_s in (*WAITS_S, 0.0):
            if self._stopped.is_set():
                return
            try:
                status = self._post(body)
            except DeliveryError as error:
                self.error = f"{self._address.shown}: {error}"
            else:
                if status // 100 == 2:
                    self.error = None
                    return
                self.error = f"{self._address.shown} answers {_status_text(status)}"
                if status // 100 != 5 and status not in RETRIED:
                    break
            if wait_s:
                self._stopped.wait(wait_s)

    def stop(self) -> None:
        """Make no more attempts. A hanging attempt ends with the program."""
        self._stopped.set()

    def _post(self, body: bytes) -> int:
        """Make one attempt. Returns the HTTP status.

        Raises:
            DeliveryError: there is no status.
        """
        import httpx  # takes 0.1 s and 8 MB

        url = f"{self._address.scheme}://{self._address.shown}{self._address.target}"
        try:
            with (
                _time_limit(self._timeout_s) as extensions,
                self._client() as client,
                client.stream("POST", url, content=body, headers=self._headers(), extensions=extensions) as response,
            ):
                return int(response.status_code)
        except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise DeliveryError(_error_text(error)) from None

    def _client(self) -> Any:
        """A client that posts through the proxy of the environment, if there is one.

        Raises:
            DeliveryError: what names the proxy is no address.
        """
        import httpx

        try:
            return httpx.Client(verify=self._tls or False, timeout=self._timeout_s)
        except (ValueError, ImportError, httpx.InvalidURL):  # their text may show a password of the proxy
            raise DeliveryError(
                "the proxy of the environment is no http address; give for instance http://proxy.lan:3128"
            ) from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "edgekd"}
        authorization = self._address.authorization
        return headers if authorization is None else {**headers, "Authorization": authorization}


@contextmanager
def _time_limit(seconds: float) -> Iterator[dict[str, Any]]:
    """Extensions of an httpx request that end it when it takes too long as a whole, for instance because the server
    sends one byte now and then. The timeouts of httpx hold for each operation.

    Raises:
        TimeoutError: the request took too long.
    """
    late, connections = threading.Event(), list[socket.socket]()

    def note(event: str, details: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            # a copy: TLS takes the original over
            connections.append(details["return_value"].get_extra_info("socket").dup())
            if late.is_set():
                raise TimeoutError

    def shut_down() -> None:
        late.set()
        for connection in connections:
            with suppress(OSError):  # the connection has ended
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield {"trace": note}
    except Exception:
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
        timer.join()
        for connection in connections:
            connection.close()
    if late.is_set():  # a connection that is shut down within the headers looks like their end
        raise TimeoutError


def open_webhook(url: str, timeout_s: float, token: str | None) -> WebhookDelivery:
    """A webhook. Without a `token`, that of the environment is used, if any.

    Raises:
        InputError: not an HTTP address, or a token that cannot be sent.
        MissingExtraError: httpx is not installed.
    """
    if importlib.util.find_spec("httpx") is None:
        raise MissingExtraError("httpx (which the url of [hook] needs)", "webhook")
    return WebhookDelivery(read_address(url, token or os.environ.get(TOKEN_VARIABLE) or None), timeout_s)


def read_address(url: str, token: str | None) -> WebhookAddress:
    """Parse an address. Errors do not show it.

    Raises:
        InputError: not an HTTP address, or a token that cannot be sent.
    """
    if not url.isprintable() or " " in url:
        raise InputError(f"webhook: the address holds a blank or a control character; {EXAMPLE}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"webhook: the address has a malformed host or port; {EXAMPLE}") from None
    if parts.scheme not in PORTS:
        raise InputError(f"webhook: the address starts with neither http:// nor https://; {EXAMPLE}")
    if not host or port == 0:
        raise InputError(f"webhook: the address has no host or the port 0; {EXAMPLE}")
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise InputError(f"webhook: the address has a malformed host; {EXAMPLE}") from None
    target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=PATH_LETTERS)
    authorization = _authorization(parts.username, parts.password, token)
    return WebhookAddress(host, port or PORTS[parts.scheme], parts.scheme == "https", target, authorization)


def _authorization(user: str | None, password: str | None, token: str | None) -> str | None:
    if token is not None:
        if user is not None:
            raise InputError("webhook: the address has a user and there is a token too; keep one of them")
        if not token.isascii() or not token.isprintable() or token != token.strip():
            raise InputError(
                f"webhook: the token (of [hook] or {TOKEN_VARIABLE}) holds a blank at an end, a control character or"
                " one that is not ASCII; copy it again from the server"
            )
        return f"Bearer {token}"
    if user is None:
        return None
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


def _error_text(error: Exception) -> str:
    """The system's words for the first cause of an error; those of httpx are shown only where there is none."""
    if type(error).__name__.endswith(("TimeoutError", "Timeout")):
        return "no answer in time"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({short_line(cause.verify_message)})"
    return short_line(reason_text(cause if isinstance(cause, OSError) else error))


def _status_text(status: int) -> str:
    """A status with its standard phrase, not the server's; for a redirect also what to do."""
    words = " ".join([str(status), *(each.phrase for each in HTTPStatus if each == status)])
    return f"{words}: redirects are not followed, give the address it leads to" if status // 100 == 3 else words
