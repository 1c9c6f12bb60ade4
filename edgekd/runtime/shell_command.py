"""What a shell command of the configuration inherits, and what may be shown of it and of its standard error.

A command may hold passwords: in an address, after an option, in an assignment. So its program and its hosts alone are
shown, and what its standard error repeats of it is masked. Imports nothing of size: the capture process uses it.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from edgekd.text import short_line

KEPT_STDERR_BYTES = 1 << 12
"""How many of the last bytes of a command's standard error are kept."""
MASK = "***"
CREDENTIAL = re.compile(r"EDGEKD_.*(PASSWORD|TOKEN|USERNAME).*")
"""Environment variables that edgekd itself reads and no command gets."""
ADDRESS = re.compile(r"([a-z][\w+.-]*://)([^\s/?#\"'<>]*@)?(\[[\da-f:.]+\]|[\w.-]*)([^\s\"'<>]*)", re.IGNORECASE)
"""Scheme, user and password, host, and all the rest."""
PORT = re.compile(r":(\d{1,5}(/[^@?]*)?([?#].*)?)?[:.,;)]*$")
"""What may follow a host and begins with a colon."""
SECRET_NAME = re.compile(r"pass|pw|secret|token|key|auth|cred|user|login|pin|cookie|^-[aHkpPuU]$", re.IGNORECASE)
"""In the name of an option, variable or parameter whose value is not shown."""
NAMED_SECRET = re.compile(
    r"([\w-]*(?:pass|pwd|pw|secret|token|key|auth|cred)[\w-]*=|\b(?:bearer|basic|digest) +)[^\s&;,\"']+", re.IGNORECASE
)
"""A secret that a program shows and that the command does not hold."""
ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)
PROGRAM = re.compile(r"[\w.+-]{1,64}")
PIECES = re.compile(r"[^\s\"'`/=:@?&;,#|()<>]+")
PLAIN = re.compile(r"-*[a-z_.:-]*|.{0,3}")
"""Words that may stand in a message: an option, a word of a language, a small number."""
MIN_SECRET = 3
"""Characters. Shorter secrets are not masked in a message."""


class _Command(NamedTuple):
    """Words of a command after the shell's quotes, and the first of them that is neither an assignment nor exec."""

    words: tuple[str, ...]
    program: str


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that a command gets."""
    return {name: value for name, value in environment.items() if not CREDENTIAL.fullmatch(name)}


def shown_command(command: str) -> str:
    """The program of a command and the hosts of its addresses: "ffmpeg (cam.lan)"."""
    name = _parsed(command).program.rpartition("/")[2]
    hosts = dict.fromkeys(host for address in ADDRESS.finditer(command) if (host := _host(address)) not in ("", MASK))
    return (name if PROGRAM.fullmatch(name) else "a command") + (f" ({', '.join(hosts)})" if hosts else "")


def last_line(stderr: bytes, command: str) -> str:
    """The last line of a command's standard error that has text, safe to print, short, and without what may be a
    secret; "" for none.

    Args:
        stderr: its end. A carriage return ends a line too, as in a display of progress.
        command: as given.
    """
    if len(stderr) >= KEPT_STDERR_BYTES:  # it may begin inside a word, which may be a secret
        stderr = stderr.partition(b" ")[2] or stderr
    lines = stderr.decode(errors="replace").replace("\r", "\n").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return short_line(_masked(last, command))


def _masked(text: str, command: str) -> str:
    """`text` without the secrets that `command` may hold, and without what looks like one."""
    text = NAMED_SECRET.sub(rf"\1{MASK}", ADDRESS.sub(_short_address, text))
    secrets = sorted(_secrets(command), key=len, reverse=True)
    if not secrets:
        return text
    return re.sub(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, secrets))})(?![^\W_])", MASK, text)


def _short_address(address: re.Match[str]) -> str:
    """Scheme and host of an address, and the punctuation behind it."""
    rest = address[4]
    return address[1] + _host(address) + rest[len(rest.rstrip(":.,;)")) :]


def _host(address: re.Match[str]) -> str:
    """The host of an address. A user and a password that holds a slash look like a host and a port."""
    return MASK if address[4].startswith(":") and not PORT.match(address[4]) else address[3]


def _secrets(command: str) -> set[str]:
    """All that is not shown of a command: what an address holds beyond its host, what follows the name of a secret, and
    words that are not plain."""
    found: set[str] = set()
    shown: set[str] = {MASK}
    for text in {command, os.path.expandvars(command)}:
        parsed = _parsed(text)
        shown |= {parsed.program, *PIECES.findall(parsed.program)}
        before = ""
        for word in parsed.words:
            name, equals, value = word.partition("=")
            address = ADDRESS.search(word)
            if address is not None:
                found |= set(_parts(address[2] or "")) | set(_parts(address[4]))
                shown |= {address[3], address[1].removesuffix("://")}
            elif SECRET_NAME.search(before) and before.startswith("-"):
                found |= set(_parts(word))
            elif equals and SECRET_NAME.search(name):
                found |= set(_parts(value))
            found |= {part for part in (*_parts(word), word[2:]) if not PLAIN.fullmatch(part)}
            before = "" if equals else word
    return {part for part in found if len(part) >= MIN_SECRET} - shown


def _parts(text: str) -> Iterator[str]:
    """A text, its pieces, and both as an address would quote them."""
    for part in (text, *PIECES.findall(text)):
        yield part
        yield unquote(part)


def _parsed(command: str) -> _Command:
    try:
        words = shlex.split(command)
    except ValueError:  # quotes that do not match
        words = command.split()
    program = next((word for word in words if word != "exec" and not ASSIGNMENT.fullmatch(word)), "")
    inner = (part.strip("\"'`();|&<>") for word in words if word.split() != [word] for part in word.split())
    return _Command((*words, *inner), program.rstrip(";&|"))
