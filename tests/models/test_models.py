"""Parameter and MAC counts of the published tables, and shapes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgekd.errors import InputError
from edgekd.models import ModelConfig, build
from edgekd.models.bc_resnet import BcResNetAscConfig, BcResNetConfig
from edgekd.models.blocks import AvgPool, ConvNormAct, GlobalResponseNorm, SqueezeExcite, SubSpectralNorm
from edgekd.models.cp_mobile import CpMobileConfig
from edgekd.models.cp_resnet import CpResNetConfig
from edgekd.models.mobilenet_v2 import MobileNetV2Config
from edgekd.models.serfr_cnn import SerfrCnnConfig
from edgekd.train.recipe.recipe import load_recipe
from edgekd.train.run.folder import model_config, resolved


def counts(config: ModelConfig, labels: int, shape: tuple[int, int]) -> tuple[int, float]:
    model = build(config, labels).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = model(torch.zeros(1, 1, *shape))
    assert logits.shape == (1, labels)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() / 2e6


@pytest.mark.parametrize(("width", "params", "mmac"), [(32, 114_068, 27.30), (24, 69_185, 15.91)])
def test_serfr_cnn(width: int, params: int, mmac: float) -> None:
    assert counts(SerfrCnnConfig(width=width), 10, (256, 28)) == (params, pytest.approx(mmac, abs=0.006))


@pytest.mark.parametrize(
    ("config", "params"),
    [
        (SerfrCnnConfig(stem_stride=(1, 1), growth=(1, 1, 1)), 60_048),
        (SerfrCnnConfig(stem_stride=(1, 1), growth=(1, 1.5, 2), groups=4), 80_579),
        (SerfrCnnConfig(growth=(1, 2, 4)), 223_192),
    ],
)
def test_serfr_cnn_other_variants(config: SerfrCnnConfig, params: int) -> None:
    assert counts(config, 10, (256, 28))[0] == params


@pytest.mark.parametrize(
    ("width", "params", "mmac"),
    [
        (8, 9_232, 2.48),
        (12, 17_154, 4.61),
        (16, 27_284, 7.33),
        (24, 54_168, 14.5),
        (48, 187_812, 50.3),
        (64, 321_068, 85.9),
    ],
)
def test_bc_resnet(width: int, params: int, mmac: float) -> None:
    assert counts(BcResNetConfig(width=width), 12, (40, 101)) == (params, pytest.approx(mmac, rel=0.004))


@pytest.mark.parametrize(
    ("width", "params", "mmac"), [(16, 15_818, 3.09), (24, 32_314, 5.62), (40, 82_490, 12.68), (48, 116_170, 17.19)]
)
def test_bc_resnet_asc_student(width: int, params: int, mmac: float) -> None:
    assert counts(BcResNetAscConfig(width=width), 10, (256, 28)) == (params, pytest.approx(mmac, abs=0.006))


def test_bc_resnet_asc_teacher() -> None:
    assert counts(BcResNetAscConfig(width=80, norm="residual", bands=4), 10, (256, 65))[0] == 314_650


def test_cp_resnet_small() -> None:
    params, mmac = counts(CpResNetConfig(), 10, (256, 43))
    assert params == 127_674  # published 127,684: its classifier has a batch norm (20) where ours has a bias (10)
    assert mmac < 30


def test_cp_resnet_lists_must_agree() -> None:
    with pytest.raises(InputError, match="one entry per block"):
        CpResNetConfig(widths=(8,))


def test_cp_mobile_is_the_baseline_of_2024() -> None:
    config = CpMobileConfig()
    params, mmac = counts(config, 10, (256, 65))
    norms = sum(
        parameter.numel()
        for module in build(config, 10).modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for parameter in module.parameters()
    )
    # torchinfo counts a batch norm's parameters as MACs
    assert (params, round(1e6 * mmac) + norms) == (61_148, 29_419_156)


@pytest.mark.parametrize(
    ("settings", "published"),
    [
        (("student.width=16", "student.growth=1.5", "student.expansion=1.75"), 12_310),
        (("student.growth=1.7", "student.expansion=1.9"), 54_182),
    ],
)
def test_cp_mobile_has_the_published_sizes_of_2023(settings: tuple[str, ...], published: int) -> None:
    model = build(model_config(resolved(load_recipe("tau22-cp-mobile2023", settings))), 10)
    norms = sum(module.num_features for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    # folded: a bias instead of two parameters
    assert sum(p.numel() for p in model.parameters()) - norms == published


def test_cp_mobile_with_global_response_norm_begins_like_one_without() -> None:
    torch.manual_seed(0)
    config = CpMobileConfig(width=8, norm="global_response")
    x = torch.randn(2, 1, 64, 28)
    normed, plain = build(config, 5).eval(), build(CpMobileConfig(width=8), 5).eval()
    assert sum(p.numel() for p in normed.parameters()) == sum(p.numel() for p in plain.parameters()) + 2 * 6
    for mine, other in zip(
        (p for n, p in normed.named_parameters() if not n.endswith(("gamma", "beta"))), plain.parameters(), strict=True
    ):
        other.data.copy_(mine)
    with torch.no_grad():
        assert torch.allclose(normed(x), plain(x), atol=1e-6)


def test_global_response_norm_strengthens_loud_channels() -> None:
    norm = GlobalResponseNorm()
    torch.nn.init.ones_(norm.gamma)
    x = torch.stack([torch.full((4, 5), 1.0), torch.full((4, 5), 3.0)])[None]  # norms 1 : 3, so n is 0.5 and 1.5
    assert torch.allclose(norm(x), x * torch.tensor([1.5, 2.5])[:, None, None])


def test_cp_mobile_needs_a_stride_for_each_block() -> None:
    with pytest.raises(InputError, match="one entry for each of the 2 blocks"):
        CpMobileConfig(depths=(1, 1))


def test_the_zeros_of_a_padded_average_count() -> None:
    assert AvgPool(3, (1, 2), 1)(torch.ones(1, 1, 2, 3)).tolist() == [
        [[[pytest.approx(4 / 9), pytest.approx(4 / 9)]] * 2]
    ]


def test_mobilenet_v2_is_the_published_size() -> None:
    assert counts(MobileNetV2Config(), 1000, (64, 64))[0] == 3_504_872 - 2 * 32 * 9  # one input channel, not three


def test_squeeze_excitation_with_its_gate_open_changes_nothing() -> None:
    layer = SqueezeExcite(16, 4).eval()
    torch.nn.init.constant_(layer.excite.conv.bias, 1e3)
    x = torch.randn(2, 16, 4, 5)
    assert torch.equal(layer(x), x)


def test_sub_spectral_norm_normalises_each_band_alone() -> None:
    x = torch.randn(4, 3, 10, 6) * torch.arange(1, 11)[:, None]
    bands = SubSpectralNorm(3, 5)(x).reshape(4, 3, 5, 2, 6)
    assert torch.allclose(bands.std(dim=(0, 3, 4), correction=0), torch.ones(3, 5), atol=1e-3)


def test_a_strided_depthwise_convolution_is_computed_in_float32_while_bfloat16_trains() -> None:
    block = ConvNormAct(8, 8, 3, stride=2, padding=1, groups=8, norm="none")
    x = torch.randn(2, 8, 9, 12)
    with torch.autocast("cpu", torch.bfloat16):
        trained = block(x)
        with torch.no_grad():
            inferred = block(x)
    assert torch.equal(trained, block(x))
    assert trained.requires_grad
    assert inferred.dtype == torch.bfloat16
    torch.testing.assert_close(inferred.float(), trained.detach(), rtol=0.02, atol=0.02)
