"""Which microphone a name means, from the data of PortAudio and the kernel."""

import json
import sys
from pathlib import Path

import pytest

from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.source import microphones as module
from edgekd.runtime.source.microphones import MicrophoneAbsentError, choose, describe, microphones, to_text


def device(name: str, channels: int = 1, rate: float = 48000.0) -> dict:
    return {"name": name, "max_input_channels": channels, "default_samplerate": rate}


DEVICES = [
    device("HDMI: (hw:0,3)", channels=0),
    device("USB PnP Sound Device: Audio (hw:1,0)"),
    device("USB PnP Sound Device: Audio (hw:2,0)"),
    device("snd_rpi_i2s: - (hw:3,0)", channels=2),
    device("pulse", channels=32, rate=44100.0),
]


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """/sys/class/sound with two USB microphones, one without a serial number, and a card that is no USB device."""
    for number, (name, files) in enumerate(
        {
            "HDMI": {},
            "Device": {"idVendor": "0d8c", "idProduct": "0014", "serial": "A1"},
            "Device_1": {"idVendor": "0d8c", "idProduct": "0013"},
            "sndrpii2s": {},
        }.items()
    ):
        usb = tmp_path / "devices" / f"1-{number}"
        interface = usb / f"1-{number}:1.0"
        interface.mkdir(parents=True)
        for file, text in files.items():
            (usb / file).write_text(text + "\n")
        card = tmp_path / "sound" / f"card{number}"
        card.mkdir(parents=True)
        (card / "id").write_text(name + "\n")
        (card / "device").symlink_to(interface)
    return tmp_path / "sound"


def test_inputs_are_described_by_all_their_names(cards):
    found = describe(DEVICES, 4, cards)
    assert [one.number for one in found] == [1, 2, 3, 4]
    assert found[0] == (1, "USB PnP Sound Device: Audio (hw:1,0)", "hw:1,0", "Device", "0d8c:0014:A1", 48000, 1, False)
    assert [one.usb for one in found[1:]] == ["0d8c:0013", "", ""]
    assert found[3] == (4, "pulse", "", "", "", 44100, 32, True)


def test_without_a_default_it_is_the_first_input(cards):
    assert [one.default for one in describe(DEVICES, -1, cards)] == [True, False, False, False]
    assert describe(DEVICES[:1], -1, cards) == []


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        (None, 4),
        ("0d8c:0014:A1", 1),
        ("0d8c:0014", 1),
        ("0d8c:0013", 2),
        ("hw:2,0", 2),
        ("hw:Device,0", 1),
        ("hw:Device_1,0", 2),
        ("I2S", 3),
        ("pulse", 4),
        ("(hw:1,0)", 1),
    ],
)
def test_one_is_chosen_by_identity_address_or_name(cards, wanted, number):
    assert choose(wanted, describe(DEVICES, 4, cards)).number == number


def test_two_that_may_be_meant_are_listed(cards):
    with pytest.raises(
        InputError,
        match=r"'usb pnp' .*0014:A1\) .*:0013\)",
    ):
        choose("usb pnp", describe(DEVICES, 4, cards))


@pytest.mark.parametrize("wanted", ["0d8c:9999", "hw:7,0", "yeti"])
def test_absence_lists_what_is_there(cards, wanted):
    with pytest.raises(MicrophoneAbsentError, match=f"'{wanted}'; .*'USB PnP .*'pulse'$"):
        choose(wanted, describe(DEVICES, 4, cards))
    with pytest.raises(MicrophoneAbsentError, match=r"^no microphone .*--command .* FILE"):
        choose(None, [])


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"sounddevice .*'edgekd\[mic\]'"):
        microphones()


def test_command_prints_a_table_or_one_json_object_a_line(cards, edgekd, monkeypatch):
    found = describe(DEVICES, 4, cards)
    monkeypatch.setattr(module, "microphones", lambda: found)
    rows = [line.split() for line in edgekd("mics")[1].splitlines()]
    assert rows[0] == ["name", "ALSA", "USB", "identity", "rate", "channels"]
    assert rows[1][-5:] == ["hw:1,0", "0d8c:0014:A1", "48000", "Hz", "1"]
    assert rows[4][0] == "*"
    lines = [json.loads(line) for line in edgekd("mics", "--json")[1].splitlines()]
    assert lines == [one._asdict() for one in found]


def test_command_reports_that_there_is_no_microphone(monkeypatch, edgekd):
    monkeypatch.setattr(module, "microphones", list)
    assert edgekd("mics")[1] == to_text([]) + "\n" == "no microphone is there\n"
    assert edgekd("mics", "--json") == (0, "", "")
