"""YAMNet as a network: its shapes, and that with the published weights it says what the published file says."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from edgekd.blackbox import open_features
from edgekd.errors import InputError
from edgekd.models import build, initial
from edgekd.models.yamnet import YamnetConfig
from edgekd.quant import to_qat

SHARED = Path(__file__).parents[3] / "shared" / "data"
YAMNET, ESC50 = SHARED / "models/yamnet.tflite", SHARED / "esc50/audio"
needs_yamnet = pytest.mark.skipif(not (YAMNET.is_file() and ESC50.is_dir()), reason="needs ../shared/data/models/yamnet.tflite and esc50")
PATCH = 15_600
"""Samples that the published file hears: 96 frames and the rest of a step."""


def test_it_has_the_published_size_and_hears_any_length():
    model = build(YamnetConfig(), 50).eval()
    assert sum(each.numel() for each in model.features.parameters()) == 3_195_456
    with torch.inference_mode():
        for samples, map_ in ((100, (2, 1)), (PATCH, (2, 3)), (80_000, (2, 16))):
            sound = torch.randn(2, 1, samples)
            assert model.features(model.log_mel(sound)).shape == (2, 1024, *map_)
            assert model(sound).shape == (2, 50)


def test_its_front_end_computes_in_float32_whatever_the_rest_does():
    model = build(YamnetConfig(), 3).eval()
    sound = torch.randn(1, 1, PATCH)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.log_mel(sound), model.log_mel(sound.double()))


@needs_yamnet
def test_with_the_published_weights_it_hears_what_the_file_hears():
    model = initial(YamnetConfig(weights=str(YAMNET)), 50).eval()
    embedding = open_features(YAMNET, "yamnet_frames/global_average_pooling2d/Mean")
    features = open_features(YAMNET, "yamnet_frames/tf_op_layer_Log/Log")
    for path in sorted(ESC50.glob("*.flac"))[:3]:
        sound = soundfile.read(path, dtype="float32")[0][:PATCH]
        with torch.inference_mode():
            log_mel = model.log_mel(torch.from_numpy(sound)[None, None])
            ours = model.classifier.pool(model.features(log_mel)).flatten().numpy()
        frames = log_mel[0, 0].mean(dim=1).numpy()  # the file's filters are int8, which is heard in silence alone
        np.testing.assert_allclose(frames, features.vector(sound), atol=0.3)
        assert np.corrcoef(ours, embedding.vector(sound))[0, 1] > 0.99


@needs_yamnet
def test_other_weights_are_refused(tmp_path):
    (tmp_path / "junk.tflite").write_bytes(b"junk" * 100)
    with pytest.raises(InputError, match="is no model of LiteRT"):
        initial(YamnetConfig(weights=str(tmp_path / "junk.tflite")), 50)
    with pytest.raises(InputError, match=r"none\.tflite' cannot be read \(No such file or directory\); give the path of yamnet\.tflite"):
        initial(YamnetConfig(weights=str(tmp_path / "none.tflite")), 50)
    other = YAMNET.with_name("dcase2022_baseline.tflite")
    with pytest.raises(InputError, match=r"has no tensor \(32,\) of layer1/conv; give the published yamnet\.tflite"):
        initial(YamnetConfig(weights=str(other)), 50)


def test_it_hears_one_channel_and_has_no_integer_form():
    model = build(YamnetConfig(), 3)
    with pytest.raises(InputError, match="hears one channel, got 2"):
        model(torch.randn(1, 2, PATCH))
    with pytest.raises(InputError, match="log_mel: YamnetFeatures has no integer form"):
        to_qat(model)
