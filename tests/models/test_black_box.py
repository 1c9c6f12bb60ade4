"""Frozen files as networks: patches, pools, memory, copies, and a head that learns."""

import copy
import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from model_files import onnx_file
from onnx import helper
from torch.nn import functional as F

from edgekd.data.audio.decode import decode
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.modelfile.black_box import BlackBox
from edgekd.models import Taps, build, front
from edgekd.models.black_box import BlackBoxConfig

SHARED = Path(__file__).parents[2].parent / "shared/data"
YAMNET, ESC50 = SHARED / "models/yamnet.tflite", SHARED / "esc50"
RATE = 8


def sums_file(path, factor=1.0, shape=(1, 4)):
    """Four samples in; out their sum, and that times ten."""
    weight = factor * np.stack([np.ones(4), 10 * np.ones(4)], axis=1).astype(np.float32)
    return str(
        onnx_file(
            path,
            [helper.make_node("MatMul", ["input", "weight"], ["logits"])],
            {"weight": weight.astype(np.float32)},
            shape,
        )
    )


@pytest.fixture
def file(tmp_path):
    return sums_file(tmp_path / "sums.onnx")


def features(x, labels=2, **changes):
    model = build(BlackBoxConfig(sample_rate=RATE, head=False, **changes), labels)
    return model(torch.tensor(x)[:, None]).numpy()


@pytest.mark.parametrize(
    ("hop", "waveform", "expected"),
    [
        (None, [1, 1, 1, 1, 2, 2, 2, 2, 7], (4 + 8) / 2),  # the rest is shorter than a patch
        (0.25, [1, 1, 1, 1, 2, 2, 2, 2], (4 + 6 + 8) / 3),
        (None, [1, 1], 2),  # zeros follow
        (9.0, [1, 1, 1, 1, 2, 2, 2, 2], 4),
    ],
)
def test_features_are_the_mean_over_patches(file, hop, waveform, expected):
    np.testing.assert_allclose(
        features(np.array([waveform], np.float32), file=file, hop=hop), [[expected, 10 * expected]]
    )


def test_maxima_may_be_pooled_with_means(file):
    model = build(BlackBoxConfig(file=file, sample_rate=RATE, pool="mean_max"), 3)
    _, taps = Taps(model, ("embedding",))(torch.tensor([[[1.0] * 4 + [2.0] * 4]]))
    np.testing.assert_allclose(taps["embedding"], [[6, 60, 8, 80]])


def test_patches_of_a_file_that_takes_any_length_have_the_configured_length(tmp_path):
    node = helper.make_node("ReduceSum", ["input", "axis"], ["logits"])
    file = str(onnx_file(tmp_path / "any.onnx", [node], {"axis": np.array([1])}, (1, "time")))
    waveform = np.arange(8, dtype=np.float32)[None]
    assert features(waveform, file=file, labels=1) == 28
    assert features(waveform, file=file, labels=1, seconds=0.5) == 14


@pytest.mark.parametrize("hidden", [0, 5])
def test_only_the_head_is_trained(file, hidden):
    model = build(BlackBoxConfig(file=file, sample_rate=RATE, hidden=hidden, dropout=0.1), 3)
    model(torch.ones(2, 1, 8)).sum().backward()
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {
        name for name, each in model.named_parameters() if each.grad is not None
    }
    assert all(name.startswith(f"{model.HEAD}.") for name, each in model.named_parameters() if each.requires_grad)
    assert sum(each.numel() for each in model.parameters()) == ((2 * 5 + 5 + 5 * 3 + 3) if hidden else 2 * 3 + 3)


def test_features_of_a_repeated_waveform_are_cached(file, monkeypatch):
    model = build(BlackBoxConfig(file=file, sample_rate=RATE), 3).eval()
    computed, honest = [], BlackBox.vector
    monkeypatch.setattr(BlackBox, "vector", lambda box, waveform: computed.append(waveform) or honest(box, waveform))
    x = torch.randn(3, 1, 4)
    first = model(x)
    assert (model(x.flip(0)).flip(0) == first).all()
    assert len(computed) == 3
    model(x + 0.1)
    assert len(computed) == 6


def test_copies_and_pickles_compute_the_same(file):
    model = build(BlackBoxConfig(file=file, sample_rate=RATE), 3).eval()
    x = torch.randn(2, 1, 9)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (other(x) == model(x)).all()


def test_weights_belong_to_their_file(tmp_path, file):
    config = BlackBoxConfig(file=file, sample_rate=RATE)
    saved = build(config, 3).state_dict()
    build(config, 3).load_state_dict(saved)
    sums_file(tmp_path / "sums.onnx", factor=2.0)
    with pytest.raises(InputError, match=r"not the file .*trained on"):
        build(config, 3).load_state_dict(saved)


def test_what_does_not_fit_is_refused(file):
    config = BlackBoxConfig(file=file, sample_rate=RATE)
    with pytest.raises(InputError, match=r"2 values, .*3 labels"):
        build(BlackBoxConfig(file=file, sample_rate=RATE, head=False), 3)
    with pytest.raises(InputError, match=r"one channel, got 2; .*'mean'"):
        build(config, 3)(torch.zeros(1, 2, 4))
    with pytest.raises(InputError, match=r"8 Hz .*16000 Hz"):
        front(config, FrontEnd(sample_rate=16000))
    with pytest.raises(InputError, match=r"pre_emphasis is 0.9"):
        front(BlackBoxConfig(file=file), FrontEnd(pre_emphasis=0.9))


@pytest.mark.skipif(
    not (YAMNET.is_file() and ESC50.is_dir()),
    reason="needs ../shared/data/models/yamnet.tflite and ../shared/data/esc50",
)
@pytest.mark.slow
def test_a_linear_head_on_yamnet_learns_real_clips():
    """90 clips of ten labels, those of the fourth fold kept for a test."""
    table = (ESC50 / "meta/esc50.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(table) if row["esc10"] == "True" and row["fold"] in "1234"]
    labels = sorted({row["category"] for row in rows})
    rows = [
        row
        for label in labels
        for fold in "1234"
        for row in [each for each in rows if each["category"] == label and each["fold"] == fold][
            : 3 if fold == "4" else 2
        ]
    ]
    audio = [next((ESC50 / "audio").glob(f"{Path(row['filename']).stem}.*")) for row in rows]
    waves = torch.from_numpy(np.stack([decode(path, 16000, 1)[:, 0] for path in audio]).astype(np.float32) / 32768)[
        :, None
    ]
    truth = torch.tensor([labels.index(row["category"]) for row in rows])
    kept = torch.tensor([row["fold"] == "4" for row in rows])
    torch.manual_seed(0)
    model = build(BlackBoxConfig(file=str(YAMNET), output="yamnet_frames/global_average_pooling2d/Mean"), 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(waves[~kept]), truth[~kept])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    with torch.no_grad():
        assert (model(waves[kept]).argmax(1) == truth[kept]).float().mean() > 0.7
