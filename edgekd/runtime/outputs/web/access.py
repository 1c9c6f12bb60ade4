"""Who may read the web output: its address, the token, and the host names that requests may use."""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edgekd.errors import InputError
from edgekd.runtime.config_tables import WebTable

TOKEN_VARIABLE = "EDGEKD_WEB_TOKEN"
LOOPBACK = "127.0.0.1"
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
MIN_TOKEN = 8
"""Characters."""

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_NUMBERS = re.compile(r"[0-9.]+")
_TOKEN = re.compile(rf"[!-~]{{{MIN_TOKEN},256}}")


class ListenAddress(NamedTuple):
    """Where to listen. host: a name or an IP address. port: 0 lets the system choose, in tests."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOCAL_NAMES or ((literal := _literal(self.host)) is not None and literal.is_loopback)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> ListenAddress:
    """Parse [HOST]:PORT. Without a host, only this machine can connect.

    Raises:
        InputError: malformed.
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    literal = _literal(bare)
    is_valid = (
        not host
        or (literal is not None and (literal.version == 4) == (bare == host))
        or (bare == host and _HOST.fullmatch(host) is not None and _NUMBERS.fullmatch(host) is None)
    )
    if not (colon and is_valid and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise InputError(
            f"web: '{text}' is not an address; give [HOST]:PORT with a port of 1 to 65535, for instance :8080 for this"
            " machine alone, 0.0.0.0:8080 for every machine that can reach it, or [::]:8080"
        )
    return ListenAddress(bare or LOOPBACK, int(port))


def read_token(table: WebTable, environment: Mapping[str, str] | None = None) -> str | None:
    """The token of the environment, the configuration or its file; None where there is none. No error shows it.

    Raises:
        InputError: two tokens, a file that cannot be read, a token that is too short or cannot be typed.
    """
    environment = os.environ if environment is None else environment
    if table.token is not None and table.token_file is not None:
        raise InputError("[web]: token and token_file are both given; keep one of them")
    token, where = table.token, "web.token"
    if TOKEN_VARIABLE in environment:
        token, where = environment[TOKEN_VARIABLE], TOKEN_VARIABLE
    elif table.token_file is not None:
        where = table.token_file
        try:
            token = Path(table.token_file).read_text().strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InputError(f"web.token_file: {where} cannot be read ({reason}); give a readable file") from None
    if token is not None and _TOKEN.fullmatch(token) is None:
        raise InputError(
            f"{where}: the token must have {MIN_TOKEN} to 256 letters, digits or signs and no spaces; make one with "
            "'openssl rand -hex 16'"
        )
    return token


def warning(table: WebTable) -> str | None:
    """The warning to print before the first decision, if any.

    Raises:
        InputError: see `parse_address` and `read_token`.
    """
    address = parse_address(table.address)
    if address.is_local or read_token(table) is not None:
        return None
    return (
        f"web: everyone who can reach {address} sees the decisions; set {TOKEN_VARIABLE} or web.token_file to ask"
        f" for a token, or listen on :{address.port} alone"
    )


class Access:
    """Decides whether a request may read. With a token, only a request with the token may. Without a token, only a
    request that uses a host name of this machine may: the page of another site may lead its own name here (DNS
    rebinding)."""

    def __init__(self, address: ListenAddress, token: str | None, hosts: tuple[str, ...] = ()) -> None:
        """hosts: further host names that requests may use."""
        self._token = token
        self._any_address = not address.is_local
        own = socket.gethostname().lower()
        self._names = {*LOCAL_NAMES, address.host.lower(), *(host.lower() for host in hosts)}
        self._names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"} if self._any_address else set()
        self.cookie_name = f"edgekd_{address.port}"
        self.cookie = "" if token is None else _derived(token)

    def allows_host(self, host: str) -> bool:
        """Whether a request with this `Host` header may be answered, or one of a page with this `Origin`."""
        if self._token is not None:
            return True
        host = host.rpartition("//")[2]
        name = (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]).rstrip(".").lower()
        return name in self._names or (self._any_address and _literal(name) is not None)

    def is_token(self, token: str) -> bool:
        """Whether this is the token. Takes the same time for every wrong one."""
        if self._token is None:
            return False
        import hmac

        return hmac.compare_digest(token.encode(), self._token.encode())

    def is_authorized(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (names in lower case) may read."""
        if self._token is None:
            return True
        import hmac

        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.is_token(given.strip())
        for pair in headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.cookie_name:
                return hmac.compare_digest(value.encode(), self.cookie.encode())
        return False


def _derived(token: str) -> str:
    """The value of the cookie, which a browser keeps instead of the token; the same after a restart."""
    import hmac

    return hmac.new(token.encode(), b"edgekd web page", "sha256").hexdigest()


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
