"""A sound that ends in silence: below the gate the label is "quiet", wherever a label is shown."""

import json
import re
import wave
from pathlib import Path

import msgspec
import numpy as np
import pytest
from runtime.test_homeassistant import SETTINGS
from runtime.toy_listener import MANIFEST, ToyModel, raw, tone

from edgekd.runtime.decision import DecisionSettings
from edgekd.runtime.listen import decisions
from edgekd.runtime.outputs.mqtt.messages import PendingMessages

SECOND = 16000
STEADY = ("--smooth", "1", "--margin", "0.05", "--unknown", "0.3", "--gate", "-80")


def sound_and_silence(sound_s: float, silence_s: float) -> np.ndarray:
    return np.concatenate((tone(round(sound_s * SECOND)), np.zeros(round(silence_s * SECOND), np.float32)))


@pytest.fixture
def listened(listen_command):
    """The lines of `edgekd listen --json` on samples."""

    def run(waveform: np.ndarray, *options: object) -> list[dict]:
        status, out, err = listen_command("-", "--model", "m.tflite", "--json", *options, stdin=raw(waveform))
        assert (status, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return run


@pytest.mark.parametrize(("smooth_s", "quiet_s"), [("0", 6.0), ("1", 6.0), ("3", 8.0)])
def test_a_label_ends_after_the_smoothing_or_one_window_of_silence(listened, smooth_s, quiet_s):
    lines = listened(sound_and_silence(5.0, 10.0), "--smooth", smooth_s, "--gate", "-80", "--dwell", "30")
    quiet = [line for line in lines if line["label"] == "quiet"]
    assert quiet == [line for line in lines if line["t"] >= quiet_s]
    assert {(line["probability"], tuple(line["top"]), line["raw"], line["gated"]) for line in quiet} == {
        (0.0, (), None, True)
    }


def test_a_pause_shorter_than_the_smoothing_keeps_the_label_and_the_next_sound_replaces_quiet_at_once(listened):
    pause = np.concatenate((sound_and_silence(5.0, 2.0), sound_and_silence(3.0, 6.0), tone(2 * SECOND)))
    lines = listened(pause, "--smooth", "3", "--margin", "0.2", "--dwell", "4", "--gate", "-80", "--changes")
    assert [line["label"] for line in lines] == ["low", "quiet", "low"]
    assert 16.0 < lines[2]["t"] <= 17.0


def test_silence_at_the_start_and_a_label_of_that_name(listened):
    assert [line["label"] for line in listened(sound_and_silence(0.0, 2.0), "--gate", "-80")] == ["quiet"] * 3

    class QuietModel(ToyModel):
        manifest = msgspec.structs.replace(MANIFEST, labels=("quiet", "b", "c"))

    settings = DecisionSettings(smooth_s=2.0, gate_dbfs=-80.0)
    found = list(decisions(QuietModel(), [sound_and_silence(3.0, 4.0)], "x", 1.0, 3, settings))
    assert [line.label for line in found] == ["quiet"] * 7
    assert [line.is_quiet for line in found] == [False] * 4 + [True] * 3


def test_the_history_ends_the_label_and_counts_no_time_of_silence(listened, edgekd, tmp_path):
    history = tmp_path / "h.sqlite"
    sound = np.concatenate((sound_and_silence(5.0, 40.0), tone(3 * SECOND)))
    listened(sound, *STEADY, "--history", history)
    status, out, _ = edgekd("history", history, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    runs = [row for row in rows if "label" in row]
    assert status == 0
    assert [row["label"] for row in runs] == ["low", "low"]
    assert 4.0 <= runs[0]["seconds"] <= 6.5
    assert runs[1]["seconds"] <= 3.0
    (quiet_s,) = [row["t"] for row in rows if "quiet" in row.get("reason", "")]
    assert 6.0 <= quiet_s <= 6.5
    assert re.search(r"\d\d:\d\d:\d\d .*quiet", edgekd("history", history)[1])


def test_mqtt_publishes_quiet_as_a_change_and_home_assistant_knows_it(listen_command, monkeypatch):
    pending = PendingMessages(SETTINGS)

    class Taken:
        name, error = "mqtt", None
        publish, close = staticmethod(pending.add), staticmethod(lambda: None)

    monkeypatch.setattr("edgekd.runtime.outputs.mqtt.settings.open_mqtt", lambda _: Taken())
    listen_command("-", "--model", "m.tflite", "--mqtt", "mqtt://h", *STEADY, stdin=raw(sound_and_silence(5.0, 40.0)))
    messages = []
    while (message := pending.next()) is not None:
        messages.append((message.topic.rpartition("/")[2], json.loads(message.payload), message.retain))
    state = next(payload for topic, payload, retained in messages if topic == "state" and retained)
    assert (state["label"], state["probability"], state["top"]) == ("quiet", 0.0, [])
    assert [payload["label"] for topic, payload, _ in messages if topic == "change"] == ["low", "quiet"]
    config = next(payload for topic, payload, _ in messages if topic == "config")
    assert "quiet" in config["components"]["label"]["options"]


def test_a_hook_is_told_and_no_clip_of_silence_is_kept(listened, tmp_path: Path):
    labels = tmp_path / "labels"
    clips = tmp_path / "clips"
    listened(sound_and_silence(3.0, 4.0), *STEADY, "--hook", f"cat >> {labels}", "--clips", clips)
    assert [json.loads(line)["label"] for line in labels.read_text().splitlines()] == ["low", "quiet"]
    assert not (clips / "quiet").exists()


def test_a_replay_counts_quiet_as_gated_and_a_track_may_name_it(listen_command, tmp_path):
    recording, track = tmp_path / "yard.wav", tmp_path / "yard.csv"
    with wave.open(str(recording), "wb") as file:
        file.setparams((1, 2, SECOND, 0, "NONE", ""))
        file.writeframes(raw(sound_and_silence(10.0, 10.0)))
    track.write_text("start,end,label\n0,10,low\n10,20,quiet\n")
    options = ("--replay", "--json", "--gate", "-80", "--track", track, "--model", "m.tflite")
    report = json.loads(listen_command(recording, *options)[1])
    assert (report["flips"], report["unknown"]) == (1, 0)
    assert report["known"] + report["gated"] == report["decisions"]
    assert report["score"]["missed"] == 0
    assert report["score"]["accuracy"] > report["score"]["accuracy_known"] > 0.85
