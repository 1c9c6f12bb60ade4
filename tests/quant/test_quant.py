"""The QAT network equals the float one before quantisation, can be trained, and lowers to a graph of the same
integers."""

from copy import deepcopy
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from qgraph import probe, same
from torch import nn

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.models import ModelConfig, build
from edgekd.models.bc_resnet import BcResNetAscConfig, BcResNetConfig
from edgekd.models.blocks import Add, ConvNormAct, MaxPool, PooledClassifier, ResidualNorm
from edgekd.models.cp_mobile import CpMobileConfig
from edgekd.models.cp_resnet import CpResNetConfig
from edgekd.models.mn import MnConfig
from edgekd.models.mobilenet_v2 import MobileNetV2Config
from edgekd.models.serfr_cnn import SerfrCnnConfig
from edgekd.qgraph import addition, graph, onnx, reduction, reference, tflite
from edgekd.qgraph.graph import ConstantOp, ConvOp
from edgekd.qgraph.read import read_graph
from edgekd.quant import QuantNetwork, calibrate, freeze, lower, settle, to_qat
from edgekd.quant.activation import ActQuant
from edgekd.quant.builder import GraphBuilder
from edgekd.quant.conv_forms import QuantBandedConv, conv_form
from edgekd.quant.forms import QuantMeanPool

LABELS = 5
MELS, FRAMES = 64, 28
CONFIGS: list[ModelConfig] = [
    SerfrCnnConfig(width=8, last_width=16, stem_pool=(1, 1)),
    BcResNetAscConfig(width=8),
    BcResNetAscConfig(width=5, activation="relu"),
    BcResNetAscConfig(width=8, bands=4),
    BcResNetConfig(width=8, bands=2),
    CpResNetConfig(stem=8, widths=(8, 16), kernels=((3, 3), (3, 1)), groups=(1, 2), pools=(0, 1), dropout=0.5),
    MobileNetV2Config(width=0.25, stages=4, last_width=32),
    CpMobileConfig(width=8, depths=(2, 1), strides=((1, 2), (2, 1), (1, 1))),
    MnConfig(blocks=8, last=32, expanded=(8, 16, 16)),
    MnConfig(blocks=5, last=0, gate="hard_sigmoid", activation="silu"),
]


def trained(config: ModelConfig) -> nn.Module:
    """A student whose batch norms hold statistics of forward passes."""
    torch.manual_seed(0)
    model = build(config, LABELS)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 1, MELS, FRAMES))
    return model.eval()


def quantised(config: ModelConfig) -> QuantNetwork:
    network = to_qat(trained(config))
    calibrate(
        network, [torch.randn(8, 1, MELS, FRAMES, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    )
    return network.eval()


class Student(NamedTuple):
    """A network, its calibrated integer form and that one's graph, to look at and not to change."""

    model: nn.Module
    network: QuantNetwork
    graph: graph.QGraph


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: f"{type(config).__name__}")
def student(request) -> Student:
    network = quantised(request.param)
    return Student(trained(request.param), network, lower(network, FrontEnd(n_mels=MELS), FRAMES))


def test_folding_keeps_the_float_function(student: Student) -> None:
    model = student.model
    network = to_qat(model).eval()
    for quantiser in network.quantisers():
        quantiser.calibrating = True  # passes values through
    x = torch.randn(4, 1, MELS, FRAMES)
    with torch.no_grad():
        expected, got = model(x), network(x)
    assert (expected - got).abs().max() < 0.05 * expected.abs().max() + 0.05  # int8 weights are the only difference


def test_integers_are_those_of_the_fake_quantised_network(student: Student) -> None:
    graph = student.graph
    x = torch.randn(16, 1, MELS, FRAMES, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        expected = deepcopy(student.network).double()(x.double()).numpy()
    edge = graph.edges[graph.output]
    integers = reference.run(graph, reference.quantize(x.numpy(), graph.edges[graph.input]))
    steps = np.abs(integers.astype(np.int64) - edge.zero_point - np.rint(expected / edge.scale))
    assert steps.max() <= 1
    assert (steps > 0).mean() < 0.05


def test_both_engines_compute_the_integers_of_every_student(student: Student) -> None:
    graph = student.graph
    x = reference.quantize(
        torch.randn(16, 1, MELS, FRAMES, generator=torch.Generator().manual_seed(9)).numpy(), graph.edges[graph.input]
    )
    expected = reference.run(graph, x).astype(np.int64)
    model = tflite.emit(graph)
    assert probe.undelegated(model) == []
    assert np.abs(probe.run_litert(model, x) - expected).max() <= 1
    as_uint8 = (x.astype(np.int16) + onnx.UINT8_OFFSET).astype(np.uint8)
    assert np.abs(probe.run_onnx(onnx.emit(graph), as_uint8).astype(np.int64) - onnx.UINT8_OFFSET - expected).max() <= 2


@pytest.mark.parametrize("emitter", [tflite, onnx], ids=["tflite", "onnx"])
def test_the_files_of_every_student_read_back_as_its_graph(student: Student, emitter: ModuleType) -> None:
    read = read_graph(emitter.emit(student.graph))
    assert same.differences(student.graph, read) == []


def test_the_relu_of_a_sum_that_is_never_negative_is_none() -> None:
    class Rectified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch = ConvNormAct(1, 4), ConvNormAct(4, 4)
            self.add = Add("relu")
            self.classifier = PooledClassifier(4, LABELS)

        def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
            x = self.stem(log_mel)
            return self.classifier(self.add(x, self.branch(x)))

    network = to_qat(Rectified().eval())
    calibrate(network, [torch.randn(8, 1, MELS, FRAMES)])
    lowered = lower(network.eval(), FrontEnd(n_mels=MELS), FRAMES)
    assert [op.activation for op in lowered.ops if isinstance(op, graph.AddOp)] == ["none"]
    for emitter in (tflite, onnx):
        assert same.differences(lowered, read_graph(emitter.emit(lowered))) == []


def test_weights_and_scales_are_bit_equal_to_those_trained() -> None:
    network = quantised(CONFIGS[0])
    graph = lower(network, FrontEnd(n_mels=MELS), FRAMES)
    stem = next(op for op in graph.ops if isinstance(op, ConvOp))
    conv = network.blocks["stem"].conv
    assert np.array_equal(
        stem.weight * stem.weight_scale[:, None, None, None], conv.quant_weight().value.detach().numpy()
    )


def test_the_range_of_the_logits_ends_at_those_that_win() -> None:
    quantiser = ActQuant("signed")
    quantiser.logits = quantiser.calibrating = True
    quantiser(torch.tensor([[-50.0, 3.0, 1.0], [-20.0, -2.0, 8.0]])[..., None, None])
    quantiser.set_range()
    assert quantiser.scale() == pytest.approx(8 / 128)
    assert to_qat(build(CONFIGS[5], LABELS)).quantisers()[-1].logits  # a mean pool writes them there


def test_qat_learns_weights_and_scales_until_frozen() -> None:
    network = quantised(CONFIGS[0]).train()
    threshold = next(network.input.parameters())
    network(torch.randn(2, 1, MELS, FRAMES)).square().sum().backward()
    assert threshold.grad is not None
    assert all(parameter.grad is not None for parameter in network.parameters())
    freeze(network)
    assert not any(
        parameter.requires_grad for quantiser in network.quantisers() for parameter in quantiser.parameters()
    )
    assert any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    "config",
    [pytest.param(CONFIGS[0], id="SerfrCnn"), pytest.param(CONFIGS[3], id="BcResNetAsc", marks=pytest.mark.slow)],
)
def test_settling_widens_the_margin_of_every_addition_and_moves_scales_a_little(config: ModelConfig) -> None:
    network = quantised(config)
    before = lower(network, FrontEnd(n_mels=MELS), FRAMES)
    settle(network, (MELS, FRAMES))
    after = lower(network, FrontEnd(n_mels=MELS), FRAMES)
    margins = []
    for lowered in (before, after):
        adds = [op for op in lowered.ops if isinstance(op, graph.AddOp)]
        margins.append(
            [addition.margin(tuple(lowered.edges[name] for name in op.inputs), lowered.edges[op.output]) for op in adds]
        )
    assert min(margins[1]) > 5e-6 > min(margins[0])
    means = {op.output for op in after.ops if isinstance(op, graph.AvgPoolOp)}
    moved = {name: abs(after.edges[name].scale / edge.scale - 1) for name, edge in before.edges.items()}
    assert max(moved[name] for name in means) < 0.01
    assert 0 < max(share for name, share in moved.items() if name not in means) < 1e-5


def test_settling_leaves_no_sum_of_a_large_mean_near_a_tie() -> None:
    network = quantised(CONFIGS[0])
    settle(network, (MELS, FRAMES))
    lowered = lower(network, FrontEnd(n_mels=MELS), FRAMES)
    margins = []
    for op in lowered.ops:
        elements = isinstance(op, graph.AvgPoolOp) and op.kernel[0] * op.kernel[1]
        if elements and elements > 100:
            source, output = lowered.edges[op.input], lowered.edges[op.output]
            means = np.arange(255 * elements + 1) * (source.scale / elements / output.scale)
            margins.append(np.abs(means % 1 - 0.5).min())
    assert margins
    assert min(margins) > 1e-4


def test_settling_leaves_no_mean_that_a_fused_multiply_add_changes() -> None:
    network = quantised(CONFIGS[0])
    gate = next(block for block in network.blocks.values() if isinstance(block, QuantMeanPool))
    (threshold,) = gate.output.parameters()

    def apart() -> int:
        lowered = lower(network, FrontEnd(n_mels=MELS), FRAMES)
        means = [op for op in lowered.ops if isinstance(op, graph.AvgPoolOp)]
        return sum(
            reduction.disagreements(lowered.edges[op.input], lowered.edges[op.output], op.kernel[0] * op.kernel[1])
            for op in means
            if op.kernel == lowered.edges[op.input].shape[1:]
        )

    with torch.no_grad():
        for _ in range(2000):  # until a fused multiply-add changes some sum
            threshold.copy_((threshold.view(torch.int32) + 1).view(torch.float32))
            if apart():
                break
    assert apart() > 0
    settle(network, (MELS, FRAMES))
    assert apart() == 0


def test_a_state_dict_restores_the_network() -> None:
    network = quantised(CONFIGS[1])
    again = to_qat(build(CONFIGS[1], LABELS))
    again.load_state_dict(network.state_dict())
    x = torch.randn(2, 1, MELS, FRAMES)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), network(x))


def test_dynamic_norms_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"features\.1.*ResidualNorm"):
        to_qat(build(BcResNetAscConfig(width=8, norm="residual"), LABELS))
    with pytest.raises(InputError, match=r"features\.2\.1.*GlobalResponseNorm"):
        to_qat(build(CpMobileConfig(width=8, norm="global_response"), LABELS))
    assert ResidualNorm()(torch.randn(2, 3, 4, 5)).shape == (2, 3, 4, 5)


def test_a_sub_spectral_norm_becomes_an_affine_per_channel_and_mel_bin() -> None:
    model = ConvNormAct(2, 3, norm="sub_spectral", bands=2).eval()
    with torch.no_grad():
        model.norm.norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5, -0.25, 3.0, 1.0]))  # channel by channel, band by band
        model.norm.norm.bias.copy_(torch.arange(6.0))
    form = conv_form(model, [ActQuant("signed")])
    assert isinstance(form, QuantBandedConv)
    assert torch.allclose(form.gain, torch.tensor([[0.5, 1.0], [1.0, -0.5], [1.0, 1 / 3]]))
    build_graph = GraphBuilder()
    source = build_graph.edge("x", (2, 4, 5), ActQuant("signed"))
    for edge in (form.gain_edge, form.offset_edge):
        edge.calibrating = True
    form(torch.zeros(1, 2, 4, 5))
    for edge in (form.gain_edge, form.offset_edge):
        edge.set_range()
    form.lower(build_graph, "conv", [source])
    gain, offset = (op for op in build_graph.ops if isinstance(op, ConstantOp))
    assert gain.value.shape == offset.value.shape == (3, 4, 1)
    assert np.allclose(gain.value[:, ::2, 0] * build_graph.edges[gain.output].scale, form.gain.detach(), atol=0.005)
    assert np.array_equal(offset.value[:, 0], offset.value[:, 1])  # one band
    assert np.allclose(
        offset.value[:, ::2, 0] * build_graph.edges[offset.output].scale, np.arange(6).reshape(3, 2), atol=0.03
    )


def test_what_a_sub_spectral_norm_cannot_be_is_refused() -> None:
    model = build(BcResNetAscConfig(width=8, bands=2), LABELS)
    model.get_submodule("features.1.frequency").activation = "silu"
    with pytest.raises(InputError, match=r"features\.1\.frequency: .*'silu'"):
        to_qat(model)
    network = to_qat(build(BcResNetAscConfig(width=8, bands=3), LABELS))
    with pytest.raises(InputError, match=r"32 mel bins .*3 bands"):
        network(torch.randn(1, 1, MELS, FRAMES))


def test_operations_outside_the_vocabulary_are_refused() -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = ConvNormAct(1, 4)
            self.add = Add()
            self.pool = MaxPool(2)
            self.classifier = PooledClassifier(4, LABELS)

        def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.pool(torch.tanh(self.stem(log_mel))))

    with pytest.raises(InputError, match="tanh"):
        to_qat(Foreign())


def test_a_dead_channel_is_refused_with_the_layer() -> None:
    model = trained(CONFIGS[3])
    with torch.no_grad():
        model.get_submodule("features.0.conv").weight[2] = 0
    network = to_qat(model)
    calibrate(network, [torch.randn(4, 1, MELS, FRAMES)])
    with pytest.raises(InputError, match=r"features\.0.*channel"):
        lower(network.eval(), FrontEnd(n_mels=MELS), FRAMES)
