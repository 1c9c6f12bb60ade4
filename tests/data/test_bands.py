"""Labels that differ in sample rate or band, and channels that cancel, in `data prepare` and `data info`."""

import json

import numpy as np
import pytest
import soundfile
import soxr

from edgekd.data.store.store import INFO_FILE, ClipStore

RATE = 16000


def noise(seed, rate=RATE, seconds=0.5):
    return np.random.default_rng(seed).uniform(-0.3, 0.3, int(rate * seconds))


def write(path, waveform, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate)


def sounds(path, **rates):
    """A folder with a label for each name and a clip of noise at each of its rates."""
    for label, of_label in rates.items():
        for number, rate in enumerate(of_label):
            write(path / label / f"{number}.wav", noise(number, rate), rate)
    return path


@pytest.fixture
def prepare(edgekd, tmp_path):
    """Runs `data prepare folder`, and gives its output, that of `data info` and the report of `data info --json`."""

    def run(path, *options, sample_rate=RATE):
        store = tmp_path / "store"
        status, out, err = edgekd(
            "data", "prepare", "folder", path, "--out", store, "--force", "--sample-rate", sample_rate, *options
        )
        assert status == 0, err
        return out, edgekd("data", "info", store)[1], json.loads(edgekd("data", "info", store, "--json")[1])

    return run


def rows(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_labels_of_different_sample_rates_are_told_with_their_rates(tmp_path, prepare):
    path = sounds(tmp_path / "sounds", day=[8000] * 4, night=[RATE] * 3 + [48000])
    *texts, report = prepare(path)
    for text in texts:
        assert "labels differ in the sample rate or band" in text
        assert "day 8000 Hz (4 clips) to 4.1 kHz" in rows(text)
        assert "night 16000 Hz (3 clips), 48000 Hz (1 clip) to 8.0 kHz" in rows(text)
    assert report["source_rates"] == {"day": {"8000": 4}, "night": {"16000": 3, "48000": 1}}
    assert report["bands"]["day"] == pytest.approx(4000, abs=150)
    for text in prepare(path, sample_rate=8000)[:2]:
        assert "labels differ" not in text


@pytest.mark.parametrize(
    "rates",
    [
        {"day": [8000, 16000] * 4, "night": [16000, 8000] * 4},  # each alike
        {"day": [RATE] * 4, "night": [44100] * 4},  # more than the store holds
    ],
)
def test_rates_that_teach_nothing_are_not_told(tmp_path, prepare, rates):
    out, _, report = prepare(sounds(tmp_path / "sounds", **rates))
    assert "labels differ" not in out
    assert set(report["source_rates"]) == {"day", "night"}


def test_labels_of_one_sample_rate_that_differ_in_band_are_told(tmp_path, prepare):
    path = sounds(tmp_path / "sounds", night=[RATE] * 4)
    for number in range(4):  # a telephone's band, in files of 16 kHz
        write(path / "day" / f"{number}.wav", soxr.resample(noise(number, 8000), 8000, RATE))
    for text in prepare(path)[:2]:
        assert "labels differ in the sample rate or band" in text
        assert "day 16000 Hz (4 clips) to 4.1 kHz" in rows(text)


def stereo(path, kind):
    one, other = noise(7), noise(8)
    for number in range(3):
        channels = {
            "opposite": (one, -one),
            "nearly": (one, 0.01 * other - one),
            "wide": (one, other),
            "quiet": (0.001 * one, 0.001 * other),
        }[kind]
        write(path / "day" / f"s{number}.wav", np.stack(channels, 1) * (1 - number / 10))
    return path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("kind", "told"), [("opposite", True), ("nearly", True), ("wide", False), ("quiet", False)])
def test_channels_that_cancel_are_told(tmp_path, prepare, kind, told, channels):
    path = stereo(sounds(tmp_path / "sounds", day=[RATE] * 2, night=[RATE] * 2), kind)
    *texts, report = prepare(path, "--channels", channels)
    names = [f"day/s{number}.wav" for number in range(3)] if told else []
    assert report["cancelled"] == names
    for text in texts:
        assert ("opposite phase" in text) == told
        assert all(name in text for name in names)


def test_a_resumed_store_has_the_same_facts(edgekd, tmp_path, prepare):
    path = stereo(sounds(tmp_path / "sounds", day=[8000] * 2, night=[RATE] * 2), "opposite")
    wanted = prepare(path)[2]
    assert len(wanted["cancelled"]) == 3
    (path / "night" / "z.wav").touch()
    command = ("data", "prepare", "folder", path, "--out", tmp_path / "resumed")
    assert edgekd(*command)[0] == 2
    (path / "night" / "z.wav").unlink()
    assert "resuming with 7 clips" in edgekd(*command)[2]
    assert json.loads(edgekd("data", "info", tmp_path / "resumed", "--json")[1]) == {
        **wanted,
        "path": str(tmp_path / "resumed"),
    }


def test_a_store_of_an_earlier_edgekd_is_read(edgekd, tmp_path, prepare):
    *_, report = prepare(sounds(tmp_path / "sounds", day=[8000] * 2, night=[RATE] * 2))
    file = tmp_path / "store" / INFO_FILE
    info = json.loads(file.read_text())
    del info["source_rates"], info["cancelled"]
    file.write_text(json.dumps({**info, "version": 1}))
    status, out, _ = edgekd("data", "info", tmp_path / "store")
    assert status == 0
    assert "day unknown to 4.1 kHz" in rows(out)  # the band shows in the audio
    assert ClipStore.open(tmp_path / "store").hash == report["hash"]
