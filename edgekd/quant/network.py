"""The quantization-aware network of a student: traced once into a list of steps, then run, calibrated, frozen and
lowered by that list."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.models.base import TensorModule
from edgekd.models.blocks import Block, ConvNormAct
from edgekd.qgraph import addition, reduction
from edgekd.qgraph.graph import Edge, QGraph
from edgekd.quant.activation import ActQuant
from edgekd.quant.block import QuantBlock
from edgekd.quant.builder import GraphBuilder
from edgekd.quant.conv_forms import QuantBandedConv
from edgekd.quant.forms import FORMS, QuantAdd, QuantMeanPool

SETTLE_REACH = 64
"""Float32 neighbours on either side that `settle` tries."""
MOST_MOVED = 0.01
"""Share by which `settle` may move the scale of a mean."""


class Step(NamedTuple):
    """One block call: its name in the student, the values it reads and the value it writes."""

    block: str
    inputs: tuple[str, ...]
    output: str


class QuantNetwork(TensorModule):
    """log_mel (batch, 1, mel, frame) -> logits (batch, labels), every edge quantised to 8 bits."""

    def __init__(
        self, steps: list[Step], blocks: dict[str, QuantBlock], source: str, result: str, input_quantiser: ActQuant
    ) -> None:
        super().__init__()
        self.input = input_quantiser
        self.blocks = nn.ModuleDict({_key(name): block for name, block in blocks.items()})
        self.steps = steps
        self.source = source
        self.result = result

    def forward(self, log_mel: Tensor) -> Tensor:
        values = {self.source: self.input(log_mel)}
        for step in self.steps:
            values[step.output] = self.block(step)(*(values[name] for name in step.inputs))
        return values[self.result]

    def block(self, step: Step) -> QuantBlock:
        """The block that a step calls."""
        block = self.blocks[_key(step.block)]
        assert isinstance(block, QuantBlock)
        return block

    def quantisers(self) -> list[ActQuant]:
        """The quantisers of all activation edges."""
        return [module for module in self.modules() if isinstance(module, ActQuant)]


def _key(name: str) -> str:
    return name.replace(".", "/")


class _BlockTracer(fx.Tracer):
    """Traces a student as calls of blocks, which it does not enter."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del module_qualified_name
        return isinstance(m, Block)


def to_qat(model: nn.Module) -> QuantNetwork:
    """The QAT form of a trained float student; batch norms are folded, weights copied, ranges not yet calibrated.

    Raises:
        InputError: the student calls anything but blocks, or a block without an integer form; the message names it.
    """
    steps: list[Step] = []
    forms: dict[str, QuantBlock] = {}
    edges: dict[str, ActQuant] = {}
    source = result = ""
    for node in _BlockTracer().trace(model).nodes:
        if node.op == "placeholder":
            source = node.name
            edges[source] = ActQuant("signed")
        elif node.op == "output":
            result = node.args[0].name
        elif node.op == "call_module":
            inputs = tuple(argument.name for argument in node.args)
            block = model.get_submodule(str(node.target))
            if source in inputs and isinstance(block, ConvNormAct) and block.conv.in_channels != 1:
                raise InputError(
                    f"{node.target}: reads {block.conv.in_channels} channels, but the integer graph's input has one;"
                    " export a student with channels = 1"
                )
            form = _form(block, str(node.target), [edges[name] for name in inputs])
            forms[str(node.target)] = form
            edges[node.name] = form.edge
            steps.append(Step(str(node.target), inputs, node.name))
        else:
            raise InputError(
                f"the student calls {node.op} '{node.target}', which is no block of edgekd.models.blocks; "
                "compose the student of blocks to export it"
            )
    edges[result].logits = True
    return QuantNetwork(steps, forms, source, result, edges[source])


def _form(block: nn.Module, name: str, inputs: list[ActQuant]) -> QuantBlock:
    form = FORMS.get(type(block))
    if form is None:
        raise InputError(
            f"{name}: {type(block).__name__} has no integer form; a student that is exported must not use it"
        )
    try:
        return form(block, inputs)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def calibrate(network: QuantNetwork, batches: Iterable[Tensor]) -> None:
    """Set the range of every edge from log_mel batches (batch, 1, mel, frame), run without quantised activations."""
    quantisers = network.quantisers()
    training = network.training
    network.eval()
    for quantiser in quantisers:
        quantiser.calibrating, quantiser.peak = True, 0.0
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for quantiser in quantisers:
        quantiser.calibrating = False
        quantiser.set_range()
    network.train(training)


@torch.no_grad()
def settle(network: QuantNetwork, shape: tuple[int, int]) -> None:
    """Move output scales a little, so that engines that round differently compute the same integers.

    The scale of an addition is moved by last bits, until no pair of inputs is near a tie. A step of a mean over axes
    becomes an odd number of steps of its sum, so that no sum is near a tie. Where few elements would make that move the
    scale by more than `MOST_MOVED`, it is moved by last bits until a fused multiply-add changes no sum. Call it on a
    trained network, before the test.

    Args:
        network: calibrated; it is put into eval mode.
        shape: (mel, frame) of its input, which decides how many values a mean sums.
    """
    network.eval()
    edges = {network.source: network.input}
    values = {network.source: torch.zeros(1, 1, *shape)}
    for step in network.steps:
        block = network.block(step)
        edges[step.output] = block.edge
        inputs = [values[name] for name in step.inputs]
        if isinstance(block, QuantAdd):
            first, second = (_edge(edges[name]) for name in step.inputs)
            _settle(block.output, partial(addition.margin, (first, second)))
        elif isinstance(block, QuantBandedConv):
            _settle(block.sum, partial(addition.margin, (_edge(block.scaled), _edge(block.offset_edge))))
        elif isinstance(block, QuantMeanPool):
            source, elements = _edge(edges[step.inputs[0]]), block.elements(inputs[0])
            if not _make_odd(block.output, source, elements):
                _settle(block.output, partial(_agreement, source, elements), enough=0)
        values[step.output] = block(*inputs)


def _make_odd(output: ActQuant, source: Edge, elements: int) -> bool:
    """Make a step of a mean an odd number of steps of the sum of its elements. Returns whether that was done."""
    sums = elements * output.scale() / source.scale
    odd = 2 * round((sums - 1) / 2) + 1
    if abs(odd / sums - 1) > MOST_MOVED:
        return False
    for threshold in output.parameters():
        threshold.mul_(odd / sums)
    return True


def _agreement(source: Edge, elements: int, output: Edge) -> float:
    return -reduction.disagreements(source, output, elements)


def _settle(output: ActQuant, worth: Callable[[Edge], float], enough: float = math.inf) -> None:
    """Set the threshold to the float32 neighbour with the highest `worth`, the nearest one of equals; stop at
    `enough`."""
    (threshold,) = output.parameters()
    original, best = threshold.detach().clone(), -math.inf
    kept = original
    for distance in sorted(range(-SETTLE_REACH, SETTLE_REACH + 1), key=abs):
        threshold.copy_((original.view(torch.int32) + distance).view(torch.float32))
        current = worth(_edge(output))
        if current > best:
            best, kept = current, threshold.detach().clone()
        if best >= enough:
            break
    threshold.copy_(kept)


def _edge(quantiser: ActQuant) -> Edge:
    return Edge("", (1, 1, 1), quantiser.scale(), quantiser.zero_point())


def freeze(network: QuantNetwork) -> None:
    """Stop training the activation scales; weights and biases are still trained."""
    for quantiser in network.quantisers():
        quantiser.requires_grad_(False)


def lower(network: QuantNetwork, frontend: FrontEnd, n_frames: int) -> QGraph:
    """The integer graph of a calibrated network for windows of `n_frames` frames, validated.

    Raises:
        InputError: a dead channel, a saturating bias or a scale of zero, named by layer.
    """
    build = GraphBuilder()
    names = {network.source: build.edge("log_mel", (1, frontend.n_mels, n_frames), network.input)}
    with torch.no_grad():
        for step in network.steps:
            block = network.block(step)
            names[step.output] = block.lower(build, step.block, [names[name] for name in step.inputs])
    graph = QGraph(build.edges, tuple(build.ops), "log_mel", names[network.result])
    graph.validate()
    return graph
