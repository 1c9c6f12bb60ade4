"""Why PortAudio lists no microphone, or not the one that is wanted: what the kernel tells about the sound cards. No
numpy here: the capture process imports this."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from edgekd.text import printable

ROOT = Path("/")
LISTENER_UNIT = "edgekd.service"
CARD = re.compile(r"^ *(\d+) \[([^\]]+?) *\]", re.MULTILINE)
"""A card in /proc/asound/cards: number and name."""
OWNER = re.compile(r"^owner_pid\s*: (\d+)$", re.MULTILINE)
"""In the status of a substream that is open."""
SERVICE = re.compile(r"/([^/\s]+\.service)(?:/|$)", re.MULTILINE)
"""In the control group of a process that systemd started as a service."""


class _Input(NamedTuple):
    """An input of a sound card. card: its number. name: of the card. device: number of the input."""

    card: int
    name: str
    device: int


def why_absent(root: Path | None = None) -> str:
    """Why no microphone is listed, and what to do; "" where the system does not tell. root: of the file system."""
    root = root or ROOT
    if not (root / "proc").is_dir():  # another system than Linux
        return ""
    cards = _cards(root)
    if not cards:
        return "there is no sound card at all; plug a microphone in, which is then found by itself"
    if not _inputs(root):
        return (
            f"no sound card has an input (there is {', '.join(cards.values())}); plug a microphone in, which is then"
            " found by itself, or switch the driver of the one on the board on"
        )
    inputs = ", ".join(dict.fromkeys(one.name for one in _inputs(root)))
    return hindrance(root=root) or f"there is a card with an input ({inputs}), but PortAudio does not list it"


def hindrance(alsa: str = "", root: Path | None = None) -> str:
    """What keeps inputs of sound cards from being opened, and what to do; "" for nothing.

    Args:
        alsa: "hw:CARD,DEVICE" of one input; "" for all of them.
        root: of the file system.
    """
    root = root or ROOT
    found = (_hindrance(one, root) for one in _inputs(root) if alsa in ("", f"hw:{one.card},{one.device}"))
    return "; ".join(dict.fromkeys(filter(None, found)))


def _hindrance(one: _Input, root: Path) -> str:
    node = root / f"dev/snd/pcmC{one.card}D{one.device}c"
    if not node.exists():
        return f"card {one.name} is there and {node} is not; give /dev/snd to the container (--device /dev/snd)"
    if not os.access(node, os.R_OK | os.W_OK):
        return (
            f"card {one.name} is there, but you may not open {node} (group {_group(node)}); sudo usermod -aG"
            f" {_group(node)} USER, then log in again"
        )
    status = _text(root / f"proc/asound/card{one.card}/pcm{one.device}c/sub0/status")
    if not status or status.startswith("closed"):
        return ""
    return f"card {one.name} is in use{_user(OWNER.search(status), root)}"


def _user(owner: re.Match[str] | None, root: Path) -> str:
    """Who has opened an input. owner: of it."""
    process = root / "proc" / (owner[1] if owner is not None else "0")
    unit = SERVICE.search(_text(process / "cgroup"))
    if unit is not None:
        return f" by {unit[1]}; sudo systemctl stop {unit[1].removesuffix('.service')}"
    program = printable(_text(process / "comm"))  # a process gives itself any name
    if program:
        return f" by {program} (process {process.name}), which must end first"
    if _text(root / "sys/fs/cgroup/system.slice" / LISTENER_UNIT / "cgroup.procs"):
        return f", perhaps by {LISTENER_UNIT}; sudo systemctl stop {LISTENER_UNIT.removesuffix('.service')}"
    return " by another process"


def _cards(root: Path) -> dict[int, str]:
    """Number -> name of each sound card."""
    return {int(number): name for number, name in CARD.findall(_text(root / "proc/asound/cards"))}


def _inputs(root: Path) -> list[_Input]:
    return [
        _Input(card, name, int(folder.name[3:-1]))
        for card, name in _cards(root).items()
        for folder in sorted((root / f"proc/asound/card{card}").glob("pcm*c"))
    ]


def _group(path: Path) -> str:
    try:
        return path.group()
    except (OSError, KeyError):
        return "audio"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # it went away, or this system has no such file
        return ""
