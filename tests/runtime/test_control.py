"""Signals: the end, and a reload that must pass its checks before it replaces anything."""

import json
import os
import signal
import subprocess
import time
import wave
from pathlib import Path

import msgspec
import numpy as np
import pytest
from runtime.toy_listener import MANIFEST, ToyModel, toy_listener

from edgekd.errors import GateError, InputError
from edgekd.runtime import config as config_module
from edgekd.runtime import listen as listen_module
from edgekd.runtime.config import Config, prepared
from edgekd.runtime.control import Configuration, Control, Reload, StoppedError
from edgekd.runtime.decision import PLAIN
from edgekd.runtime.listen import decisions
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import Gap, StateChange, StatusLine, Watch

NOISE = np.random.default_rng(1).standard_normal(64000).astype(np.float32) * 0.1


def silence_file(path: Path, seconds: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32000 * seconds))


class Model(ToyModel):
    """A model with another manifest."""

    def __init__(self, **changes: object) -> None:
        self.manifest = msgspec.structs.replace(MANIFEST, **changes)


def configuration(model: ToyModel, **changes: object) -> Configuration:
    return Configuration(None, SourceRequest(), model, 1.0, 3, PLAIN)._replace(**changes)


def test_a_signal_sets_a_flag_that_is_looked_at_later_and_handlers_are_put_back():
    before, hang_up = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    with Control() as control:
        assert control.poll(configuration(ToyModel())) is None
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError) as stopped:
            control.poll(configuration(ToyModel()))
        assert stopped.value.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before  # the second one acts as ever
    assert signal.getsignal(signal.SIGHUP) == hang_up


@pytest.mark.parametrize(
    ("running", "loaded", "reason"),
    [
        (configuration(ToyModel()), configuration(Model(name="new")), "reloaded with the model new"),
        (
            configuration(ToyModel()),
            configuration(ToyModel(), source="a.wav"),
            "not reloaded, all stays as it was: the source is now a.wav",
        ),
        (
            configuration(ToyModel(), source="-"),
            configuration(Model(frontend=msgspec.structs.replace(MANIFEST.frontend, sample_rate=32000)), source="-"),
            "not reloaded, all stays as it was: the new model needs 32000 Hz",
        ),
        (
            configuration(ToyModel()),
            GateError("m.onnx: litert is 9 steps away"),
            "not reloaded, all stays as it was: m.onnx: litert is 9 steps away",
        ),
    ],
)
def test_a_reload_is_reported_and_refused_where_it_does_not_fit(running, loaded, reason):
    def load() -> Configuration:
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    with Control(load) as control:
        os.kill(os.getpid(), signal.SIGHUP)
        reload = control.poll(running)
        assert reload.reason.startswith(reason)
        assert reload.configuration is (loaded if reason.startswith("reloaded") else None)
        assert control.poll(running) is None


def test_a_model_that_does_not_pass_is_never_used(monkeypatch):
    monkeypatch.setattr(config_module, "open_model", lambda *_: ToyModel())

    def refuse(_model: object, source_name: str) -> None:
        raise GateError(f"{source_name} differs")

    config = Config(model=config_module.ModelTable(file="m.onnx"))
    with pytest.raises(GateError, match=r"m\.onnx differs"):
        prepared(config, refuse)
    with pytest.raises(InputError, match="hop is 9 s"):
        prepared(msgspec.structs.replace(config, decision=config_module.DecisionTable(hop=9.0)), lambda *_: None)
    assert prepared(config, lambda *_: None).classifier.manifest == MANIFEST


def test_samples_are_kept_where_the_windows_stay_the_same():
    reload = Reload(configuration(Model(labels=("x", "y", "z"))), "new")
    found = list(decisions(ToyModel(), [NOISE[:24000], reload, NOISE[24000:32000]], "x", 1.0, 3))
    alone = list(decisions(Model(labels=("x", "y", "z")), [NOISE[:32000]], "x", 1.0, 3))
    assert found[1] == StatusLine(1.5, "HEALTHY", "new")
    assert found[2] == alone[1]


def test_another_window_begins_anew_and_the_time_goes_on():
    reload = Reload(configuration(Model(window=8000), hop_s=0.5), "new")
    found = list(decisions(ToyModel(), [NOISE[:24000], reload, NOISE[24000:40000]], "x", 1.0, 3))
    assert [line.t for line in found] == [1.0, 1.5, 2.0, pytest.approx(2.5, abs=0.03)]
    assert found[2].top == next(iter(decisions(Model(window=8000), [NOISE[24000:32000]], "x", 0.5, 3))).top


def test_a_refused_reload_changes_nothing_but_is_reported():
    found = list(decisions(ToyModel(), [NOISE[:24000], Reload(None, "bad"), NOISE[24000:32000]], "x", 1.0, 3))
    assert [line for line in found if not isinstance(line, StatusLine)] == list(
        decisions(ToyModel(), [NOISE[:32000]], "x", 1.0, 3)
    )
    assert found[1] == StatusLine(1.5, "HEALTHY", "bad")


class ScriptedControl(Control):
    """Requests a reload after the second chunk, and the end after the fifth."""

    def __init__(self, reload: Reload) -> None:
        super().__init__()
        self.reload, self.count = reload, 0

    def poll(self, _running: Configuration) -> Reload | None:
        self.count += 1
        if self.count == 5:
            raise StoppedError(signal.SIGTERM)
        return self.reload if self.count == 2 else None


@pytest.fixture
def opened(monkeypatch):
    """The arguments with which captures were opened; the microphone "none" cannot be opened."""
    opened = []

    class FakeCapture:
        def __init__(self, *what: object, idle_s: float, **_lacking: object) -> None:
            *wanted, watch = what
            opened.append((*wanted, watch) if watch != Watch() else tuple(wanted))
            assert idle_s > 0

        def __enter__(self) -> "FakeCapture":
            return self

        def __exit__(self, *_: object) -> None:
            opened.append("closed")

        def __iter__(self):
            if opened[-1][0].mic == "none":
                raise InputError("'none' may mean two")
            yield StateChange("HEALTHY", "listening")
            while True:
                yield NOISE[:1600]

    monkeypatch.setattr(listen_module, "Capture", FakeCapture)
    return opened


def listen_live(running: Configuration, new: Configuration) -> list:
    """The items until the end, with a reload that brings another configuration."""
    items = []

    def all_of_it() -> None:
        for item in listen_module.live_chunks(
            running, ScriptedControl(Reload(new, "new")), listen_module.CurrentCapture()
        ):
            items.append(item)

    with pytest.raises(StoppedError):
        all_of_it()
    return items


def test_another_rate_or_source_is_another_capture_behind_a_gap(opened):
    new = configuration(
        Model(frontend=msgspec.structs.replace(MANIFEST.frontend, sample_rate=32000)), request=SourceRequest(mic="b")
    )
    items = listen_live(configuration(ToyModel()), new)
    assert opened == [(SourceRequest(), 16000), "closed", (SourceRequest(mic="b"), 32000), "closed"]
    assert [type(item) for item in items] == [StateChange, np.ndarray, Reload, StateChange, Gap, np.ndarray, np.ndarray]


def test_limits_in_the_file_reach_the_capture_and_a_reload(opened, edgekd, monkeypatch, tmp_path):
    path = tmp_path / "box.toml"
    path.write_text('[model]\nfile = "m.onnx"\n[source]\nmic = "none"\n[watch]\nzeros = 60\n')
    for module in (listen_module, config_module):
        monkeypatch.setattr(module, "open_model", lambda *_: ToyModel())
    edgekd("listen", "--config", path)
    assert opened == [(SourceRequest(mic="none"), 16000, Watch(zeros_s=60.0)), "closed"]
    assert prepared(config_module.read_config(path), lambda *_: None).watch == Watch(zeros_s=60.0)


def test_other_limits_are_another_capture(opened):
    listen_live(configuration(ToyModel()), configuration(ToyModel(), watch=Watch(zeros_s=60.0)))
    assert opened == [(SourceRequest(), 16000), "closed", (SourceRequest(), 16000, Watch(zeros_s=60.0)), "closed"]


def test_a_new_source_that_can_never_be_opened_brings_the_old_one_back(opened):
    running = configuration(ToyModel())
    items = listen_live(running, configuration(Model(name="new"), request=SourceRequest(mic="none")))
    assert opened == [
        (SourceRequest(), 16000),
        "closed",
        (SourceRequest(mic="none"), 16000),
        "closed",
        (SourceRequest(), 16000),
        "closed",
    ]
    assert [type(item) for item in items] == [
        StateChange,
        np.ndarray,
        Reload,
        Reload,
        StateChange,
        Gap,
        np.ndarray,
        np.ndarray,
    ]
    assert items[3] == Reload(running, "back to the model and the source before the reload: 'none' may mean two")


def test_an_old_source_that_cannot_come_back_is_an_error(opened, monkeypatch):
    capture = listen_module.Capture
    monkeypatch.setattr(
        listen_module,
        "Capture",
        lambda *what, **how: capture(what[0]._replace(mic="none" if opened else None), *what[1:], **how),
    )
    reported = ScriptedControl(Reload(configuration(ToyModel(), request=SourceRequest(mic="b")), "new"))
    with pytest.raises(InputError, match="'none' may mean two"):
        list(listen_module.live_chunks(configuration(ToyModel()), reported, listen_module.CurrentCapture()))
    assert opened.count("closed") == 3


@pytest.mark.parametrize(
    ("source", "stop", "status"),
    [("command", signal.SIGTERM, 0), ("command", signal.SIGINT, 130), ("-", signal.SIGTERM, 0)],
)
def test_a_listener_without_samples_ends_at_once_without_a_traceback(source, stop, status):
    chosen = ["--command", "head -c 64000 /dev/urandom; exec sleep 600"] if source == "command" else ["-"]
    command = toy_listener(*chosen)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if source == "-":
            process.stdin.write(bytes(32000))
            process.stdin.flush()
        assert "state" in json.loads(process.stdout.readline())
        start = time.monotonic()
        process.send_signal(stop)
        assert process.wait(5) == status
        assert time.monotonic() - start < 3  # one second, on a machine that is not busy
        assert process.stderr.read() == (b"" if stop == signal.SIGTERM else b"edgekd: interrupted\n")


def test_sighup_keeps_the_old_model_and_gives_the_reason(tmp_path):
    command = toy_listener("-", "--model", str(tmp_path / "none.onnx"))
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **piped) as process:  # without a terminal
        process.stdin.write(bytes(32000))
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGHUP)
        reported = json.loads(process.stdout.readline())
        assert reported["reason"].startswith("not reloaded, all stays as it was: ")
        assert "none.onnx" in reported["reason"]
        process.stdin.write(bytes(32000))
        process.stdin.close()
        assert [json.loads(line)["label"] for line in process.stdout][-1] == first["label"]
        assert process.wait() == 0


def test_sighup_reports_that_outputs_need_a_start(tmp_path):
    file = tmp_path / "box.toml"
    file.write_text("[decision]\nhop = 0.5\n")
    command = toy_listener("-", "--config", str(file))
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **piped) as process:  # without a terminal
        process.stdin.write(bytes(32000))
        process.stdin.flush()
        process.stdout.readline()
        file.write_text(
            "[decision]\nhop = 0.25\n[mqtt]\nurl = 'mqtt://127.0.0.1'\npassword = 'secret'\n[clips]\nfolder = 'c'\n"
        )
        process.send_signal(signal.SIGHUP)
        reason = json.loads(process.stdout.readline())["reason"]
        assert (
            reason
            == "not reloaded, all stays as it was: [mqtt] and [clips] changed, and outputs are opened at the start"
            " alone; "
            "start again for it"
        )
        process.stdin.close()
        assert process.wait() == 0


def test_sigterm_before_the_end_of_a_file_of_the_configuration_is_not_a_success(tmp_path):
    silence_file(tmp_path / "long.wav", 900)
    (tmp_path / "listen.toml").write_text('[source]\nfile = "long.wav"\n')
    command = toy_listener("--config", tmp_path / "listen.toml")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10)[1] == b""
        assert process.returncode == 143


@pytest.mark.parametrize("options", [(), ("--replay",)])
def test_without_a_reader_the_status_is_that_of_a_closed_pipe(options, tmp_path):
    silence_file(tmp_path / "short.wav", 2)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        toy_listener(tmp_path / "short.wav", *options), stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
