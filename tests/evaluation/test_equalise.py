"""`edgekd equalise`, and what its file does to `predict`, `listen` and `evaluate --microphones`."""

import csv
import json

import msgspec
import numpy as np
import pytest
import soundfile
from helpers.odd_audio import encoded

from edgekd.errors import InputError
from edgekd.evaluation.equalise import equalise
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.frontend import corners, log_mel
from edgekd.modelfile import container
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.equaliser import BandMean, Equaliser, with_equaliser
from edgekd.qgraph import tflite
from edgekd.runtime.config import override, prepared, read_config

RATE = 8000
TILT = np.array([0.4, -0.36])
"""Impulse response of a microphone with 20 dB less at 0 Hz than at 4 kHz."""


def sounds(tones, count=12):
    """Tones in noise of many levels, as in a training. float (count, samples)."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(count, 2 * RATE)) * 10 ** rng.uniform(-3, -1.5, (count, 1))
    return noise + 0.5 * np.stack(
        [tones.tone("low" if each % 2 else "high", 2.0, each) / 32768 for each in range(count)]
    )


def through(sound, response=TILT):
    return np.convolve(sound, response)[: len(sound)]


@pytest.fixture
def model(tmp_path, tone_fixtures):
    """The tone model, with the mean spectrum of `sounds`."""
    mean = BandMean(tone_fixtures.FRONTEND)
    mean.add(log_mel(tone_fixtures.FRONTEND, sounds(tone_fixtures).astype(np.float32)))
    path = tmp_path / "tones.int8.tflite"
    container.write(
        path,
        tflite.emit(tone_fixtures.low_or_high_graph()),
        tone_fixtures.manifest_for(spectrum=tuple(mean.value().tolist())),
    )
    return path


@pytest.fixture
def recordings(tmp_path, tone_fixtures):
    """`sounds` through the microphone."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for index, sound in enumerate(sounds(tone_fixtures)):
        soundfile.write(folder / f"{index}.wav", through(sound), RATE)
    return folder


def test_what_the_microphone_adds_is_found(model, recordings, tmp_path, tone_fixtures):
    report = equalise(model, recordings, tmp_path / "new" / "mic.json")
    frequency = corners(tone_fixtures.FRONTEND)[1:-1]
    response = 20 * np.log10(np.abs(TILT[0] + TILT[1] * np.exp(-2j * np.pi * frequency / RATE)))
    assert (
        np.abs(np.array(report.equaliser.db) - response)[1:].max() < 1.5
    )  # the lowest triangles cover some of the slope
    assert (report.equaliser.windows, report.equaliser.seconds) == (24, 24.0)
    assert json.loads((tmp_path / "new" / "mic.json").read_text())["db"] == list(report.equaliser.db)
    assert "better measure 120 windows or more" in report.to_text()


def test_an_equalised_model_gives_through_the_microphone_the_logits_without_it(
    model, recordings, tmp_path, tone_fixtures
):
    equalise(model, recordings, tmp_path / "mic.json")
    plain = tone_fixtures.tone("low", 1.0) / 32768
    features, coloured = (
        log_mel(tone_fixtures.FRONTEND, each.astype(np.float32))[None] for each in (plain, through(plain))
    )
    opened = open_model(model)
    equalised = with_equaliser(opened, tmp_path / "mic.json")
    expected, uncorrected, corrected = opened.logits(features), opened.logits(coloured), equalised.logits(coloured)
    assert np.abs(corrected - expected).max() < 0.25 * np.abs(uncorrected - expected).max()
    assert with_equaliser(opened, None) is opened


def test_predict_and_listen_take_an_equaliser(edgekd, model, recordings, tmp_path, tone_fixtures):
    quiet = through(
        tone_fixtures.tone("low", 2.0) / 32768 * 0.05 + 0.004 * np.random.default_rng(2).normal(size=2 * RATE)
    )
    soundfile.write(tmp_path / "low.wav", quiet, RATE)
    assert edgekd("equalise", model, recordings, "--out", tmp_path / "mic.json")[0] == 0
    labels = []
    for options in ((), ("--equaliser", tmp_path / "mic.json")):
        status, _, err = edgekd(
            "predict", model, tmp_path / "low.wav", "--csv", tmp_path / "p.csv", "--force", *options
        )
        assert (status, err) == (0, "")
        with (tmp_path / "p.csv").open(newline="") as file:
            predicted = next(csv.DictReader(file))["label"]
        out = edgekd("listen", tmp_path / "low.wav", "--model", model, "--json", *options)[1]
        assert {json.loads(line)["label"] for line in out.splitlines()} == {predicted}
        assert (
            json.loads(edgekd("listen", tmp_path / "low.wav", "--model", model, "--replay", "--json", *options)[1])[
                "decisions"
            ]
            > 0
        )
        labels.append(predicted)
    assert labels == ["high", "low"]


def test_quiet_and_silent_windows_are_left_out(edgekd, model, recordings, tmp_path):
    soundfile.write(recordings / "silent.wav", np.zeros(3 * RATE), RATE)
    soundfile.write(recordings / "hum.wav", 1e-4 * np.sin(np.arange(4 * RATE)), RATE)
    (recordings / "broken.wav").write_bytes(b"RIFF")
    status, out, _ = edgekd("equalise", model, recordings, "--out", tmp_path / "mic.json", "--gate", "-60", "--json")
    document = json.loads(out)
    assert (status, document["equaliser"]["windows"], document["quiet"], len(document["unreadable"])) == (0, 24, 4, 1)
    assert json.loads((tmp_path / "mic.json").read_text()) == document["equaliser"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gate", "3"), "gate is 3 dBFS; full scale is 0 and less is negative"),
        (
            ("--gate", "-2"),
            (
                "0 windows of sound; an equaliser needs 10 or more, better 120, of many kinds of sound; record more, or"
                " lower"
            ),
        ),
        (("--out", "."), ". is a folder; give --out a file name"),
        (("--out", "tones.int8.tflite"), "tones.int8.tflite exists; replace it with --force"),
    ],
)
def test_what_makes_no_sense_is_refused(edgekd, monkeypatch, model, recordings, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = edgekd(
        "equalise", model, recordings, *(() if "--out" in options else ("--out", "mic.json")), *options
    )
    assert (status, out) == (2, "")
    assert message in err
    assert not (tmp_path / "mic.json").exists()


def test_a_model_without_a_spectrum_is_refused(tone_model, recordings, tmp_path):
    with pytest.raises(InputError, match="mean spectrum of its training clips"):
        equalise(tone_model, recordings, tmp_path / "mic.json")


def test_files_of_other_models_and_damaged_ones_are_refused(model, recordings, tmp_path):
    path, opened = tmp_path / "mic.json", open_model(model)
    made = equalise(model, recordings, path).equaliser
    other = msgspec.structs.replace(made.frontend, hop_length=100)
    for content, message in (
        (b"", "is no equaliser, or a damaged one"),
        (b'{"db": 1}', "is no equaliser, or a damaged one"),
        (
            msgspec.json.encode(msgspec.structs.replace(made, db=made.db[1:])),
            "whose front end is another than that of tones",
        ),
        (
            msgspec.json.encode(msgspec.structs.replace(made, frontend=other)),
            "whose front end is another than that of tones",
        ),
        (
            msgspec.json.encode(msgspec.structs.replace(made, data_hash="1")),
            "which was trained on other clips than tones",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            with_equaliser(opened, path)
    with pytest.raises(InputError, match=r"nowhere\.json: .*cannot be read"):
        with_equaliser(opened, "nowhere.json")
    retrained = msgspec.structs.replace(made.frontend, mean=0.5, std=2.0)  # another student of the same clips
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(made, frontend=retrained)))
    assert with_equaliser(opened, path).manifest is opened.manifest
    assert msgspec.json.decode(path.read_bytes(), type=Equaliser).db == made.db


@pytest.fixture
def coloured(tmp_path, tone_fixtures):
    """A store of `sounds` (b) and quiet tones (a), and the folder of the microphone."""
    folder = tmp_path / "mics"
    folder.mkdir()
    soundfile.write(folder / "tilt.wav", TILT, RATE, subtype="FLOAT")
    (folder / "makes.toml").write_text('[train]\n[test]\nAcme = ["tilt"]\n')
    clip = tone_fixtures.Clip
    noise = 0.004 * np.random.default_rng(2).normal(size=2 * RATE)
    items = [
        (clip(f"b{index}.wav", "low", "b"), (32767 * sound).astype(np.int16))
        for index, sound in enumerate(sounds(tone_fixtures))
    ]
    items += [
        (clip(f"a{label}.wav", label, "a"), (tone_fixtures.tone(label, 2.0) * 0.05 + 32767 * noise).astype(np.int16))
        for label in ("low", "high")
    ]
    return tone_fixtures.write_store(tmp_path / "store", items).path, folder


def test_microphones_are_scored_with_equalisers(edgekd, model, coloured):
    store, folder = coloured
    bare = evaluate_file(model, store, ["a"], microphones=(folder, "test")).shift
    equalised = evaluate_file(model, store, ["a"], microphones=(folder, "test"), equalise=12).shift
    assert (bare.found.clips, bare.found.worst.clips.accuracy, equalised.found.worst.clips.accuracy) == (1.0, 0.5, 1.0)
    assert equalised.where().endswith("each equalised by 12 clips of other splits")
    options = ("--data", store, "--split", "a", "--microphones", folder)
    document = json.loads(edgekd("evaluate", model, *options, "--equalise", 12, "--json")[1])
    assert document["microphones"]["equalised"] == 12
    for number, message in ((0, "--equalise is 0; give the number of clips"), (13, "--equalise 13: 12 clips of")):
        status, _, err = edgekd("evaluate", model, *options, "--equalise", number)
        assert status == 2
        assert message in err
    assert "--equalise 3 without --microphones FOLDER" in edgekd("evaluate", model, "--data", store, "--equalise", 3)[2]


def test_a_configuration_names_an_equaliser_relative_to_itself(model, recordings, tmp_path):
    made = equalise(model, recordings, tmp_path / "mic.json").equaliser
    (tmp_path / "box.toml").write_text('[model]\nfile = "tones.int8.tflite"\n[source]\nequaliser = "mic.json"\n')
    config = read_config(tmp_path / "box.toml")
    features = np.zeros((1, 8, made.frontend.frames(RATE)), np.float32)
    plain = open_model(model).logits(features)
    assert (prepared(config, lambda *_: None).classifier.logits(features) != plain).any()
    elsewhere = override(config, {"source": {"mic": "USB"}})  # another microphone than that of the file
    assert elsewhere.source.equaliser is None
    (tmp_path / "mic.json").write_text("{")
    with pytest.raises(InputError, match="is no equaliser, or a damaged one"):
        prepared(config, lambda *_: None)


def test_a_damaged_recording_adds_nothing_and_a_loud_one_is_named(edgekd, model, recordings, tmp_path, tone_fixtures):
    soundfile.write(recordings / "loud.wav", 2.0 * np.sign(sounds(tone_fixtures, 1)[0]), RATE, subtype="FLOAT")
    status, out, _ = edgekd("equalise", model, recordings, "--out", tmp_path / "mic.json", "--json")
    assert (status, list(json.loads(out)["loud"].values())) == (0, [2.0])
    long = np.concatenate([np.concatenate(sounds(tone_fixtures, 10))] * 3)
    (recordings / "cut.flac").write_bytes(encoded(long, RATE, "flac")[:-3000])
    (recordings / "slow.wav").write_bytes(encoded(long[:50], 9, "wav"))
    status, again, _ = edgekd("equalise", model, recordings, "--out", tmp_path / "again.json", "--json")
    assert status == 0
    assert json.loads(again)["equaliser"]["db"] == json.loads(out)["equaliser"]["db"]
    unreadable = " ".join(json.loads(again)["unreadable"])
    assert "cut.flac" in unreadable
    assert "slow.wav: its sample rate is 9 Hz" in unreadable
