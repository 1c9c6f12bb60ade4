"""The synthetic scenes: reproducible, disjoint, and different in their course in time only."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from edgekd.data.sets import synth
from edgekd.frontend import FrontEnd, log_mel

RATE = 16000
FRONTEND = FrontEnd(n_fft=1024, win_length=1024, hop_length=256, n_mels=64, f_min=50.0)


@pytest.fixture(scope="module")
def data():
    clips, pcm = zip(*synth.clips(400, 2.0, 0, RATE), strict=True)
    return clips, np.concatenate(pcm, axis=1).T  # (clips, time)


def score(features, clips):
    """Test accuracy of a linear model."""
    labels, train = np.array([clip.label for clip in clips]), np.array([clip.split == "train" for clip in clips])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return model.fit(features[train], labels[train]).score(features[~train], labels[~train])


def test_the_same_seed_gives_the_same_clips_and_another_seed_others(data):
    clips, pcm = data
    again = next(iter(synth.clips(40, 2.0, 0, RATE)))
    other = next(iter(synth.clips(40, 2.0, 1, RATE)))
    assert again[0] == clips[0]
    np.testing.assert_array_equal(again[1][:, 0], pcm[0])
    assert (other[1][:, 0] != pcm[0]).any()


def test_labels_are_the_ten_scenes_and_each_is_in_both_splits(data):
    clips, _ = data
    assert list(synth.SCENES) == [
        "airport",
        "bus",
        "metro",
        "metro_station",
        "park",
        "public_square",
        "shopping_mall",
        "street_pedestrian",
        "street_traffic",
        "tram",
    ]
    assert {(clip.label, clip.split) for clip in clips} == {
        (label, split) for label in synth.SCENES for split in ("train", "test")
    }
    assert len({clip.path for clip in clips}) == len(clips)


def test_locations_are_disjoint_and_one_recorder_is_new_in_test(data):
    clips, _ = data
    groups, recorders = (
        {split: {getattr(clip, what) for clip in clips if clip.split == split} for split in ("train", "test")}
        for what in ("group", "recorder")
    )
    assert not groups["train"] & groups["test"]
    assert recorders["test"] - recorders["train"] == {"s2"}
    assert len(recorders["train"]) == 3


def test_clips_are_loud_enough_and_hardly_clipped(data):
    _, pcm = data
    level = np.sqrt(np.mean((pcm / np.float32(32768)) ** 2, axis=1))
    assert level.min() > 0.005
    assert ((pcm == 32767) | (pcm == -32768)).mean() < 1e-4


def test_the_mean_spectrum_does_not_separate_the_scenes_but_the_course_in_time_does(data):
    clips, pcm = data
    features = log_mel(FRONTEND, pcm.astype(np.float32) / 32768)  # (clips, mel, frame)
    mean = features.mean(axis=-1)
    modulation = np.abs(np.fft.fft2(features - mean[..., np.newaxis]))[:, :12]  # slow over mel, both directions in time
    modulation = np.log(np.concatenate([modulation[..., :24], modulation[..., -24:]], axis=-1) + 1e-3).reshape(
        len(clips), -1
    )
    assert score(mean, clips) < 0.4
    assert score(modulation, clips) > 0.6


@pytest.mark.parametrize("label", sorted(synth.SCENES))
def test_a_recording_has_the_length_asked_for(label):
    waveform = synth.recording(label, np.random.default_rng(0), 1.2345, 8000, "somewhere-1", "b")
    assert waveform.shape == (9876,)
    assert waveform.dtype == np.float32
    assert np.isfinite(waveform).all()
