"""The figures of each counter for every kind of student; the counts of their files explain every difference between
them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from qgraph import toy
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekd.complexity.counts import ModelCounts, Totals, count_model
from edgekd.complexity.differences import UNEXPLAINED
from edgekd.export.export import EMITTERS
from edgekd.export.float_counts import float_counts
from edgekd.export.graph_manifest import count
from edgekd.frontend import FrontEnd
from edgekd.modelfile import container
from edgekd.modelfile.manifest import FloatCount, GraphCounts
from edgekd.models import ModelConfig, build
from edgekd.models.bc_resnet import BcResNetAscConfig, BcResNetConfig
from edgekd.models.blocks import ConvNormAct, Norm
from edgekd.models.cp_mobile import CpMobileConfig
from edgekd.models.cp_resnet import CpResNetConfig
from edgekd.models.serfr_cnn import SerfrCnnConfig
from edgekd.qgraph.graph import ConvOp, QGraph
from edgekd.quant import calibrate, lower, to_qat

pytest.importorskip("torchinfo")
pytest.importorskip("ptflops")

LABELS = 10
STUDENTS: dict[str, tuple[ModelConfig, tuple[int, int]]] = {
    "serfr32": (SerfrCnnConfig(), (256, 28)),
    "serfr24": (SerfrCnnConfig(width=24), (256, 28)),
    "bc_resnet_asc": (BcResNetAscConfig(), (256, 28)),
    "cp_mobile": (CpMobileConfig(), (256, 65)),
    "cp_resnet": (CpResNetConfig(), (256, 43)),
}
PUBLISHED = {
    "serfr32": (27.30, 114_068),
    "serfr24": (15.91, 69_185),
    "cp_mobile": (29.419156, 61_148),
    "bc_resnet_asc": (5.63, 32_314),
    "cp_resnet": (29.18, 127_674),
}
"""MMAC and parameters as torchinfo counts them."""
PUBLISHED_FILES = {"serfr32": (27.58, 117_488), "serfr24": (16.12, 71_884)}
"""MMAC of the float .tflite as NeSsi counts it, and bytes of int8 weights and int32 biases."""
FILES = [(kind, precision) for kind in EMITTERS for precision in ("int8", "float")]


@dataclass(frozen=True)
class Student:
    """A student of random weights: its integer graph, its counts, and the counts of each of its files."""

    name: str
    network: nn.Module
    shape: tuple[int, int]
    graph: QGraph
    counts: dict[str, FloatCount]
    files: dict[tuple[str, str], ModelCounts]

    def exact(self, precision: str) -> GraphCounts:
        """By the shapes of the graph."""
        return count(self.graph, precision)


def randomised(config: ModelConfig) -> nn.Module:
    """A network whose batch norms are not the identity."""
    torch.manual_seed(0)
    network = build(config, LABELS).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -1, 1),
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
            ):
                nn.init.uniform_(tensor, low, high)
    return network


@pytest.fixture(scope="module", params=STUDENTS)
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Student:
    config, shape = STUDENTS[request.param]
    folder: Path = tmp_path_factory.mktemp(request.param)
    network = randomised(config)
    qat = to_qat(network)
    calibrate(qat, [torch.randn(2, 1, *shape)])
    graph = lower(qat.eval(), FrontEnd(n_mels=shape[0]), shape[1])
    counts, files = float_counts(network, (1, 1, *shape)), {}
    for kind, precision in FILES:
        path = folder / f"m.{precision}.{kind}"
        manifest = toy.manifest(graph, kind, precision, float_counts=counts)
        container.write(path, EMITTERS[kind](graph, precision == "float"), manifest)
        files[kind, precision] = count_model(path)
    return Student(request.param, network, shape, graph, counts, files)


def test_every_file_costs_as_much_as_the_graph_and_the_flop_counter_count(student):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.network(torch.zeros(1, 1, *student.shape))
    shapes = {op.name: student.graph.edges[op.output].shape for op in student.graph.ops if isinstance(op, ConvOp)}
    # a batch norm that follows no convolution is a depthwise 1x1 convolution in every file, and no operation to torch's
    # counter
    alone = sum(
        torch.Size(shapes[name]).numel() for name, module in student.network.named_modules() if isinstance(module, Norm)
    )
    assert student.exact("int8").macs == counter.get_total_flops() // 2 + alone
    for counted in student.files.values():
        assert counted.conventions["exact"].macs == student.exact("int8").macs
        assert counted.unknown == ()


@pytest.mark.parametrize(("kind", "precision"), FILES)
def test_parameters_are_those_of_the_graph_and_what_only_the_file_has(student, kind, precision):
    counted, expected = student.files[kind, precision], student.exact(precision)
    more = 0
    if (kind, precision) == ("onnx", "float") and any(
        getattr(op, "activation", "") == "clip01" for op in student.graph.ops
    ):
        more = 2  # the bounds of the hard sigmoid
    # equal constants are stored once: here the biases of convolutions that have none
    if (kind, precision) == ("tflite", "float"):
        zeros = Counter(len(op.bias) for op in student.graph.ops if isinstance(op, ConvOp) and not op.bias.any())
        more = -sum(size * (count - 1) for size, count in zeros.items())
    kernels = [layer for layer in counted.layers if layer.weight and not layer.emulates]
    assert sum(layer.params for layer in kernels) == expected.params + more
    assert sum(layer.param_bytes for layer in kernels) == expected.param_bytes + 4 * more
    exact, others = counted.conventions["exact"], [layer for layer in counted.layers if layer not in kernels]
    assert exact.params == expected.params + more + sum(layer.params for layer in others)
    assert counted.emulated.params == sum(layer.params for layer in others if layer.emulates)
    steering = [layer for layer in others if layer.params and not layer.emulates]
    assert {layer.op for layer in steering} <= {"PAD", "MEAN", "RESHAPE", "SLICE", "TRANSPOSE", "Pad", "Slice"}
    assert all(layer.params <= 9 for layer in steering)  # the pads of four axes and what they are filled with


@pytest.mark.parametrize(("kind", "precision"), FILES)
def test_the_named_differences_add_up_in_every_convention(student, kind, precision):
    counted = student.files[kind, precision]
    conventions = {name: each for name, each in counted.conventions.items() if each is not None}
    assert set(conventions) == {"exact", "torchinfo", "ptflops", *(["nessi_tflite"] if kind == "tflite" else [])}
    for name, theirs in conventions.items():
        named = [each for each in counted.differences if each.convention == name]
        assert all(each.why and UNEXPLAINED not in each.why and each.exact != each.theirs for each in named)
        for quantity in ("macs", "params", "param_bytes"):
            apart = sum(each.theirs - each.exact for each in named if each.quantity == quantity)
            assert apart == getattr(theirs, quantity) - getattr(conventions["exact"], quantity)
        assert sum(layer.macs_by[name] for layer in counted.layers) == theirs.macs
    assert counted.by_convention("param_bytes").keys() == conventions.keys() - {"torchinfo", "ptflops"}
    assert counted.by_convention("macs").keys() == conventions.keys()


def test_the_reasons_match_the_modules(student):
    counted = student.files["onnx", "float"]
    norms = sum(2 * module.num_features for module in student.network.modules() if isinstance(module, nn.BatchNorm2d))
    explained = {
        name: sum(
            int(part.split(":")[0].replace(",", ""))
            for each in counted.differences
            for part in each.why.split("; ")
            if each.convention == name and each.quantity == "macs" and words in part
        )
        for name, words in (("torchinfo", "the batch norm"), ("ptflops", "a bias"))
    }
    assert explained["torchinfo"] == norms
    outputs = {op.name: torch.Size(student.graph.edges[op.output].shape).numel() for op in student.graph.ops}
    assert explained["ptflops"] == sum(
        outputs[name]
        for name, module in student.network.named_modules()
        if isinstance(module, ConvNormAct) and module.conv.bias is not None
    )


def test_pools_are_not_counted_as_convolutions_and_the_split_stem_costs_what_it_computes(student):
    layers = {layer.name.removesuffix("/real"): layer for layer in student.files["tflite", "int8"].layers}
    emulating = {name: layer.emulates for name, layer in layers.items() if layer.emulates}
    stem = next(op for op in student.graph.ops if isinstance(op, ConvOp))
    _, mel, frame = student.graph.edges[stem.output].shape
    assert layers[stem.name].weight == (len(stem.weight), 1, 1, stem.weight[0].size)
    assert layers[stem.name].macs == stem.weight.size * mel * frame
    assert set(emulating.values()) <= {"average pool"}
    assert set(emulating) <= {op.name for op in student.graph.ops if not isinstance(op, ConvOp)}
    assert student.files["tflite", "float"].emulated == student.files["onnx", "float"].emulated == Totals(0, 0, 0)


def test_the_published_figures(student):
    mmac, params = PUBLISHED[student.name]
    torchinfo = student.counts["torchinfo"]
    assert (round(torchinfo.macs / 1e6, 6 if student.name == "cp_mobile" else 2), torchinfo.params) == (mmac, params)
    assert student.counts["ptflops"].params == params
    if student.name in PUBLISHED_FILES:
        nessi = student.files["tflite", "float"].conventions["nessi_tflite"]
        assert (round(nessi.macs / 1e6, 2), student.exact("int8").param_bytes) == PUBLISHED_FILES[student.name]


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
def test_torchinfo_gives_the_table_of_bc_resnet(width, params, mmac):
    counted = float_counts(build(BcResNetConfig(width=width), 12).eval(), (1, 1, 40, 101))["torchinfo"]
    assert (counted.params, counted.param_bytes) == (params, 4 * params)
    assert counted.macs == pytest.approx(1e6 * mmac, abs=5e4 if mmac > 10 else 5e3)


def test_what_runs_outside_of_modules_is_a_row_without_a_name():
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.free = nn.Parameter(torch.ones(4, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).flatten(2)[..., :4] @ self.free

    counted = float_counts(Product().eval(), (1, 1, 8, 6))
    assert counted["ptflops"].modules[-1].kind == "function"
    assert counted["ptflops"].modules[-1].macs == 2 * 4 * 5
    found = [(module.name, module.macs, module.params) for module in counted["torchinfo"].modules]
    assert found == [("conv", 2 * 6 * 4 * 10, 20), ("", 0, 20)]
    assert counted["ptflops"].params == 40
