"""Where the web output listens and who may read it: addresses, the token, the names by which a browser may ask."""

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


class Address(NamedTuple):
    """Where to listen. host: a name or an IP address. port: 0 lets the system choose, in tests."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether this machine alone can reach it."""
        return self.host in LOCAL_NAMES or ((literal := _literal(self.host)) is not None and literal.is_loopback)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """[HOST]:PORT as an address; without a host that of this machine alone.

    Raises:
        InputError: no such thing.
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    literal = _literal(bare)
    good = (
        not host
        or (literal is not None and (literal.version == 4) == (bare == host))
        or (bare == host and _HOST.fullmatch(host) is not None and _NUMBERS.fullmatch(host) is None)
    )
    if not (colon and good and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise InputError(
            f"web: '{text}' is no address; give [HOST]:PORT with a port of 1 to 65535, for instance :8080 for this"
            " machine alone, 0.0.0.0:8080 for all that reach it, or [::]:8080"
        )
    return Address(bare or LOOPBACK, int(port))


def read_token(table: WebTable, environment: Mapping[str, str] | None = None) -> str | None:
    """The token of the environment, a configuration or its file; None where there is none. It is in no error.

    Raises:
        InputError: two of them, a file that cannot be read, a token that is too short or cannot be typed.
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
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InputError(f"web.token_file: {where} cannot be read ({reason}); give a readable file") from None
    if token is not None and _TOKEN.fullmatch(token) is None:
        raise InputError(
            f"{where}: the token must have {MIN_TOKEN} to 256 letters, digits or signs and no spaces; make one with "
            "'openssl rand -hex 16'"
        )
    return token


def warning(table: WebTable) -> str | None:
    """What to say before the first decision, if anything.

    Raises:
        InputError: see `parse_address` and `read_token`.
    """
    address = parse_address(table.address)
    if address.is_local or read_token(table) is not None:
        return None
    return (
        f"web: everyone who can reach {address} sees what is heard here; set {TOKEN_VARIABLE} or web.token_file to ask"
        f" for a token, or listen on :{address.port} alone"
    )


class Access:
    """Judges requests. With a token, who has it may read; without, whoever asks by a name of this machine: a page of
    another site that has its own name lead here (DNS rebinding) may not."""

    def __init__(self, address: Address, token: str | None, hosts: tuple[str, ...] = ()) -> None:
        """hosts: further names by which a browser may ask."""
        self._token = token
        self._any_address = not address.is_local
        own = socket.gethostname().lower()
        self._names = {*LOCAL_NAMES, address.host.lower(), *(host.lower() for host in hosts)}
        self._names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"} if self._any_address else set()
        self.cookie_name = f"edgekd_{address.port}"
        self.cookie = "" if token is None else _derived(token)

    def knows(self, host: str) -> bool:
        """Whether a request with this `Host` header means us."""
        if self._token is not None:
            return True
        name = (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]).rstrip(".").lower()
        return name in self._names or (self._any_address and _literal(name) is not None)

    def accepts(self, token: str) -> bool:
        """Whether this is the token; takes the same time for any that is not."""
        if self._token is None:
            return False
        import hmac

        return hmac.compare_digest(token.encode(), self._token.encode())

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (lower case) may read."""
        if self._token is None:
            return True
        import hmac

        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.accepts(given.strip())
        for pair in headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.cookie_name:
                return hmac.compare_digest(value.encode(), self.cookie.encode())
        return False


def _derived(token: str) -> str:
    """What a browser keeps instead of the token itself; the same after a restart."""
    import hmac

    return hmac.new(token.encode(), b"edgekd web page", "sha256").hexdigest()


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
