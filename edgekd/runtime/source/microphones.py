"""Lists microphones and finds the one that a name means. No numpy here: the capture process imports this.

PortAudio's index changes when devices come and go, and a card's number changes between boots. The USB identity stays.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.source.sound_cards import hindrance, why_absent
from edgekd.text import columns, printable

SOUND_CARDS = Path("/sys/class/sound")
ALSA_ADDRESS = re.compile(r"\(hw:(\d+),(\d+)\)$")
"""How PortAudio ends the name of a sound card's device."""


class InputDevice(NamedTuple):
    """An input device of PortAudio.

    number: its index at the moment. name: in PortAudio. alsa: "hw:CARD,DEVICE", or "" where it is not a sound card's.
    card: the card's name in ALSA, which stays when its number changes, or "". usb: "VENDOR:PRODUCT:SERIAL"
    ("VENDOR:PRODUCT" without a serial number), or "". rate: native, Hz. channels: at most. default: whether PortAudio
    takes it when none is named.
    """

    number: int
    name: str
    alsa: str
    card: str
    usb: str
    rate: int
    channels: int
    default: bool

    def names(self) -> set[str]:
        """All names that mean exactly this device."""
        address = f"hw:{self.card},{self.alsa.rpartition(',')[2]}" if self.card else ""
        vendor_product = ":".join(self.usb.split(":")[:2])
        return {self.name, self.alsa, address, self.usb, vendor_product} - {""}


class MicrophoneAbsentError(InputError):
    """The microphone is not there now; it may be plugged in later."""


def microphones() -> list[InputDevice]:
    """Input devices, as PortAudio found them when it was loaded. Only a new process finds later ones.

    Raises:
        InputError: PortAudio is not installed.
        MissingExtraError: sounddevice is not installed.
    """
    sounddevice = portaudio()
    return describe(sounddevice.query_devices(), sounddevice.default.device[0], SOUND_CARDS)


def portaudio() -> Any:
    """The module sounddevice, which has no type information.

    Raises:
        InputError: PortAudio is not installed.
        MissingExtraError: sounddevice is not installed.
    """
    try:
        import sounddevice
    except ImportError:
        raise MissingExtraError("sounddevice (which a microphone needs)", "mic") from None
    except OSError as error:
        raise InputError(
            f"sounddevice finds no PortAudio ({error}); install it with: sudo apt install libportaudio2"
        ) from None
    return sounddevice


def describe(devices: Sequence[Mapping[str, Any]], default: int, cards: Path) -> list[InputDevice]:
    """Input devices from PortAudio's list and the kernel's data about their cards.

    Args:
        devices: as `sounddevice.query_devices` returns them, including outputs.
        default: index of PortAudio's default input, -1 for none.
        cards: /sys/class/sound.
    """
    if default < 0:  # without a default, PortAudio's first input is the default
        default = next((i for i, device in enumerate(devices) if device["max_input_channels"]), default)
    found = []
    for index, device in enumerate(devices):
        if not device["max_input_channels"]:
            continue
        match = ALSA_ADDRESS.search(device["name"])
        card = cards / f"card{match[1]}" if match else None
        found.append(
            InputDevice(
                index,
                printable(device["name"]),  # a USB device gives itself any name
                f"hw:{match[1]},{match[2]}" if match else "",
                _read(card / "id") if card else "",
                _usb_identity(card) if card else "",
                round(device["default_samplerate"]),
                device["max_input_channels"],
                index == default,
            )
        )
    return found


def choose(wanted: str | None, found: Sequence[InputDevice]) -> InputDevice:
    """The microphone that a name means.

    Args:
        wanted: a USB identity, an ALSA address, a name or a part of one in any case; None for PortAudio's default.
        found: all microphones.

    Raises:
        MicrophoneAbsentError: it is not there.
        InputError: more than one matches.
    """
    if wanted is None:
        matching = [microphone for microphone in found if microphone.default]
    else:
        matching = [microphone for microphone in found if wanted in microphone.names()]
        matching = matching or [microphone for microphone in found if wanted.lower() in microphone.name.lower()]
    what = "no microphone" if wanted is None else f"no microphone {wanted!r}"
    if not found:
        why = why_absent() or "plug one in, which is then found by itself"
        raise MicrophoneAbsentError(
            f"{what}{'' if wanted is None else ' nor any other'} is there; {why}; or give a --command that writes raw"
            " samples (edgekd listen also takes a FILE)"
        )
    if not matching:
        there = f"there is {', '.join(map(_description, found))}"
        raise MicrophoneAbsentError("; ".join(filter(None, (what, there, hindrance()))))
    if len(matching) > 1:
        raise InputError(
            f"{wanted!r} may mean {' or '.join(map(_description, matching))}; give more of the name, the hw:"
            " address or the USB identity"
        )
    return matching[0]


def to_text(found: Sequence[InputDevice]) -> str:
    """A table for people."""
    if not found:
        return "; ".join(filter(None, ("no microphone is there", why_absent())))
    header = ("", "name", "ALSA", "USB identity", "rate", "channels")
    rows = [
        ("*" if one.default else "", one.name, one.alsa or "-", one.usb or "-", f"{one.rate} Hz", str(one.channels))
        for one in found
    ]
    return "\n".join(columns(header, rows, left=len(header)))


def _description(microphone: InputDevice) -> str:
    """Name and addresses, for errors."""
    addresses = " ".join(address for address in (microphone.alsa, microphone.usb) if address)
    return f"{microphone.name!r}" + (f" ({addresses})" if addresses else "")


def _usb_identity(card: Path) -> str:
    """USB identity of a card: its device is an interface of the USB device in the folder above. "" for other cards."""
    device = (card / "device").resolve().parent
    parts = [_read(device / name) for name in ("idVendor", "idProduct", "serial")]
    return ":".join(part for part in parts if part) if all(parts[:2]) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # the card went away, or has no such file
        return ""
