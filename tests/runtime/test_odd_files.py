"""`edgekd listen` on odd audio files, and sample rates that no source can have; on a model without an engine."""

import json
import sys

import numpy as np
import pytest
from runtime.toy_listener import tone

from edgekd.errors import InputError
from edgekd.runtime.config import read_config
from edgekd.runtime.record import RecordSettings, record
from edgekd.runtime.source import child
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.files import read_file
from edgekd.runtime.source.microphones import InputDevice

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

from helpers.odd_audio import encoded, flac_without_length, streams, wav_sizes

PCM = (tone(40000) * 32767).astype(np.int16)
MODEL = ("--model", "m.tflite", "--json")


@pytest.fixture
def lines(listen_command, tmp_path):
    """Runs `edgekd listen` on a file: exit status, its lines without the level, standard error."""

    def run(name, raw, *arguments):
        (tmp_path / name).write_bytes(raw)
        status, out, err = listen_command(str(tmp_path / name), *MODEL, *arguments)
        return status, [(line["t"], line["label"], line["top"]) for line in map(json.loads, out.splitlines())], err

    return run


def test_a_stream_whose_size_is_not_known_is_classified_to_its_end(lines):
    status, expected, _ = lines("whole.wav", encoded(PCM, 16000, "wav"))
    assert (status, [t for t, *_ in expected]) == (0, [1.0, 1.48, 1.992, 2.472])
    for name, raw in streams(PCM, 16000).items():
        assert lines(name, raw) == (0, expected, ""), name


def test_a_plain_stream_needs_no_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for name, sizes in (("killed.wav", (36, 0)), ("zeros.wav", (0, 0)), ("sox.wav", (0x7FFFF024, 0x7FFFF000))):
        (tmp_path / name).write_bytes(wav_sizes(encoded(PCM, 16000, "wav"), *sizes))
        np.testing.assert_array_equal(np.concatenate(list(read_file(tmp_path / name, 16000))), PCM / np.float32(32768))


@pytest.mark.parametrize("suffix", ["wav", "w64", "au", "mp3", "ogg"])
def test_a_file_that_is_cut_off_is_refused(lines, suffix):
    raw = encoded(PCM, 16000, suffix)
    status, found, err = lines(f"a.{suffix}", raw[: len(raw) // 2])
    assert (status, found) == (2, [])
    assert f"a.{suffix}: is cut off" in err


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32"])
def test_codings_without_a_way_back_are_classified(lines, subtype):
    status, found, _ = lines("a.wav", encoded(PCM[::2], 8000, "wav", subtype=subtype))
    assert (status, {label for _, label, _ in found}) == (0, {"low"})


@pytest.mark.parametrize("rate", [1, 9, 999, 768_001])
@pytest.mark.parametrize("options", [(), ("--replay",)])
def test_a_file_of_an_impossible_rate_is_refused(lines, rate, options):
    status, found, err = lines("a.wav", encoded(PCM[:100], rate, "wav"), *options)
    assert (status, found) == (2, [])
    assert f"a.wav: its sample rate is {rate} Hz" in err


@pytest.mark.parametrize("options", [(), ("--replay",)])
def test_a_loud_float_file_is_scaled_down_with_a_line(listen_command, tmp_path, options):
    fair = PCM / 32768 / np.abs(PCM / 32768).max()
    found = {}
    for name, gain in (("fair", 1.0), ("loud", 4.0)):
        (tmp_path / f"{name}.wav").write_bytes(encoded(gain * fair, 16000, "wav", subtype="FLOAT"))
        status, out, err = listen_command(str(tmp_path / f"{name}.wav"), *MODEL, *options)
        assert status == 0
        assert ("loud.wav (peak 4)" in err) == (name == "loud")
        found[name] = [line.get("top", line.get("flips")) for line in map(json.loads, out.splitlines())]
    assert found["fair"] == found["loud"]


def test_the_length_of_a_flac_from_a_pipe_is_that_of_its_samples(tmp_path):
    (tmp_path / "a.flac").write_bytes(flac_without_length(encoded(PCM, 8000, "flac")))
    assert sum(map(len, read_file(tmp_path / "a.flac", 16000))) == 80000


@pytest.mark.parametrize("rate", [5, 999, 768_001])
@pytest.mark.parametrize("command", ["listen", "doctor", "record"])
def test_a_rate_that_no_source_has_is_refused(edgekd, listen_command, tmp_path, command, rate):
    options = ("--rate", str(rate), "--command", "cat /dev/zero")
    if command == "listen":
        status, _, err = listen_command(*MODEL, *options)
    else:
        status, _, err = edgekd(command, *(("rain", "--out", tmp_path) if command == "record" else ()), *options)
    assert (status, f"rate is {rate} Hz" in err) == (2, True)


def test_a_rate_in_the_configuration_is_refused_with_its_file(tmp_path):
    (tmp_path / "box.toml").write_text('[source]\nmic = "USB"\nrate = 5\n')
    with pytest.raises(InputError, match=r"box\.toml: \[source\]: rate is 5 Hz"):
        read_config(tmp_path / "box.toml")


def test_clips_are_not_recorded_at_a_rate_that_no_file_has(tmp_path):
    with pytest.raises(InputError, match="a sample rate of 768001 Hz"):
        next(record(RecordSettings("rain", tmp_path / "out", sample_rate=768_001), SourceRequest()))


def test_a_microphone_that_claims_an_impossible_rate_is_refused_by_name(monkeypatch):
    one = InputDevice(3, "broken card", "hw:1,0", "", "", 0, 1, True)
    monkeypatch.setattr(child, "microphones", lambda: [one])
    monkeypatch.setattr(child, "portaudio", lambda: None)
    with pytest.raises(InputError, match="broken card: its sample rate is 0 Hz"):
        child.capture_microphone(SourceRequest(), child.Outbox(1))
