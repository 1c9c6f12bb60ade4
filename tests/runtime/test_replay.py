"""Replays of a recording, and the command's options for steady decisions, on a model without an engine."""

import json
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgekd.frontend import FrontEnd
from edgekd.runtime import replay as replay_module
from edgekd.runtime.decision import DecisionSettings
from edgekd.runtime.listen import decisions
from edgekd.runtime.replay import evaluate, to_json, to_text
from edgekd.runtime.track import Span, TrackScore

RATE = 16000
PITCH_HZ = {"low": 200.0, "middle": 1900.0, "high": 6000.0}


class ToyModel:
    """Its labels are the thirds of the bands; a louder third has a higher logit."""

    manifest = SimpleNamespace(labels=tuple(PITCH_HZ), frontend=FrontEnd(), window=RATE, temperature=2.0)

    def __init__(self) -> None:
        self.scored = 0

    def logits(self, features: np.ndarray) -> np.ndarray:
        self.scored += len(features)
        return np.stack([third.mean(axis=(1, 2)) for third in np.array_split(features, 3, axis=1)], axis=1)


def scenes(*parts: tuple[str, float]) -> np.ndarray:
    """Tones one after the other, float32 (time,); "" is digital silence."""
    waves = [
        0.5 * np.sin(2 * np.pi * PITCH_HZ.get(name, 0.0) * np.arange(round(seconds * RATE)) / RATE)
        for name, seconds in parts
    ]
    return np.concatenate(waves).astype(np.float32)


def chunks(waveform: np.ndarray):
    return iter(np.array_split(waveform, max(1, len(waveform) // 1600)))


@pytest.fixture
def recording(tmp_path) -> Path:
    """10 s low, 10 s high, 10 s silence, 10 s low."""
    path = tmp_path / "scenes.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((scenes(("low", 10), ("high", 10), ("", 10), ("low", 10)) * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def run(listen_command):
    """Runs `edgekd listen` on the toy model: exit status, standard output and standard error."""
    return lambda *arguments: listen_command(*arguments, "--model", "m.tflite", model=ToyModel)


def test_windows_below_the_gate_are_not_scored_and_the_others_are_as_without_a_gate():
    waveform = scenes(("low", 3), ("", 4), ("high", 3)) + 1e-5 * np.sin(np.arange(10 * RATE)).astype(np.float32)
    model, gated_model = ToyModel(), ToyModel()
    plain = list(decisions(model, chunks(waveform), "x", 0.5, 3))
    gated = list(decisions(gated_model, chunks(waveform), "x", 0.5, 3, DecisionSettings(gate_dbfs=-60.0)))
    quiet = [decision for decision in gated if decision.gated]
    assert len(quiet) == 6
    assert (model.scored, gated_model.scored) == (len(plain), len(plain) - len(quiet))
    assert [decision.t for decision in gated] == [decision.t for decision in plain]
    for one, other in zip(plain, gated, strict=True):
        assert other.gated == (one.rms < 1e-3)
        assert other.gated or (one.label, one.top, one.probability) == (other.label, other.top, other.raw)


def test_the_report_of_a_constructed_recording():
    waveform = scenes(("low", 10), ("high", 10), ("", 10), ("low", 10))
    track = (
        Span(0.0, 10.0, "low", 2),
        Span(10.0, 20.0, "high", 3),
        Span(30.0, 40.0, "low", 4),
        Span(40.0, 40.02, "middle", 5),
    )
    found = evaluate(ToyModel(), chunks(waveform), "x", 1.0, DecisionSettings(gate_dbfs=-60.0), track)
    assert (found.seconds, found.decisions, found.known, found.unknown, found.gated) == (40.0, 40, 30, 0, 10)
    assert (found.flips, found.flips_per_hour, found.unknown_share, found.gated_share) == (3, 270.0, 0.0, 0.25)
    # each scene is shown from 1 s after its onset on, and 29 s of the track lie after the first decision
    assert found.score == TrackScore(
        accuracy=round(27 / 29, 4),
        accuracy_known=round(27 / 28, 4),  # quiet is shown for the other second
        onsets=4,
        missed=1,
        delay_p50_s=1.0,
        delay_p95_s=1.0,
    )
    assert 0.0 < found.real_time_factor < 1.0
    assert found.cpu_us > 0.0


def test_a_replay_repeats_but_for_its_times():
    waveform = (0.1 * np.random.default_rng(0).standard_normal(20 * RATE)).astype(np.float32)
    settings = DecisionSettings(smooth_s=1.0, unknown=0.3)
    first, second = (json.loads(to_json(evaluate(ToyModel(), chunks(waveform), "x", 0.25, settings))) for _ in range(2))
    for each in (first, second):
        assert each.pop("cpu_us") > 0
        assert each.pop("real_time_factor") > 0
    assert first == second


def test_processor_time_is_that_of_listening_without_reading_the_file(monkeypatch):
    clock = [0.0]  # stands still but for reading, 1 s a chunk, and for the network, 0.25 s
    monkeypatch.setattr(
        replay_module, "time", SimpleNamespace(thread_time=lambda: clock[0], perf_counter=lambda: clock[0])
    )

    def spend(seconds: float, value: object) -> object:
        clock[0] += seconds
        return value

    model = ToyModel()
    judge = model.logits
    model.logits = lambda features: spend(0.25, judge(features))
    found = evaluate(model, (spend(1.0, chunk) for chunk in chunks(scenes(("low", 2)))), "x", 1.0, DecisionSettings())
    assert (found.decisions, found.cpu_us, found.real_time_factor) == (2, 250000.0, (20 * 1.0 + 2 * 0.25) / 2.0)


def test_silence_at_the_start_is_gated_and_not_counted_as_unknown():
    found = evaluate(ToyModel(), chunks(scenes(("", 3), ("low", 3))), "x", 0.5, DecisionSettings(gate_dbfs=-60.0))
    assert (found.decisions, found.known, found.unknown, found.gated) == (11, 6, 0, 5)
    assert (found.flips, found.flips_per_hour) == (1, 600.0)


def test_command_replays_to_one_line_of_json_with_the_score_of_a_track(run, recording, tmp_path):
    track = tmp_path / "track.csv"
    track.write_text("start,end,label\n0,10,low\n10,20,high\n20,30,unknown\n30,40,low\n")
    status, out, err = run(
        recording,
        "--replay",
        "--json",
        "--hop",
        "0.5",
        "--smooth",
        "1",
        "--margin",
        "0.1",
        "--dwell",
        "2",
        "--unknown",
        "0.4",
        "--gate",
        "-60",
        "--track",
        track,
    )
    assert (status, err, out.count("\n")) == (0, "", 1)
    line = json.loads(out)
    assert list(line) == [
        "source",
        "seconds",
        "hop_s",
        "decisions",
        "known",
        "unknown",
        "gated",
        "flips",
        "flips_per_hour",
        "unknown_share",
        "gated_share",
        "real_time_factor",
        "cpu_us",
        "settings",
        "score",
    ]
    assert line["settings"] == {"smooth_s": 1.0, "margin": 0.1, "dwell_s": 2.0, "unknown": 0.4, "gate_dbfs": -60.0}
    assert line["known"] + line["unknown"] + line["gated"] == line["decisions"]
    assert line["score"]["onsets"] == 4
    assert line["source"] == str(recording)


def test_command_replays_to_lines_for_people(run, recording, tmp_path):
    status, out, _ = run(recording, "--replay")
    assert status == 0
    assert "40.0 s of audio" in out
    assert "accuracy" not in out
    track = tmp_path / "track.csv"
    track.write_text("start,end,label\n0,10,middle\n")
    status, out, _ = run(recording, "--track", track)
    assert (status, "accuracy     0.0%" in out, "1, 1 missed" in out, "median none" in out) == (0, True, True, True)


def test_command_names_the_outputs_that_a_replay_ignores(run, recording, tmp_path):
    history = tmp_path / "h.sqlite"
    status, out, err = run(recording, "--replay", "--json", "--history", history, "--hook", "exit 1")
    assert (status, json.loads(out)["source"]) == (0, str(recording))
    assert (
        err
        == "edgekd: a replay only evaluates: [hook] and [history] received nothing; leave out --replay and --track to"
        " use them\n"
    )
    assert not history.exists()


def test_command_steadies_decisions_and_marks_gated_ones(run, recording):
    _, plain, _ = run(recording, "--json")
    _, steady, _ = run(recording, "--json", "--smooth", "2", "--gate", "-60")
    first, second = ([json.loads(line) for line in out.splitlines()] for out in (plain, steady))
    assert all("raw" not in line and "gated" not in line for line in first)
    assert [line["t"] for line in first] == [line["t"] for line in second]
    assert {line["gated"] for line in second} == {True, False}
    assert next(line["t"] for line in second if line["label"] == "high") > next(
        line["t"] for line in first if line["label"] == "high"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "--replay"], "a replay needs an audio file"),
        (["--replay"], "a replay needs an audio file"),
        (["none.wav", "--replay"], "none.wav: no such file"),
        (["-", "--unknown", "60"], "unknown is 60"),
        (["-", "--gate", "60"], "gate is 60 dBFS"),
        (["none.wav", "--track", "none.csv"], "none.csv cannot be read"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_track_of_another_file_is_refused(run, recording, tmp_path):
    track = tmp_path / "track.csv"
    track.write_text("start,end,label\n0,10,low\n10,60,high\n")
    status, _, err = run(recording, "--track", track)
    assert (status, "row 3: it ends at 60 s, but the audio has 40.00 s" in err) == (2, True)


def test_people_read_the_speed_of_a_replay():
    assert "times real time" in to_text(evaluate(ToyModel(), chunks(scenes(("low", 2))), "x", 1.0, DecisionSettings()))
