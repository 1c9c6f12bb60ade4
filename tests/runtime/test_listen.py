"""The listener and its command, on a model without an engine."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgekd import cli
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, log_mel
from edgekd.metrics.scores import softmax
from edgekd.modelfile.manifest import GraphCounts, Manifest, Provenance, TensorQuant
from edgekd.runtime import listen as listen_module
from edgekd.runtime.decision import decide, to_json, to_text
from edgekd.runtime.listen import decisions
from edgekd.runtime.source.health import Change, Gap, Turn

QUANT = TensorQuant("float32", 1.0, 0)
MANIFEST = Manifest(
    name="toy",
    student="toy",
    precision="float32",
    labels=("low", "middle", "high"),
    frontend=FrontEnd(),
    window=16000,
    input=QUANT,
    output=QUANT,
    counts=GraphCounts(0, 0, 0),
    temperature=2.0,
    provenance=Provenance("toy", "", "toy", "", "none", True, "0", "2026-01-01T00:00:00Z"),
)


class ToyModel:
    """Its logits are the mean log-mel of the lower, the middle and the upper third of the bands."""

    manifest = MANIFEST

    def logits(self, features: np.ndarray) -> np.ndarray:
        return np.stack([third.mean(axis=(1, 2)) for third in np.array_split(features, 3, axis=1)], axis=1)


def tone(samples: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 200.0 * np.arange(samples) / 16000)).astype(np.float32)


def raw(waveform: np.ndarray) -> bytes:
    return (waveform * 32767).astype("<i2").tobytes()


def run(monkeypatch, capsys, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Status, standard output and standard error of the command line."""
    monkeypatch.setattr(listen_module, "open_model", lambda *_: ToyModel())
    monkeypatch.setattr(sys, "argv", ["edgekd", "listen", *arguments])
    with tempfile.TemporaryFile() as file:
        file.write(stdin)
        file.seek(0)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    output = capsys.readouterr()
    return stopped.value.code or 0, output.out, output.err


def test_probabilities_are_the_softmax_at_the_temperature():
    logits = np.array([2.0, 0.0, -2.0], np.float32)
    expected = np.exp([1.0, 0.0, -1.0]) / np.exp([1.0, 0.0, -1.0]).sum()
    np.testing.assert_allclose(softmax(logits, 2.0), expected)
    assert np.isfinite(softmax(np.array([1e4, -1e4], np.float32), 1.0)).all()


def test_a_decision_ranks_labels_and_its_json_has_the_documented_fields():
    decision = decide(np.array([0.0, 3.0, 1.0], np.float32), ("a", "b", "c"), 1.0, 2, t=1.5, rms=0.25)
    assert [label for label, _ in decision.top] == ["b", "c"]
    line = json.loads(to_json(decision))
    assert list(line) == ["t", "label", "probability", "top", "state", "rms", "drops"]
    assert (line["t"], line["label"], line["rms"], line["drops"], line["state"]) == (1.5, "b", 0.25, 0, "HEALTHY")
    assert line["top"][0] == ["b", line["probability"]]
    assert to_text(decision).split() == ["1.50", "s", "b", "0.84", "-12.0", "dBFS", "c", "0.11"]


def test_decisions_are_those_of_each_window_alone():
    waveform = tone(40000) + np.random.default_rng(0).standard_normal(40000).astype(np.float32) * 0.01
    found = list(decisions(ToyModel(), [waveform[:7], waveform[7:]], "x", 0.5, 3))
    assert [round(decision.t * 16000) for decision in found] == [16000, 23680, 31872, 39552]
    for decision in found:
        end = round(decision.t * 16000)
        logits = ToyModel().logits(log_mel(MANIFEST.frontend, waveform[end - 16000 : end])[None])[0]
        assert decision.label == MANIFEST.labels[logits.argmax()]
        assert decision.probability == pytest.approx(softmax(logits, 2.0).max(), abs=1e-4)


def test_silence_is_decided_and_shown():
    (decision,) = decisions(ToyModel(), [np.zeros(16000, np.float32)], "x", 1.0, 3)
    assert decision.rms == 0.0
    assert "silence" in to_text(decision)


def test_less_than_a_window_is_an_error():
    with pytest.raises(InputError, match=r"clip\.wav: 0\.50 s of audio is shorter than the model's window of 1 s"):
        list(decisions(ToyModel(), [np.zeros(8000, np.float32)], "clip.wav", 0.5, 3))


def test_command_prints_one_json_line_per_hop_from_a_pipe(monkeypatch, capsys):
    status, out, err = run(
        monkeypatch, capsys, "-", "--model", "m.tflite", "--json", "--hop", "1", "--top", "9", stdin=raw(tone(48000))
    )
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["t"] for line in lines] == [1.0, 2.0, 3.0]
    assert all(len(line["top"]) == 3 for line in lines)


def test_command_prints_lines_for_people_without_json(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "-", "--model", "m.tflite", stdin=raw(tone(24000)))
    assert status == 0
    assert [line.split()[2] for line in out.splitlines()] == ["low", "low"]


def test_command_prints_only_changes_where_that_is_wanted(monkeypatch, capsys):
    low, high = tone(32000), np.sign(tone(32000)) * np.tile((0.5, -0.5), 16000).astype(np.float32)
    sound = raw(np.concatenate((low, high, low)))
    every = [
        json.loads(line)["label"]
        for line in run(monkeypatch, capsys, "-", "--model", "m.tflite", "--json", stdin=sound)[1].splitlines()
    ]
    new = [
        json.loads(line)["label"]
        for line in run(monkeypatch, capsys, "-", "--model", "m.tflite", "--json", "--changes", stdin=sound)[
            1
        ].splitlines()
    ]
    assert new == [label for label, before in zip(every, [None, *every], strict=False) if label != before]
    assert 1 < len(new) < len(every)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.wav", "--model", "m.tflite"], "none.wav: no such file"),
        (["-", "--model", "m.tflite", "--hop", "9"], "hop is 9 s"),
        (["-", "--model", "m.tflite", "--top", "0"], "top is 0"),
        (["-", "--model", "m.tflite"], "standard input: 0.00 s of audio is shorter"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(monkeypatch, capsys, arguments, message):
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_reader_that_leaves_ends_it_cleanly(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import test_listen as t; "
        "t.listen_module.open_model = lambda *_: t.ToyModel(); t.cli.main()"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(Path(__file__).parent),
        "listen",
        "-",
        "--model",
        "m.tflite",
        "--json",
    ]
    source = tmp_path / "long.raw"
    source.write_bytes(bytes(2 * 16000 * 600))
    with source.open("rb") as stdin:
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with process:
            assert json.loads(process.stdout.readline())["rms"] == 0.0
            process.stdout.close()
            assert (process.wait(), process.stderr.read()) == (0, b"")


NOISE = np.random.default_rng(1).standard_normal(48000).astype(np.float32) * 0.1


def test_windows_never_reach_over_a_gap_and_the_time_goes_on():
    breaks = []
    found = list(
        decisions(
            ToyModel(),
            [NOISE[:20000], Gap(1600, 0.5), NOISE[20000:36000]],
            "x",
            1.0,
            3,
            observe=lambda _, moment: breaks.append(moment.breaks),
        )
    )
    assert breaks == [0, 1]
    assert [(line.t, line.drops) for line in found] == [(1.0, 0), (1.25 + 0.1 + 0.5 + 1.0, 1600)]
    (alone,) = decisions(ToyModel(), [NOISE[20000:36000]], "x", 1.0, 3)
    assert found[1].top == alone.top


def test_a_change_of_state_is_a_line_of_its_own_and_decisions_carry_the_state():
    chunks = [Turn("HEALTHY", "hearing m"), NOISE[:16000], Turn("RECOVERING", "gone", 2.0), NOISE[16000:32000]]
    found = list(decisions(ToyModel(), chunks, "x", 1.0, 3))
    assert [json.loads(to_json(line)) for line in found if isinstance(line, Change)] == [
        {"t": 0.0, "state": "HEALTHY", "reason": "hearing m"},
        {"t": 3.0, "state": "RECOVERING", "reason": "gone"},
    ]
    assert [line.state for line in found if not isinstance(line, Change)] == ["HEALTHY", "RECOVERING"]
    assert to_text(found[2]) == "     3.00 s  RECOVERING: gone"


def test_news_is_asked_for_also_where_no_sound_comes_and_all_are_told_of_it():
    nothing, told, asked = np.empty(0, np.float32), [], []

    def news(t, state):
        asked.append((t, state))
        return [Change(t, state, "hook: no")] if len(asked) == 3 else []

    chunks = [nothing, Turn("HEALTHY", "hearing m"), NOISE[:16000], Turn("RECOVERING", "gone", 2.0), nothing]
    found = list(decisions(ToyModel(), chunks, "x", 1.0, 3, news=news, observe=lambda line, _: told.append(line)))
    # not before the first line
    assert asked == [(0.0, "HEALTHY"), (1.0, "HEALTHY"), (1.0, "RECOVERING"), (1.0, "RECOVERING")]
    assert [getattr(line, "reason", "") for line in found] == ["hearing m", "", "gone", "hook: no"]
    assert told == found


def test_command_hears_another_command_for_ever(monkeypatch, capsys, tmp_path):
    (tmp_path / "a.raw").write_bytes(raw(tone(16000)))
    lines = []

    def stop(line):
        lines.append(json.loads(to_json(line)))
        if sum("label" in line for line in lines) == 2:
            raise KeyboardInterrupt
        return "x"

    monkeypatch.setattr("edgekd.runtime.program.to_json", stop)
    status, _, _ = run(monkeypatch, capsys, "--model", "m.tflite", "--json", "--command", f"cat {tmp_path / 'a.raw'}")
    assert status == 130
    states = [line["state"] for line in lines if "reason" in line]
    assert states[:3] == ["HEALTHY", "RECOVERING", "HEALTHY"]
    assert [line["label"] for line in lines if "label" in line] == ["low", "low"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mic", "a", "--command", "b"], "a microphone and a command are two sources"),
        (["--channels", "2"], "the number of channels is for a command"),
        (["--rate", "0"], "rate is 0"),
        (["--channel", "-1"], "channel is -1"),
        (["-", "--mic", "a"], "- is a source of its own"),
    ],
)
def test_contradicting_options_of_live_sources_are_refused(monkeypatch, capsys, arguments, message):
    status, out, err = run(monkeypatch, capsys, "--model", "m.tflite", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_all_that_it_started(stop, tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import test_listen as t; "
        "t.listen_module.open_model = lambda *_: t.ToyModel(); t.cli.main()"
    )
    heard = f"echo $$ > {tmp_path / 'pid'}; head -c 64000 /dev/urandom; exec sleep 600"
    command = [
        sys.executable,
        "-c",
        program,
        str(Path(__file__).parent),
        "listen",
        "--model",
        "m.tflite",
        "--json",
        "--command",
        heard,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["state"] == "HEALTHY"
        pid = int((tmp_path / "pid").read_text())
        start = time.monotonic()
        process.send_signal(stop)
        process.wait()
        # empty where nobody reaps it
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() - start < 3
            time.sleep(0.01)
