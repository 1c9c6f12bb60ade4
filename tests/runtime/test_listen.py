"""The listener and its command, on a model without an engine."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from runtime.toy_listener import MANIFEST, ToyModel, raw, tone, toy_listener

from edgekd.errors import InputError
from edgekd.frontend import log_mel
from edgekd.metrics.scores import softmax
from edgekd.runtime.decision import decide, to_json, to_text
from edgekd.runtime.listen import decisions
from edgekd.runtime.source.health import Gap, StateChange, StatusLine


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
    with pytest.raises(InputError, match=r"clip\.wav: 0\.50 s .*of 1 s"):
        list(decisions(ToyModel(), [np.zeros(8000, np.float32)], "clip.wav", 0.5, 3))


def test_command_prints_one_json_line_per_hop_from_a_pipe(listen_command):
    status, out, err = listen_command(
        "-", "--model", "m.tflite", "--json", "--hop", "1", "--top", "9", stdin=raw(tone(48000))
    )
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["t"] for line in lines] == [1.0, 2.0, 3.0]
    assert all(len(line["top"]) == 3 for line in lines)


def test_command_prints_lines_for_people_without_json(listen_command):
    status, out, _ = listen_command("-", "--model", "m.tflite", stdin=raw(tone(24000)))
    assert status == 0
    assert [line.split()[2] for line in out.splitlines()] == ["low", "low"]


def test_command_prints_only_changes_where_that_is_wanted(listen_command):
    low, high = tone(32000), np.sign(tone(32000)) * np.tile((0.5, -0.5), 16000).astype(np.float32)
    sound = raw(np.concatenate((low, high, low)))
    every = [
        json.loads(line)["label"]
        for line in listen_command("-", "--model", "m.tflite", "--json", stdin=sound)[1].splitlines()
    ]
    new = [
        json.loads(line)["label"]
        for line in listen_command("-", "--model", "m.tflite", "--json", "--changes", stdin=sound)[1].splitlines()
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
def test_bad_usage_is_one_line_and_status_2(listen_command, arguments, message):
    status, out, err = listen_command(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_reader_that_leaves_ends_it_without_a_message(tmp_path):
    command = toy_listener("-")
    source = tmp_path / "long.raw"
    source.write_bytes(bytes(2 * 16000 * 600))
    with source.open("rb") as stdin:
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with process:
            assert json.loads(process.stdout.readline())["rms"] == 0.0
            process.stdout.close()
            assert (process.wait(), process.stderr.read()) == (141, b"")


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
            observe=lambda _, observation: breaks.append(observation.breaks),
        )
    )
    assert breaks == [0, 1]
    assert [(line.t, line.drops) for line in found] == [(1.0, 0), (1.25 + 0.1 + 0.5 + 1.0, 1600)]
    (alone,) = decisions(ToyModel(), [NOISE[20000:36000]], "x", 1.0, 3)
    assert found[1].top == alone.top


def test_a_change_of_state_is_a_line_of_its_own_and_decisions_carry_the_state():
    chunks = [
        StateChange("HEALTHY", "listening to m"),
        NOISE[:16000],
        StateChange("RECOVERING", "gone", 2.0),
        NOISE[16000:32000],
    ]
    found = list(decisions(ToyModel(), chunks, "x", 1.0, 3))
    assert [json.loads(to_json(line)) for line in found if isinstance(line, StatusLine)] == [
        {"t": 0.0, "state": "HEALTHY", "reason": "listening to m"},
        {"t": 3.0, "state": "RECOVERING", "reason": "gone"},
    ]
    assert [line.state for line in found if not isinstance(line, StatusLine)] == ["HEALTHY", "RECOVERING"]
    assert to_text(found[2]) == "     3.00 s  RECOVERING: gone"


def test_status_is_asked_for_also_without_samples_and_reaches_the_observer():
    nothing, seen, poll = np.empty(0, np.float32), [], []

    def status(t, state):
        poll.append((t, state))
        return [StatusLine(t, state, "hook: no")] if len(poll) == 3 else []

    chunks = [
        nothing,
        StateChange("HEALTHY", "listening to m"),
        NOISE[:16000],
        StateChange("RECOVERING", "gone", 2.0),
        nothing,
    ]
    found = list(decisions(ToyModel(), chunks, "x", 1.0, 3, status=status, observe=lambda line, _: seen.append(line)))
    # not before the first line
    assert poll == [(0.0, "HEALTHY"), (1.0, "HEALTHY"), (1.0, "RECOVERING"), (1.0, "RECOVERING")]
    assert [getattr(line, "reason", "") for line in found] == ["listening to m", "", "gone", "hook: no"]
    assert seen == found


def test_command_reads_another_command_without_end(listen_command, monkeypatch, tmp_path):
    (tmp_path / "a.raw").write_bytes(raw(tone(16000)))
    lines = []

    def stop(line):
        lines.append(json.loads(to_json(line)))
        if sum("label" in line for line in lines) == 2:
            raise KeyboardInterrupt
        return "x"

    monkeypatch.setattr("edgekd.runtime.program.to_json", stop)
    status, _, _ = listen_command("--model", "m.tflite", "--json", "--command", f"cat {tmp_path / 'a.raw'}")
    assert status == 130
    states = [line["state"] for line in lines if "reason" in line]
    assert states[:3] == ["HEALTHY", "RECOVERING", "HEALTHY"]
    assert [line["label"] for line in lines if "label" in line] == ["low", "low"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mic", "a", "--command", "b"], "a microphone and a command are two sources"),
        (["--channels", "2"], "number of channels"),
        (["--rate", "0"], "rate is 0"),
        (["--channel", "-1"], "channel is -1"),
        (["-", "--mic", "a"], "'-' does not take the options of microphones"),
    ],
)
def test_contradicting_options_of_live_sources_are_refused(listen_command, arguments, message):
    status, out, err = listen_command("--model", "m.tflite", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_all_that_it_started(stop, tmp_path):
    microphone = f"echo $$ > {tmp_path / 'pid'}; head -c 64000 /dev/urandom; exec sleep 600"
    command = toy_listener("--command", microphone)
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
