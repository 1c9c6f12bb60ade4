"""Which microphones are there, and which one is meant. No numpy here: the capture process imports this.

An index of PortAudio changes when devices come and go, and a card's number between boots; the identity on the USB
stays.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekd.errors import InputError, MissingExtraError

SOUND_CARDS = Path("/sys/class/sound")
ALSA_ADDRESS = re.compile(r"\(hw:(\d+),(\d+)\)$")
"""How PortAudio ends the name of a sound card's device."""


class Microphone(NamedTuple):
    """An input device. number: of PortAudio, at the moment. name: of PortAudio. alsa: "hw:CARD,DEVICE", or "" where it
    is no card's.

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
        """All that mean exactly this one."""
        address = f"hw:{self.card},{self.alsa.rpartition(',')[2]}" if self.card else ""
        vendor_product = ":".join(self.usb.split(":")[:2])
        return {self.name, self.alsa, address, self.usb, vendor_product} - {""}


class MicrophoneAbsentError(InputError):
    """The microphone is not there now; it may be plugged in later."""


def microphones() -> list[Microphone]:
    """Input devices, as PortAudio found them when it was loaded: another process finds them anew.

    Raises:
        InputError: PortAudio is not installed.
        MissingExtraError: sounddevice is not installed.
    """
    sounddevice = portaudio()
    return described(sounddevice.query_devices(), sounddevice.default.device[0], SOUND_CARDS)


def portaudio() -> Any:
    """The module sounddevice; it has no type information.

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


def described(devices: Sequence[Mapping[str, Any]], default: int, cards: Path) -> list[Microphone]:
    """What PortAudio says of its devices, with what the kernel says of their cards.

    Args:
        devices: as `sounddevice.query_devices` gives them, outputs among them.
        default: index of PortAudio's default input, -1 for none.
        cards: /sys/class/sound.
    """
    if default < 0:  # without a default PortAudio has an input that it lists first
        default = next((i for i, device in enumerate(devices) if device["max_input_channels"]), default)
    found = []
    for index, device in enumerate(devices):
        if not device["max_input_channels"]:
            continue
        match = ALSA_ADDRESS.search(device["name"])
        card = cards / f"card{match[1]}" if match else None
        found.append(
            Microphone(
                index,
                device["name"],
                f"hw:{match[1]},{match[2]}" if match else "",
                _read(card / "id") if card else "",
                _usb_identity(card) if card else "",
                round(device["default_samplerate"]),
                device["max_input_channels"],
                index == default,
            )
        )
    return found


def choose(wanted: str | None, found: Sequence[Microphone]) -> Microphone:
    """The microphone that is meant.

    Args:
        wanted: a USB identity, an ALSA address, a name or a part of one in any case; None takes PortAudio's default.
        found: all that are there.

    Raises:
        MicrophoneAbsentError: it is not there.
        InputError: more than one could be meant.
    """
    if wanted is None:
        matching = [microphone for microphone in found if microphone.default]
    else:
        matching = [microphone for microphone in found if wanted in microphone.names()]
        matching = matching or [microphone for microphone in found if wanted.lower() in microphone.name.lower()]
    what = "no microphone" if wanted is None else f"no microphone {wanted!r}"
    if not found:
        raise MicrophoneAbsentError(
            f"{what}{'' if wanted is None else ' nor any other'} is there; plug one in, which is then found by "
            "itself, or give a --command that writes raw samples (edgekd listen also hears a FILE)"
        )
    if not matching:
        raise MicrophoneAbsentError(f"{what}; there is {', '.join(map(_listed, found))}")
    if len(matching) > 1:
        raise InputError(
            f"{wanted!r} may mean {' or '.join(map(_listed, matching))}; give more of the name, the hw: address or the"
            " USB identity"
        )
    return matching[0]


def to_text(found: Sequence[Microphone]) -> str:
    """A table for people."""
    if not found:
        return "no microphone is there"
    rows = [("", "name", "ALSA", "USB identity", "rate", "channels")]
    rows += [
        ("*" if one.default else "", one.name, one.alsa or "-", one.usb or "-", f"{one.rate} Hz", str(one.channels))
        for one in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _listed(microphone: Microphone) -> str:
    ways = " ".join(way for way in (microphone.alsa, microphone.usb) if way)
    return f"{microphone.name!r}" + (f" ({ways})" if ways else "")


def _usb_identity(card: Path) -> str:
    """Of a card whose device is an interface of a USB device, the folder above; "" for other cards."""
    device = (card / "device").resolve().parent
    parts = [_read(device / name) for name in ("idVendor", "idProduct", "serial")]
    return ":".join(part for part in parts if part) if all(parts[:2]) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # the card went away, or has no such thing
        return ""
