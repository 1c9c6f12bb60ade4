"""The teachers of the four seed systems: shapes and sizes of their papers, and what is special in each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import frontend
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.models import ModelConfig, Taps, build, initial
from edgekd.models.bc_resnet import BcResNetAscConfig
from edgekd.models.blocks import AttentionPool, PooledClassifier, SqueezeExcite
from edgekd.models.cnn14 import PUBLISHED, Cnn14Config
from edgekd.models.cnn_gru import CnnGruConfig
from edgekd.models.cp_resnet import CpResNetConfig
from edgekd.models.hltdnn import HistogramLayer, HLTdnnConfig
from edgekd.models.mobilenet_v2 import MobileNetV2Config
from edgekd.models.raw_cnn import RawCnnConfig
from edgekd.models.serfr_cnn import SerfrCnnConfig
from edgekd.quant import to_qat

LABELS = 10
TWIN = {"widths": (8, 16, 16), "hidden": 24}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_raw_cnn_has_the_lengths_of_the_paper() -> None:
    with torch.device("meta"):
        model = build(RawCnnConfig(), LABELS)
        paths = ("stem", *(f"blocks.{index}" for index in range(7)), "classifier.pool", "embedding")
        logits, taps = Taps(model, paths)(torch.zeros(1, 2, 479_999))
    *maps, pooled, embedding = taps.values()
    assert [each.shape[1:] for each in maps] == [
        (width, 1, length)
        for width, length in zip(
            (64, 64, 128, 128, 128, 128, 128, 128), (39_999, 13_333, 4_444, 1_481, 493, 164, 54, 18), strict=True
        )
    ]
    assert (pooled.shape[1:], embedding.shape, logits.shape) == ((128, 1, 1), (1, 64), (1, LABELS))
    assert parameters(model) == 612_170


def test_the_raw_cnn_takes_the_maximum_of_frames() -> None:
    model = build(RawCnnConfig(channels=1, stem=4, widths=(4,)), LABELS)
    x = torch.randn(2, 4, 1, 9)
    assert torch.equal(model.classifier.pool(x)[..., 0, 0], x.amax(dim=(2, 3)))
    attention = build(RawCnnConfig(channels=1, stem=4, widths=(4,), pooling="attention", heads=2), LABELS)
    assert isinstance(attention.classifier.pool, AttentionPool)


def test_the_cnn_gru_has_the_shapes_of_the_paper() -> None:
    fe = FrontEnd(sample_rate=48_000, n_fft=4800, win_length=4800, hop_length=1920, padding="end")
    assert (fe.n_mels, fe.frames(479_999)) == (256, 249)
    with torch.device("meta"):
        model = build(CnnGruConfig(), LABELS)
        logits, taps = Taps(
            model, ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "pool", "classifier.pool", "embedding")
        )(torch.zeros(2, 2, 256, 249))
    assert [tuple(each.shape[1:]) for each in taps.values()] == [
        (30, 256, 249),
        (30, 256, 249),
        (60, 128, 124),
        (120, 64, 62),
        (240, 21, 20),
        (480, 1, 20),
        (480, 1, 1),
        (64,),
    ]
    assert logits.shape == (2, LABELS)
    assert parameters(model) == 2_496_954


def test_a_cnn_carries_all_its_weights_into_the_cnn_gru() -> None:
    plain, recurrent = (
        build(CnnGruConfig(gru=gru, channels=1, stem=4, widths=(4, 6), pools=(2, 2)), LABELS) for gru in (False, True)
    )
    missing, unexpected = recurrent.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert all(name.startswith("classifier.pool.gru.") for name in missing)
    assert parameters(plain) == sum(value.numel() for name, value in recurrent.named_parameters() if "gru" not in name)


def test_the_order_of_frames_matters_to_the_gru_and_not_to_the_cnn() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, 1, 7)
    for gru in (True, False):
        pool = build(CnnGruConfig(gru=gru, channels=1, stem=4, widths=(4, 6), pools=(2, 2)), LABELS).classifier.pool
        assert torch.allclose(pool(x), pool(x.flip(3)), atol=1e-6) is not gru


def test_mean_and_maximum_over_mel_are_joined() -> None:
    pool = build(CnnGruConfig(), LABELS).pool
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(pool(x), torch.cat([x.mean(2, keepdim=True), x.amax(2, keepdim=True)], dim=1))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CnnGruConfig(pools=(2,)), "one entry per block"),
        (lambda: RawCnnConfig(widths=()), "widths is empty"),
        (lambda: HLTdnnConfig(kernels=(3,)), "one entry per block"),
        (lambda: HLTdnnConfig(mels=8), "8 mels are too few for 4 blocks"),
        (lambda: HLTdnnConfig(bins=1), "bins = 2 or more"),
        (lambda: Cnn14Config(widths=()), "widths is empty"),
        (
            lambda: build(CpResNetConfig(pooling="attention", heads=5), LABELS),
            "92 channels .*5 heads",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()


def test_hltdnn_joins_its_temporal_layer_and_its_histogram() -> None:
    model = build(HLTdnnConfig(), LABELS).eval()
    logits, taps = Taps(model, ("features.block2", "features.block4", "embedding"))(torch.randn(2, 1, 64, 96))
    assert taps["features.block2"].shape == (2, 16, 16, 24)
    assert taps["features.block4"].shape == (2, 4, 4, 6)
    assert taps["embedding"].shape == (2, 256 + 4 * 16)
    assert torch.allclose(taps["embedding"][:, 256:].unflatten(1, (4, 16)).sum(dim=2), torch.ones(2, 4), atol=1e-5)
    assert (logits.shape, parameters(model)) == ((2, LABELS), 14_914)
    plain = build(HLTdnnConfig(bins=0), LABELS)
    assert Taps(plain, ("embedding",))(torch.randn(2, 1, 64, 96))[1]["embedding"].shape == (2, 256)


def test_a_histogram_counts_values_wherever_they_are() -> None:
    histogram = HistogramLayer(2, 4)  # centres 0, 1, 2, 3
    x = torch.rand(1, 2, 3, 4) * 3
    shuffled = x.flatten(2)[..., torch.randperm(12)].view_as(x)
    assert torch.allclose(histogram(x), histogram(shuffled), atol=1e-6)
    counts = histogram(torch.stack([torch.full((3, 4), 1.0), torch.full((3, 4), 100.0)])[None]).detach().view(2, 4)
    assert counts[0].argmax() == 1
    assert torch.allclose(
        counts[0], torch.tensor([1, torch.e, 1, torch.e**-3]) / (2 + torch.e + torch.e**-3), atol=1e-5
    )
    assert torch.allclose(counts[1], torch.full((4,), 0.25))  # far from all bins: no value is lost and none is infinite


def test_cnn14_is_the_published_size() -> None:
    with torch.device("meta"):
        model = build(Cnn14Config(), 527).eval()
        logits, taps = Taps(model, ("features.block1", "features.block6", "embedding"))(torch.zeros(2, 1, 64, 1001))
    assert parameters(model) == 80_753_615
    assert taps["features.block1"].shape == (2, 64, 32, 500)
    assert taps["features.block6"].shape == (2, 2048, 2, 31)
    assert (taps["embedding"].shape, logits.shape) == ((2, 2048), (2, 527))


def test_cnn14_refuses_another_number_of_mels() -> None:
    with pytest.raises(InputError, match=r"40 mel bins, .* mels is 64"):
        build(Cnn14Config(**TWIN), LABELS)(torch.zeros(2, 1, 40, 32))


class Published(nn.Module):
    """The published layout at the widths of `TWIN`: (batch, 1, frame, mel) in decibels, the names of its checkpoint."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(64)
        channels = 1
        for number, width in enumerate(TWIN["widths"], start=1):
            block = nn.Module()
            block.conv1, block.conv2 = (
                nn.Conv2d(inputs, width, 3, padding=1, bias=False) for inputs in (channels, width)
            )
            block.bn1, block.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            setattr(self, f"conv_block{number}", block)
            channels = width
        self.fc1 = nn.Linear(channels, TWIN["hidden"])
        self.fc_audioset = nn.Linear(TWIN["hidden"], labels)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for value in (module.weight, module.bias, module.running_mean, module.running_var):
                        value.uniform_(0.5, 1.5)
            self.bn0.running_mean.add_(-30)
            self.bn0.running_var.fill_(100)

    def forward(self, decibels: torch.Tensor) -> torch.Tensor:
        x = self.bn0(decibels.transpose(1, 3)).transpose(1, 3)
        for number in range(1, len(TWIN["widths"]) + 1):
            block = getattr(self, f"conv_block{number}")
            x = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu()
            if number < len(TWIN["widths"]):
                x = nn.functional.avg_pool2d(x, 2)
        x = x.mean(dim=3)
        return self.fc_audioset(self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu())


def test_published_weights_give_the_published_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Published(LABELS).eval()
    torch.save(
        {
            "iteration": 1,
            "model": {**theirs.state_dict(), "spectrogram_extractor.stft.conv_real.weight": torch.zeros(3)},
        },
        tmp_path / "cnn14.pth",
    )
    waveform = (np.random.default_rng(0).standard_normal(32_000) / 10).astype(np.float32)
    height = frontend.filterbank(PUBLISHED).astype(np.float64)
    hz = frontend.corners(PUBLISHED)
    frames = np.lib.stride_tricks.sliding_window_view(frontend.padded(PUBLISHED, waveform, 512, 512), 1024)[::320]
    power = np.abs(np.fft.rfft(frames * frontend.window_array(PUBLISHED))) ** 2
    decibels = 10 * np.log10(power @ (height * (2 / (hz[2:] - hz[:-2]))[:, None]).T)  # (frame, mel), filters of area 1
    config = Cnn14Config(**TWIN, weights=str(tmp_path / "cnn14.pth"))
    ours = initial(config, LABELS).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(decibels).float()[None, None])
        got = ours(torch.from_numpy(frontend.log_mel(PUBLISHED, waveform))[None, None])
        assert torch.allclose(got, expected, atol=1e-3 * float(expected.abs().max()))
    torch.manual_seed(3)
    other = initial(config, LABELS + 1)
    torch.manual_seed(3)
    # a new head
    assert torch.equal(other.classifier.dense.conv.weight, build(config, LABELS + 1).classifier.dense.conv.weight)
    assert torch.equal(other.classifier.hidden.conv.bias, ours.classifier.hidden.conv.bias)


def test_weights_that_are_not_published_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pth': no such file"):
        initial(Cnn14Config(**TWIN, weights=str(tmp_path / "none.pth")), LABELS)
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"state": {}}, tmp_path / "other.pth")
    for file in ("text.pth", "other.pth"):
        with pytest.raises(InputError, match="no PANNs checkpoint"):
            initial(Cnn14Config(**TWIN, weights=str(tmp_path / file)), LABELS)
    torch.save({"model": Published(LABELS).state_dict()}, tmp_path / "twin.pth")
    with pytest.raises(
        InputError,
        match=r"conv1\.weight' .*\(16, 8, .*\(9, 8, ",
    ):
        initial(Cnn14Config(widths=(8, 9, 16), hidden=24, weights=str(tmp_path / "twin.pth")), LABELS)
    with pytest.raises(InputError, match=r"'conv_block4\.conv1\.weight'"):
        initial(Cnn14Config(widths=(8, 16, 16, 16), hidden=24, weights=str(tmp_path / "twin.pth")), LABELS)


def test_attention_begins_as_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 12, 4, 7)
    plain, attentive = PooledClassifier(12, LABELS), PooledClassifier(12, LABELS, pooling="attention", heads=3)
    assert attentive.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["pool.query"]
    assert torch.allclose(plain(x), attentive(x), atol=1e-6)


def test_attention_weighs_frames_by_each_heads_query() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(6, 2)
    nn.init.normal_(pool.query, std=2)
    x = torch.randn(2, 6, 1, 5)
    got = pool(x)[..., 0, 0]
    for item in range(2):
        for head in range(2):
            h = x[item, 3 * head : 3 * head + 3, 0]  # (3, frames)
            weights = torch.softmax(pool.query[head] @ h / 3**0.5, dim=0)
            assert torch.allclose(got[item, 3 * head : 3 * head + 3], h @ weights, atol=1e-6)


def test_squeeze_excitation_with_open_gates_makes_no_difference_to_serfr_cnn() -> None:
    torch.manual_seed(0)
    config, x = SerfrCnnConfig(width=8, last_width=16, stem_pool=(1, 1)), torch.randn(2, 1, 64, 28)
    gated, plain = build(config, LABELS).eval(), build(config, LABELS).eval()
    plain.load_state_dict(gated.state_dict())
    for index, layer in enumerate(plain.stages):
        if isinstance(layer, SqueezeExcite):
            plain.stages[index] = nn.Identity()
            nn.init.constant_(gated.stages[index].excite.conv.bias, 1e3)
    assert sum(isinstance(layer, nn.Identity) for layer in plain.stages) == 3
    assert torch.equal(gated(x), plain(x))


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (RawCnnConfig(channels=1), "as_map: AsMap"),
        (CnnGruConfig(channels=1), "pool: MeanMaxPool"),
        (CnnGruConfig(channels=1, gru=False), "pool: MeanMaxPool"),
        (HLTdnnConfig(), r"pool\.histogram: HistogramLayer"),
        (Cnn14Config(**TWIN), "norm: MelNorm"),
        (CpResNetConfig(pooling="attention", heads=4), r"classifier\.pool: AttentionPool"),
        (SerfrCnnConfig(pooling="attention"), r"classifier\.pool: AttentionPool"),
    ],
)
def test_what_has_no_integer_form_is_refused_by_name(config: ModelConfig, part: str) -> None:
    with pytest.raises(InputError, match=f"{part} has no integer form"):
        to_qat(build(config, LABELS))


@pytest.mark.parametrize(
    "config", [CpResNetConfig(channels=2), MobileNetV2Config(channels=2), BcResNetAscConfig(channels=2)]
)
def test_stereo_input_works_but_is_not_exported(config: ModelConfig) -> None:
    model = build(config, LABELS).eval()
    x = torch.randn(2, 2, 64, 64)
    assert model(x).shape == (2, LABELS)
    stem = model.get_submodule("features.0")
    assert not torch.allclose(stem(x), stem(x[:, :1].expand(-1, 2, -1, -1)), atol=0.01)
    with pytest.raises(InputError, match=r"features\.0: reads 2 channels"):
        to_qat(model)


def test_a_plain_tdnn_has_an_integer_form() -> None:
    assert to_qat(build(HLTdnnConfig(bins=0), LABELS)).eval()(torch.randn(1, 1, 64, 96)).shape == (1, LABELS)
