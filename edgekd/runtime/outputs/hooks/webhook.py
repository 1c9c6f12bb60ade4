"""Events posted to an HTTP address. Only its host is ever shown: the path of many an address is a password."""

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
from edgekd.runtime.outputs.hooks.hook import printable

TOKEN_VARIABLE = "EDGEKD_WEBHOOK_TOKEN"
WAITS_S = (1.0, 4.0, 16.0)
"""Between attempts; after the last wait and one more attempt an event is given up."""
PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Refusals that another attempt may change, beside all of a server that has failed."""
PORTS = {"http": 80, "https": 443}
EXAMPLE = "give for instance https://example.org/scene"
PATH_LETTERS = "/%:@!$&'()*+,;=~?"
"""What stands unquoted in the path and the query of an address."""


class Address(NamedTuple):
    """Where to post. host, port: to connect to; shown. tls: or not. target: path and query. authorization: a header's
    value, or None."""

    host: str
    port: int
    tls: bool
    target: str
    authorization: str | None

    def __repr__(self) -> str:
        return f"Address({self.shown})"  # the rest may be secret

    @property
    def shown(self) -> str:
        """Host and port, for people and for the header of that name."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"


class Webhook:
    """Posts events, with a few attempts each."""

    name = "webhook"

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address, self._timeout_s, self._stopped = address, timeout_s, threading.Event()
        self._tls = ssl.create_default_context() if address.tls else None
        self.trouble: str | None = None

    def deliver(self, body: bytes) -> None:
        """Post an event; what may pass is tried again for a while. What did not arrive is the trouble until the next
        that does."""
        for wait_s in (*WAITS_S, 0.0):
            if self._stopped.is_set():
                return
            try:
                status = self._post(body)
            # ValueError: reading from what was just shut down
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.trouble = f"{self._address.shown}: {_reason(error)}"
            else:
                if status // 100 == 2:
                    self.trouble = None
                    return
                self.trouble = f"{self._address.shown} answers {_phrase(status)}"
                if status // 100 != 5 and status not in PASSING:
                    break
            if wait_s:
                self._stopped.wait(wait_s)

    def stop(self) -> None:
        """Make no more attempts; one that hangs is left to the end of the program."""
        self._stopped.set()

    def _post(self, body: bytes) -> int:
        """One attempt. Returns the status.

        The time limits of a socket hold for each of its operations. That of the attempt as a whole is held by a timer
        which shuts the connection down, so that a server which sends a byte now and then does not last longer.
        """
        deadline = time.monotonic() + self._timeout_s
        plain = socket.create_connection((self._address.host, self._address.port), timeout=self._timeout_s)
        connected = (
            self._tls.wrap_socket(plain, server_hostname=self._address.host, do_handshake_on_connect=False)
            if self._tls
            else plain
        )
        late = threading.Event()

        def give_up() -> None:
            late.set()
            with suppress(OSError):  # it has ended
                # also of TLS, whose own would change what the other thread uses
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

        timer = threading.Timer(max(0.0, deadline - time.monotonic()), give_up)
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
        if late.is_set():  # a connection shut down within the headers looks like their end
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


def open_webhook(url: str, timeout_s: float, token: str | None) -> Webhook:
    """A webhook; without a token it is that of the environment, if any.

    Raises:
        InputError: no address of HTTP, or a token that cannot be sent.
    """
    return Webhook(read_address(url, token or os.environ.get(TOKEN_VARIABLE) or None), timeout_s)


def read_address(url: str, token: str | None) -> Address:
    """Read an address; errors do not show it.

    Raises:
        InputError: no address of HTTP, or a token that cannot be sent.
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
    return Address(host, port or PORTS[parts.scheme], parts.scheme == "https", target, authorization)


def _authorization(user: str | None, password: str | None, token: str | None) -> str | None:
    if token is not None:
        if user is not None:
            raise InputError("webhook: the address has a user and there is a token too; keep one of them")
        if not token.isascii() or not token.isprintable() or token != token.strip():
            raise InputError(
                f"webhook: the token (of [hook] or {TOKEN_VARIABLE}) holds a blank at an end, a control character or"
                " one that is not ASCII; give it as the server's owner did"
            )
        return f"Bearer {token}"
    if user is None:
        return None
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({printable(error.verify_message)})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return printable(text)


def _phrase(status: int) -> str:
    """A status with the words of the standard, not the server's; for a redirect what to do."""
    words = f"{status} {http.client.responses.get(status, '')}".rstrip()
    return f"{words}: redirects are not followed, give the address it leads to" if status // 100 == 3 else words
