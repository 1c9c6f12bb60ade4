"""YAMNet as a network: with the published weights it computes what the published file does; a student of its first
layers."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.trainings import recipe_dict, write_store

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.modelfile.black_box import open_features
from edgekd.models import build, front, initial
from edgekd.models.logmel import LogMel
from edgekd.models.mobilenet_v1 import MobileNetV1Config
from edgekd.models.yamnet import YamnetConfig
from edgekd.quant import to_qat
from edgekd.train.loop.training import train
from edgekd.train.recipe.recipe import decode, load_recipe

SHARED = Path(__file__).parents[3] / "shared" / "data"
YAMNET, ESC50 = SHARED / "models/yamnet.tflite", SHARED / "esc50/audio"
needs_yamnet = pytest.mark.skipif(
    not (YAMNET.is_file() and ESC50.is_dir()), reason="needs ../shared/data/models/yamnet.tflite and esc50"
)
PATCH = 15_600
"""Samples that the published file reads: 96 frames and the rest of a step."""


def test_it_has_the_published_size_and_reads_any_length():
    model = build(YamnetConfig(), 50).eval()
    assert sum(each.numel() for each in model.features.parameters()) == 3_195_456
    with torch.inference_mode():
        for samples, map_ in ((100, (2, 1)), (PATCH, (2, 3)), (80_000, (2, 16))):
            waveform = torch.randn(2, 1, samples)
            assert model.features(model.log_mel(waveform)).shape == (2, 1024, *map_)
            assert model(waveform).shape == (2, 50)


def test_its_front_end_computes_in_float32_whatever_the_rest_does():
    model = build(YamnetConfig(), 3).eval()
    waveform = torch.randn(1, 1, PATCH)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.log_mel(waveform), model.log_mel(waveform.double()))


@needs_yamnet
def test_the_published_weights_give_the_features_of_the_file():
    model = initial(YamnetConfig(weights=str(YAMNET)), 50).eval()
    embedding = open_features(YAMNET, "yamnet_frames/global_average_pooling2d/Mean")
    features = open_features(YAMNET, "yamnet_frames/tf_op_layer_Log/Log")
    for path in sorted(ESC50.glob("*.flac"))[:3]:
        waveform = soundfile.read(path, dtype="float32")[0][:PATCH]
        with torch.inference_mode():
            log_mel = model.log_mel(torch.from_numpy(waveform)[None, None])
            ours = model.classifier.pool(model.features(log_mel)).flatten().numpy()
        frames = log_mel[0, 0].mean(dim=1).numpy()  # the file's filters are int8, which matters in silence alone
        np.testing.assert_allclose(frames, features.vector(waveform), atol=0.3)
        assert np.corrcoef(ours, embedding.vector(waveform))[0, 1] > 0.99


@needs_yamnet
def test_other_weights_are_refused(tmp_path):
    (tmp_path / "junk.tflite").write_bytes(b"junk" * 100)
    with pytest.raises(InputError, match="is not a LiteRT model"):
        initial(YamnetConfig(weights=str(tmp_path / "junk.tflite")), 50)
    with pytest.raises(InputError, match=r"none\.tflite': no such file"):
        initial(YamnetConfig(weights=str(tmp_path / "none.tflite")), 50)
    other = YAMNET.with_name("dcase2022_baseline.tflite")
    with pytest.raises(InputError, match=r"\(32, 3, 3, 1\) of layer1/conv"):
        initial(YamnetConfig(weights=str(other)), 50)


@pytest.mark.parametrize("other", [{"sample_rate": 32_000}, {"pre_emphasis": 0.97}])
def test_a_front_end_that_it_was_not_trained_on_is_refused(other):
    front(YamnetConfig(), FrontEnd())
    with pytest.raises(InputError, match=r"16000 Hz, .*sample_rate = 16000"):
        front(YamnetConfig(), FrontEnd(**other))


def test_it_reads_one_channel_and_has_no_integer_form():
    model = build(YamnetConfig(), 3)
    with pytest.raises(InputError, match="reads one channel, got 2"):
        model(torch.randn(1, 2, PATCH))
    with pytest.raises(InputError, match="log_mel: YamnetFeatures"):
        to_qat(model)


def test_the_student_is_within_the_budget_and_has_an_integer_form():
    model = build(MobileNetV1Config(norm="none"), 50)
    sizes = [(each.numel(), name.endswith("bias")) for name, each in model.named_parameters()]
    assert sum(size * (4 if bias else 1) for size, bias in sizes) == 126_024
    to_qat(model)
    to_qat(build(MobileNetV1Config(), 50))


@needs_yamnet
def test_the_student_begins_with_the_first_layers_and_has_their_features():
    yamnet = initial(YamnetConfig(weights=str(YAMNET)), 50).eval()
    student = initial(MobileNetV1Config(norm="none", weights=str(YAMNET)), 50).eval()
    for ours, theirs in zip(student.features, yamnet.features, strict=False):
        outputs, inputs = ours.conv.weight.shape[:2]
        assert torch.equal(ours.conv.weight, theirs.conv.weight[:outputs, :inputs])
        assert torch.equal(ours.conv.bias, theirs.conv.bias[:outputs])
    assert student.features[-1].conv.weight.shape[0] == 152
    # to the 256 channels, where the widths still are the same
    log_mel, first = LogMel(load_recipe("esc50-best").frontend), 9
    for path in sorted(ESC50.glob("*.flac"))[:3]:
        waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0][None, :16_000])
        with torch.inference_mode():
            ours = student.features[:first](log_mel(waveform)).mean(dim=(2, 3))[0].numpy()
            theirs = yamnet.features[:first](yamnet.log_mel(waveform[:, None])).mean(dim=(2, 3))[0].numpy()
        # bands of power are not quite those of magnitudes, and padding is symmetric
        assert np.corrcoef(ours, theirs)[0, 1] > 0.7


@needs_yamnet
def test_frozen_convolutions_are_not_trained():
    student = initial(MobileNetV1Config(norm="none", weights=str(YAMNET), frozen=3), 50)
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert {name for name, _ in student.named_parameters()} - trained == {
        f"features.{number}.conv.{kind}" for number in range(3) for kind in ("weight", "bias")
    }
    with pytest.raises(InputError, match=r"frozen = 3 .*give weights"):
        MobileNetV1Config(frozen=3)
    with pytest.raises(InputError, match=r"frozen = 14, .*13 convolutions"):
        MobileNetV1Config(norm="none", weights=str(YAMNET), frozen=14)


@needs_yamnet
def test_weights_that_do_not_fit_the_student_are_refused():
    with pytest.raises(InputError, match="set norm = 'none' for weights"):
        MobileNetV1Config(weights=str(YAMNET))
    with pytest.raises(InputError, match=r"convolution 2 .*32 to 65 .*32 to 64"):
        initial(MobileNetV1Config(norm="none", layers=((65, 1),), weights=str(YAMNET)), 50)


def test_missing_weights_are_reported_before_a_run_folder_is_made(tmp_path):
    store = write_store(tmp_path / "store")
    student = {"kind": "mobilenet_v1", "norm": "none", "weights": str(tmp_path / "none.tflite")}
    recipe = decode({**recipe_dict(), "student": student}, "student")
    with pytest.raises(InputError, match=r"none\.tflite': no such file"):
        train(recipe, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()
