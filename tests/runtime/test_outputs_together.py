"""Hook, history and clips on one listener, turned on as a user does it."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import wave
from contextlib import closing

import numpy as np
import pytest
from runtime.toy_listener import toy_listener

from edgekd.data.sets import folder

LISTEN = toy_listener()
SOUND = (np.random.default_rng(3).standard_normal(12 * 16000) * 3000).astype("<i2")


def test_a_listener_feeds_history_clips_and_hook(tmp_path):
    (tmp_path / "box.toml").write_text(
        "[history]\nfile = 'h.sqlite'\n[clips]\nfolder = 'clips'\nbelow = 1.0\nevery = 2.0\nseconds = 2.0\n"
        f"[hook]\ncommand = 'cat > {tmp_path}/part && mv {tmp_path}/part {tmp_path}/event'"
    )
    with subprocess.Popen(
        [*LISTEN, "-", "--config", tmp_path / "box.toml"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        for second in np.split(SOUND, 12):  # as a microphone would, but not so slowly
            process.stdin.write(second.tobytes())
            process.stdin.flush()
            time.sleep(0.05)
        end = time.monotonic() + 20.0
        while not (tmp_path / "event").exists() and time.monotonic() < end:
            time.sleep(0.02)
        process.stdin.close()
        lines = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert [line["reason"] for line in lines if "reason" in line] == []
    with closing(sqlite3.connect(tmp_path / "h.sqlite")) as db:
        assert db.execute("SELECT sum(windows) FROM runs").fetchone() == (len(lines),)
    event = json.loads((tmp_path / "event").read_text())
    assert (event["event"], event["before"], event["t"]) == ("label", None, 1.0)
    files = sorted((tmp_path / "clips").rglob("*.wav"))
    assert len(files) >= 3  # the disk may be slow, and the sound comes twenty times too fast
    (tmp_path / "clips" / "other" / files[0].parent.name).mkdir(parents=True)
    files[0].rename(tmp_path / "clips" / "other" / files[0].parent.name / files[0].name)  # sorted by a person
    found = folder.read(tmp_path / "clips").sources
    assert len(found) == len(files)
    assert "other" in {source.clip.label for source in found}


def test_the_history_of_a_file_has_its_times(tmp_path):
    with wave.open(str(tmp_path / "yard.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(SOUND.tobytes())
    command = [*LISTEN, tmp_path / "yard.wav", "--history", tmp_path / "h.sqlite"]
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0
    with closing(sqlite3.connect(tmp_path / "h.sqlite")) as db:
        ((began, ended),) = db.execute("SELECT min(began), max(ended) FROM runs").fetchall()
    assert 10.0 < ended - began < 12.0


def test_history_and_clips_are_for_their_owner_alone(tmp_path):
    with wave.open(str(tmp_path / "yard.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(SOUND.tobytes())
    (tmp_path / "box.toml").write_text(
        "[clips]\nfolder = 'new/clips'\nbelow = 1.0\n[history]\nfile = 'new/history/h.sqlite'"
    )
    command = [*LISTEN, tmp_path / "yard.wav", "--config", tmp_path / "box.toml"]
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL, umask=0o022).returncode == 0
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert {".wav", ".sqlite"} <= {path.suffix for path in made}
    assert {oct(path.stat().st_mode & 0o777) for path in made if path.is_file()} == {"0o600"}
    assert {oct(path.stat().st_mode & 0o777) for path in made if path.is_dir()} == {"0o700"}


def test_a_history_does_not_follow_a_link_to_nothing(tmp_path):
    link = tmp_path / "h.sqlite"
    link.symlink_to(tmp_path / "elsewhere")
    done = subprocess.run([*LISTEN, "-", "--history", link], check=False, input=SOUND.tobytes(), stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert f"{link} is a link to {tmp_path / 'elsewhere'}" in done.stdout.decode()
    assert not (tmp_path / "elsewhere").exists()


def test_a_hook_that_hangs_delays_neither_decisions_nor_the_end(tmp_path):
    with subprocess.Popen(
        [*LISTEN, "-", "--hook", f"echo $$ > {tmp_path}/pid; sleep 60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdin.write(SOUND.tobytes())
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(20)]
        assert all(lines)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20.0) == 0
        assert time.monotonic() - began < 5.0  # a second on a machine that does nothing else


@pytest.mark.parametrize("source", ["-", "command"])
def test_an_error_is_a_line_also_while_no_samples_come(source):
    chosen = [*LISTEN, "-"] if source == "-" else [*LISTEN, "--command", "head -c 40000 /dev/urandom; exec sleep 60"]
    with subprocess.Popen(
        [*chosen, "--hook", "sleep 0.5; exit 3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        ending = threading.Timer(20.0, process.kill)  # without the expected line the test would not end
        ending.start()
        process.stdin.write(SOUND[:20000].tobytes() if source == "-" else b"")
        process.stdin.flush()
        lines = []
        while not lines or "hook" not in lines[-1].get("reason", ""):
            lines.append(json.loads(process.stdout.readline()))
        ending.cancel()
        process.kill()
    assert lines[-1]["reason"] == "hook: the command ended with status 3"
    assert lines[-1]["t"] >= lines[-2]["t"]
    assert [line["state"] for line in lines] == ["HEALTHY"] * len(lines)  # before the source itself fails


def test_what_is_off_is_not_imported():
    program = (
        "import sys; from edgekd.runtime import listen, config; from edgekd.runtime.outputs.opening import"
        " open_outputs; open_outputs(config.Config()); print(*(name for name in ('sqlite3', 'ssl', 'http.client',"
        " 'edgekd.runtime.outputs.hooks.hook', 'edgekd.runtime.outputs.history.output', 'edgekd.runtime.outputs.clips')"
        " if name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"
