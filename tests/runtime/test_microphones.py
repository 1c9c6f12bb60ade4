"""Which microphone a name means, from the data of PortAudio and the kernel."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.source import microphones as module
from edgekd.runtime.source import sound_cards
from edgekd.runtime.source.microphones import MicrophoneAbsentError, choose, describe, microphones


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


def test_a_name_cannot_move_the_cursor(cards):
    assert describe([device("USB\x1b[2J\r mic (hw:1,0)")], 0, cards)[0].names() >= {
        "USB\\x1b[2J\\r mic (hw:1,0)",
        "hw:1,0",
    }


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


class Machine:
    """The kernel's files of a machine with one sound card."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/asound/cards", " 1 [Device         ]: USB-Audio - USB PnP Sound Device\n     at usb-1.2\n")
        self.write("proc/asound/card1/pcm0c/sub0/status", "closed\n")
        self.write("dev/snd/pcmC1D0c", "")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def open_by(self, process: int) -> None:
        self.write(
            "proc/asound/card1/pcm0c/sub0/status", f"state: RUNNING\nowner_pid   : {process}\ntrigger_time: 1.5\n"
        )


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    """A machine on which PortAudio lists no microphone."""
    monkeypatch.setattr(module, "microphones", list)
    monkeypatch.setattr(sound_cards, "ROOT", tmp_path)
    return Machine(tmp_path)


def no_cards(machine: Machine) -> None:
    machine.write("proc/asound/cards", "--- no soundcards ---\n")


def no_alsa(machine: Machine) -> None:
    shutil.rmtree(machine.root / "proc/asound")


def an_output_alone(machine: Machine) -> None:
    (machine.root / "proc/asound/card1/pcm0c").rename(machine.root / "proc/asound/card1/pcm0p")


def a_container(machine: Machine) -> None:
    shutil.rmtree(machine.root / "dev/snd")


def a_program(machine: Machine) -> None:
    machine.open_by(77)
    machine.write("proc/77/comm", "arecord\x1b[2J\n")
    machine.write("proc/77/cgroup", "0::/user.slice/user-1000.slice/session-1.scope\n")


def the_service(machine: Machine) -> None:
    machine.open_by(77)
    machine.write("proc/77/comm", "python\n")
    machine.write("proc/77/cgroup", "0::/system.slice/edgekd.service\n")


def somebody_unseen(machine: Machine) -> None:
    machine.open_by(0)


def perhaps_the_service(machine: Machine) -> None:
    machine.open_by(0)
    machine.write("sys/fs/cgroup/system.slice/edgekd.service/cgroup.procs", "77\n")


def nothing_else(_: Machine) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_cards, ["no sound card at all", "plug"]),
        (no_alsa, ["no sound card at all"]),
        (an_output_alone, ["no sound card has an input", "Device"]),
        (a_container, ["Device", "--device /dev/snd"]),
        (a_program, ["Device is in use by arecord\\x1b[2J (process 77)"]),
        (the_service, ["Device is in use by edgekd.service", "sudo systemctl stop edgekd"]),
        (somebody_unseen, ["Device is in use by another process"]),
        (perhaps_the_service, ["Device is in use, perhaps by edgekd.service", "sudo systemctl stop edgekd"]),
        (nothing_else, ["Device", "PortAudio does not list it"]),
    ],
)
def test_without_microphones_it_is_told_why(machine, edgekd, change, words):
    change(machine)
    status, out, err = edgekd("mics")
    assert (status, err) == (0, "")
    assert out.startswith("no microphone is there; ")
    assert out.count("\n") == 1
    assert edgekd("mics", "--json") == (0, "", f"edgekd: {out}")
    with pytest.raises(MicrophoneAbsentError) as caught:
        choose(None, [])
    for word in words:
        assert word in out
        assert word in str(caught.value)


def test_a_card_that_may_not_be_opened_names_the_group(machine, edgekd, monkeypatch):
    monkeypatch.setattr(sound_cards.os, "access", lambda *_: False)  # these tests may run as root, who may open all
    group = (machine.root / "dev/snd/pcmC1D0c").group()
    out = edgekd("mics")[1]
    assert f"you may not open {machine.root / 'dev/snd/pcmC1D0c'} (group {group})" in out
    assert f"sudo usermod -aG {group} USER" in out


def test_a_microphone_that_is_not_listed_because_it_is_in_use_is_told_too(machine, cards):
    others = describe(DEVICES[4:], 0, cards)
    with pytest.raises(MicrophoneAbsentError, match=r"'USB'; there is 'pulse'$"):
        choose("USB", others)
    a_program(machine)
    with pytest.raises(MicrophoneAbsentError, match=r"'USB'; there is 'pulse'; card Device is in use by arecord"):
        choose("USB", others)


def test_on_another_system_it_is_just_absent(machine, edgekd):
    shutil.rmtree(machine.root / "proc")
    assert edgekd("mics")[1] == "no microphone is there\n"
    with pytest.raises(MicrophoneAbsentError, match="plug one in"):
        choose(None, [])
