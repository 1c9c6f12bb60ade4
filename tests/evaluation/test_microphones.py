"""`edgekd evaluate --microphones` on a store of tones, with a microphone that is deaf to one of them."""

import json

import numpy as np
import pytest
import soundfile

from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.evaluation import microphones as device_shift
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.frontend import log_mel
from edgekd.modelfile.engine import open_model

RATE = 8000


@pytest.fixture
def microphones(tmp_path):
    """One that changes nothing, one deaf at multiples of 1 kHz and so to the high tone, and one for training."""
    folder = tmp_path / "mics"
    folder.mkdir()
    for name, response in (("plain", [0.5]), ("deaf", np.full(8, 0.1)), ("ours", [0.5, 0.1])):
        soundfile.write(folder / f"{name}.wav", response, RATE)
    (folder / "makes.toml").write_text('[train]\nOurs = ["ours"]\n[test]\nAcme = ["plain"]\nBell = ["deaf"]\n')
    return folder


def test_clips_are_scored_through_microphones_of_makes_kept_for_tests(tone_model, tone_store, microphones):
    report = evaluate_file(tone_model, tone_store, ["a"], microphones=(microphones, "test"))
    found = report.shift.found
    assert (found.clips, report.scores.clips.accuracy) == (1.0, 1.0)
    assert [(each.name, each.make, each.clips.accuracy, each.lost, each.gained) for each in found.microphones] == [
        ("plain", "Acme", 1.0, 0, 0),
        ("deaf", "Bell", 0.5, 2, 0),
    ]
    assert found.microphones[0].windows.difference.low == found.microphones[0].windows.difference.high == 0
    text = report.to_text()
    assert f"through 2 microphones of 2 makes, those for tests, in {microphones}" in text
    assert "worst make" in text
    report.require(None, 0.5)
    with pytest.raises(GateError, match=r"deaf .*0\.5000 .*--max-drop 0\.03"):
        report.require(None, 0.03)


def test_windows_are_parts_of_the_convolved_clip(tone_model, tone_store, tmp_path, monkeypatch):
    folder = tmp_path / "rooms"
    folder.mkdir()
    soundfile.write(
        folder / "room.wav",
        0.3 * np.random.default_rng(0).normal(size=5000) * 0.999 ** np.arange(5000),
        RATE,
        subtype="FLOAT",
    )
    kept = {}
    monkeypatch.setattr(device_shift, "device_shift", lambda _, logits, __: kept.update(logits=logits))
    evaluate_file(tone_model, tone_store, ["a"], hop=0.5, microphones=(folder, "all"))
    store, model = ClipStore.open(tone_store), open_model(tone_model)
    responses = device_shift.Microphones.read(folder, "all", RATE).responses
    convolved = [np.convolve(store.waveform(clip), responses[0]) for clip in range(4)]
    expected = [
        model.logits(
            log_mel(
                model.manifest.frontend,
                np.stack([clip[start : start + RATE] for start in range(0, 12001, 4000)]).astype(np.float32),
            )
        )
        for clip in convolved
    ]
    assert np.abs(kept["logits"][0, :16] - np.concatenate(expected)).max() <= model.manifest.output.scale


def test_json_and_page_list_every_microphone(edgekd, tone_model, tone_store, microphones, tmp_path):
    options = ("--data", tone_store, "--split", "a", "--microphones", microphones, "--mic-split", "all")
    status, out, _ = edgekd("evaluate", tone_model, *options, "--json", "--report", tmp_path / "page.html")
    shift = json.loads(out)["microphones"]
    assert (status, shift["worst"], shift["worst_make"], shift["split"]) == (0, "deaf", "Bell", "all")
    assert {each["name"]: each["make"] for each in shift["each"]} == {"plain": "Acme", "deaf": "Bell", "ours": "Ours"}
    assert shift["clean"] == {"clip_accuracy": 1.0, "window_accuracy": 1.0}
    assert set(shift["each"][0]["clips"]["difference"]) == {"mean", "low", "high"}
    page = (tmp_path / "page.html").read_text()
    assert "Through other microphones" in page
    assert "deaf" in page
    status, _, err = edgekd("evaluate", tone_model, *options, "--max-drop", 0.1)
    assert status == 1
    assert "through deaf" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mic-split", "train"), "--mic-split train without --microphones FOLDER"),
        (("--max-drop", "0.1"), "--max-drop 0.1 without --microphones FOLDER"),
        (("--microphones", "mics", "--max-drop", "3"), "--max-drop is 3; give a fraction"),
        (("--microphones", "mics", "--mic-split", "trian"), "did you mean 'train'"),
        (("--microphones", "nowhere"), "nowhere is not a folder of impulse responses"),
    ],
)
def test_options_that_make_no_sense_are_refused(edgekd, tone_model, tone_store, options, message):
    status, out, err = edgekd("evaluate", tone_model, "--data", tone_store, *options)
    assert (status, out) == (2, "")
    assert message in err


def test_a_folder_whose_makes_nobody_knows_is_refused_but_for_all(tone_model, tone_store, microphones):
    (microphones / "makes.toml").unlink()
    with pytest.raises(InputError, match=r"plain\.wav has no make in micirp"):
        evaluate_file(tone_model, tone_store, microphones=(microphones, "test"))
    assert len(evaluate_file(tone_model, tone_store, microphones=(microphones, "all")).shift.found.makes) == 3
