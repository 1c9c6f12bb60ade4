"""`edgekd listen --command` on commands that hold secrets, fail, print without end, or write something else than raw
samples."""

import gc
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime.toy_listener import raw, tone

from edgekd.runtime.decision import to_json

SECRET = "S3cret77"


@pytest.fixture
def lines_of(listen_command, monkeypatch, tmp_path):
    """The JSON lines of `edgekd listen --command` until its source is healthy for the second time, or to a line with
    the text `until`."""

    def run(command: str, *arguments: str, until: str = "") -> list[str]:
        (tmp_path / "a.raw").write_bytes(raw(tone(16000)))
        lines = []

        def stop(line):
            lines.append(to_json(line))
            if sum("listening to" in line for line in lines) == 2 or (until and until in lines[-1]):
                raise KeyboardInterrupt
            return lines[-1]

        monkeypatch.setattr("edgekd.runtime.program.to_json", stop)
        listen_command("--model", "m.tflite", "--json", "--command", command, *arguments)
        gc.collect()  # the interrupted listener ends here, and not in its own thread
        return lines

    return run


def program(folder: Path, stderr: str, name: str = "camera") -> str:
    """A program that writes a second of sound, then to standard error, and fails."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat {folder / 'a.raw'}\n{stderr} >&2\nexit 3\n")
    path.chmod(0o755)
    return str(path)


def reasons(lines: list[str]) -> list[str]:
    return [json.loads(line)["reason"] for line in lines if "reason" in line]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (f"-i 'http://cam.lan:80/live?user=me&password={SECRET}' -f s16le -", "camera (cam.lan)"),
        (f"-i rtsp://me:{SECRET}@cam.lan:554/{SECRET}x/1 -", "camera (cam.lan)"),
        (f"-i rtsp://me:S3/{SECRET}@cam.lan/1", "camera"),
        (f"--pass {SECRET}", "camera"),
        ("--pass geheim", "camera"),
        (f"--pass='{SECRET} geheim'", "camera"),
        (f"-i 'rtmp://box/app/{SECRET} live=1 pubPasswd={SECRET}geheim'", "camera (box)"),
        (f"-i 'rtmp://me:{SECRET}@[fd00::1]:1935/app'", "camera ([fd00::1])"),
        ("-k $CAMERA_WORD", "camera"),
    ],
)
def test_no_secret_of_a_command_is_in_a_line_or_in_the_history(
    lines_of, tmp_path, edgekd, monkeypatch, arguments, shown
):
    monkeypatch.setenv("CAMERA_WORD", SECRET)
    history = tmp_path / "history.sqlite"
    camera = program(tmp_path, 'echo "no" "$@"')
    lines = lines_of(f"HOME={SECRET} exec {camera} {arguments}", "--history", str(history))
    _, past, _ = edgekd("history", history, "--json")
    for word in (SECRET, "geheim", "password=S"):
        assert word not in "".join(lines) + past
    assert reasons(lines)[0] == f"listening to {shown} at 16000 Hz, 1 channel"
    assert reasons(lines)[1].startswith("the command ended with status 3: no -")


def test_a_reason_keeps_the_words_that_are_no_secret(lines_of, tmp_path):
    stderr = "echo 'http://other.lan/x?token=abc123def: cannot open audio device (Device or resource busy)'"
    found = reasons(lines_of(f"{program(tmp_path, stderr)} -loglevel error --device cards"))
    assert found[1] == (
        "the command ended with status 3: http://other.lan: cannot open audio device (Device or resource busy)"
    )


def test_a_command_does_not_inherit_what_edgekd_reads(lines_of, tmp_path, monkeypatch):
    hidden = ("EDGEKD_MQTT_USERNAME", "EDGEKD_MQTT_PASSWORD", "EDGEKD_WEB_TOKEN", "EDGEKD_WEBHOOK_TOKEN")
    for name in (*hidden, "EDGEKD_PLACE"):
        monkeypatch.setenv(name, SECRET)
    lines_of(f"env > {tmp_path / 'env'}; cat {tmp_path / 'a.raw'}")
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert "EDGEKD_PLACE" in names
    assert not names & set(hidden)


@pytest.mark.parametrize(
    ("stderr", "end"),
    [
        ("printf 'size= 1kB time=1\\rsize= 2kB time=2\\r'", "size= 2kB time=2"),
        ("printf 'no \\033[31mlamp\\a\\n\\n'", "no \\x1b[31mlamp\\x07"),
        ("printf 'wait\\n%01000d' 0", "0" * 117 + "..."),
        ("{ sleep 9 & echo left >&2; }", "left"),
    ],
)
def test_the_reason_is_the_last_line_short_and_printable(lines_of, tmp_path, stderr, end):
    assert reasons(lines_of(program(tmp_path, stderr)))[1] == f"the command ended with status 3: {end}"


FORMATS = {
    ".wav": lambda values: b"RIFF" + values.tobytes(),
    ".flac": lambda values: b"fLaC" + values.tobytes(),
    ".au": lambda values: b".snd" + values.tobytes(),
    ".caf": lambda values: b"caff" + values.tobytes(),
    "32-bit": lambda values: (values.astype("<i4") << 16).tobytes(),
    "32-bit float": lambda values: (values / 32768).astype("<f4").tobytes(),
    "64-bit float": lambda values: (values / 32768).astype("<f8").tobytes(),
    "big-endian": lambda values: values.astype(">i2").tobytes(),
}


def noise() -> np.ndarray:
    """Two seconds of sound, with a start of silence."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.zeros(3000), rng.standard_normal(32000) * 500]).astype(np.int16)


@pytest.mark.parametrize("name", FORMATS)
def test_a_command_or_a_pipe_of_another_format_is_refused(listen_command, tmp_path, name):
    data = FORMATS[name](noise())
    (tmp_path / "a").write_bytes(data)
    for arguments, stdin in ((["--command", f"cat {tmp_path / 'a'}; sleep 60"], b""), (["-"], data)):
        status, out, err = listen_command("--model", "m.tflite", "--json", *arguments, stdin=stdin)
        assert (status, out) == (2, "")
        assert f" a {name} file" in err if name.startswith(".") else f" {name} samples" in err
        assert "S16_LE" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("level", [1.0, 30.0, 3000.0, 30000.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_signed_16_bit_samples_of_any_level_are_taken(edgekd, tmp_path, level, channels):
    rng = np.random.default_rng(1)
    values = np.clip(rng.standard_normal(32000) * level, -32768, 32767).astype("<i2")
    sound = np.stack([values, np.zeros_like(values)], axis=1)[:, :channels]  # the second channel is dead
    (tmp_path / "a").write_bytes(sound.tobytes())
    options = ("--rate", "16000", "--channels", str(channels), "--seconds", "0.5", "--json")
    _, out, _ = edgekd("doctor", *options, "--command", f"cat {tmp_path / 'a'}; sleep 60")
    assert json.loads(out)["source"]["channels"] == channels


@pytest.mark.slow
def test_a_source_that_is_too_slow_is_a_warning(lines_of, tmp_path):
    slow = (
        "import sys, time\n"
        "sound, start = open(sys.argv[1], 'rb').read(1600), time.monotonic()\n"
        "for i in range(100):\n"
        "    time.sleep(max(0, start + i / 10 - time.monotonic()))\n"
        "    sys.stdout.buffer.write(sound); sys.stdout.flush()"
    )
    (tmp_path / "slow.py").write_text(slow)
    lines = lines_of(f"{sys.executable} {tmp_path / 'slow.py'} {tmp_path / 'a.raw'}", until="samples a second")
    assert [json.loads(line)["state"] for line in lines if "reason" in line] == ["HEALTHY", "HEALTHY"]
    assert 7600 < int(re.search(r"about (\d+) samples a second", lines[-1])[1]) < 8400
    assert "not 16000" in lines[-1]
    assert "--rate" in lines[-1]
