"""Events posted to an HTTP address. Messages show only its host, because the path of many addresses is a password."""

import base64
import http.client
import os
import socket
import ssl
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from edgekd.errors import InputError
from edgekd.runtime.outputs.base import reason_text
from edgekd.text import printable

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
        """Host and port, for messages and the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"


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
            # ValueError: reading from a connection that was just shut down
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.error = f"{self._address.shown}: {_error_text(error)}"
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

        The timeout of a socket holds for each of its operations. A timer therefore shuts the connection down when the
        attempt as a whole takes too long, for instance because the server sends one byte now and then.
        """
        deadline = time.monotonic() + self._timeout_s
        plain = socket.create_connection((self._address.host, self._address.port), timeout=self._timeout_s)
        connected = (
            self._tls.wrap_socket(plain, server_hostname=self._address.host, do_handshake_on_connect=False)
            if self._tls
            else plain
        )
        late = threading.Event()

        def shut_down() -> None:
            late.set()
            with suppress(OSError):  # the connection has ended
                # not SSLSocket.shutdown, which would change the object that the other thread uses
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

        timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut_down)
        timer.daemon = True
        timer.start()
        try:
            if isinstance(connected, ssl.SSLSocket):
                connected.do_handshake()
            connection = http.client.HTTPConnection(self._address.host, self._address.port)
            connection.sock = connected
            connection.request("POST", self._address.target, body, self._headers())
            with connection.getresponse() as response:
                status = response.status
        except Exception:
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
            connected.close()
        if late.is_set():  # a connection that is shut down within the headers looks like their end
            raise TimeoutError
        return status

    def _headers(self) -> dict[str, str]:
        headers = {
            "Host": self._address.shown,
            "Content-Type": "application/json",
            "User-Agent": "edgekd",
            "Connection": "close",
        }
        return (
            headers
            if self._address.authorization is None
            else {**headers, "Authorization": self._address.authorization}
        )


def open_webhook(url: str, timeout_s: float, token: str | None) -> WebhookDelivery:
    """A webhook. Without a `token`, that of the environment is used, if any.

    Raises:
        InputError: not an HTTP address, or a token that cannot be sent.
    """
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
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({printable(error.verify_message)})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return printable(reason_text(error))


def _status_text(status: int) -> str:
    """A status with its standard phrase, not the server's; for a redirect also what to do."""
    words = f"{status} {http.client.responses.get(status, '')}".rstrip()
    return f"{words}: redirects are not followed, give the address it leads to" if status // 100 == 3 else words
