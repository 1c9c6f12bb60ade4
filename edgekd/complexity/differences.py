"""Explains op by op where another convention differs from `exact`. The differences of a convention add up to the
difference of its totals.

NeSsi counts the file by its own rules. torchinfo and ptflops count the float network that the file was made from,
module by module. A module belongs to the op that has the name of its block.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from edgekd.complexity.readers.network import Network, Node, Tensor
from edgekd.modelfile.manifest import FLOAT_BYTES, FloatCount, ModuleCount
from edgekd.operators import Tflite
from edgekd.text import counted

NESSI = "nessi_tflite"
NESSI_REASONS = {
    Tflite.MEAN.name: "NeSsi counts a mean, every input element once",
    Tflite.ADD.name: "NeSsi counts a sum, every output element once",
    **{each.name: "NeSsi counts a pool, output elements times kernel" for each in Tflite if each.value.pools},
}
"""Why NeSsi counts an op that `exact` does not count."""
UNEXPLAINED = "unexplained"
"""Reason of a difference that this module cannot explain. No student of edgekd has one."""

Quantity = Literal["macs", "params", "param_bytes"]


class Difference(msgspec.Struct, frozen=True):
    """A count of another convention that differs from `exact`. layer: an op of the file, or a module that only the
    other convention counts. theirs: the count of the other convention. why: the reason in words."""

    convention: str
    layer: str
    quantity: Quantity
    exact: int
    theirs: int
    why: str


@dataclass(frozen=True)
class OpRow:
    """One op. charged: its constants without those of earlier ops. outputs: elements of its first output, 0 if unknown.
    modules: convention -> modules of the float network that it was made from."""

    node: Node
    charged: Sequence[Tensor]
    constants: Sequence[Tensor]
    nessi_constants: Sequence[Tensor]
    outputs: int
    modules: dict[str, list[ModuleCount]] = field(default_factory=lambda: defaultdict(list))

    @property
    def params(self) -> int:
        """Number of parameters that count for this op."""
        return elements(self.charged)

    @property
    def param_bytes(self) -> int:
        """Their bytes."""
        return stored_bytes(self.charged)


def rows(network: Network) -> list[OpRow]:
    """A row for each op of a network."""
    tensors = network.tensors
    return [
        OpRow(
            node,
            charged,
            [tensors[name] for name in node.constants],
            [tensors[name] for name in node.nessi_constants],
            elements(tensors[name] for name in node.outputs[:1] if name in tensors),
        )
        for node, charged in zip(network.nodes, network.charged(), strict=True)
    ]


def elements(tensors: Iterable[Tensor]) -> int:
    """Total number of elements."""
    return sum(tensor.elements for tensor in tensors)


def stored_bytes(tensors: Iterable[Tensor]) -> int:
    """Total number of bytes."""
    return sum(tensor.bytes for tensor in tensors)


def assign(op_rows: Sequence[OpRow], convention: str, count: FloatCount) -> list[ModuleCount]:
    """Add to each op the modules that it was made from.

    The emitters name an op after its block, and may add more after a slash. The modules of a block have its name, and
    may add more after a dot.

    Returns:
        The modules that belong to no op.
    """
    owners: dict[str, OpRow] = {}
    for row in op_rows:
        block = row.node.name.split("/")[0]
        if block not in owners or (row.node.kernel and not row.node.emulates and not owners[block].node.macs):
            owners[block] = row
    left = []
    for module in count.modules:
        name = module.name
        while name and name not in owners:
            name = name.rpartition(".")[0]
        if name:
            owners[name].modules[convention].append(module)
        else:
            left.append(module)
    return left


def of_nessi(op_rows: Iterable[OpRow]) -> list[Difference]:
    """Differences of NeSsi from `exact`."""
    found = []
    for row in op_rows:
        node = row.node
        theirs: dict[Quantity, int] = {
            "macs": node.nessi_macs,
            "params": elements(row.nessi_constants),
            "param_bytes": stored_bytes(row.nessi_constants),
        }
        reasons: dict[Quantity, str] = {
            "macs": _nessi_macs_reason(row),
            "params": _nessi_params_reason(row),
            "param_bytes": _nessi_params_reason(row),
        }
        found += _differing(NESSI, node.name, _exact(row), theirs, reasons)
    return found


def of_float_network(convention: str, op_rows: Iterable[OpRow], left: Iterable[ModuleCount]) -> list[Difference]:
    """Differences of torchinfo or ptflops from `exact`. left: modules that belong to no op."""
    found = []
    for row in op_rows:
        modules = row.modules[convention]
        found += _differing(
            convention,
            row.node.name,
            _exact(row),
            _of_modules(modules),
            {
                "macs": _float_macs_reason(row, modules),
                "params": _float_params_reason(row, modules),
                "param_bytes": (
                    f"{FLOAT_BYTES} bytes for each of {counted(sum(module.params for module in modules), 'parameter')}"
                    " of the float network; in the file"
                    f" {', '.join(sorted({tensor.dtype for tensor in row.charged})) or 'none'}"
                ),
            },
        )
    for module in left:
        reason = f"{module.kind}: in the float network only"
        found += _differing(
            convention,
            module.name,
            {"macs": 0, "params": 0, "param_bytes": 0},
            _of_modules([module]),
            {"macs": reason, "params": reason, "param_bytes": reason},
        )
    return found


def _exact(row: OpRow) -> dict[Quantity, int]:
    return {"macs": row.node.macs, "params": row.params, "param_bytes": row.param_bytes}


def _of_modules(modules: Iterable[ModuleCount]) -> dict[Quantity, int]:
    macs, params = 0, 0
    for module in modules:
        macs, params = macs + module.macs, params + module.params
    return {"macs": macs, "params": params, "param_bytes": FLOAT_BYTES * params}


def _differing(
    convention: str, layer: str, exact: dict[Quantity, int], theirs: dict[Quantity, int], reasons: dict[Quantity, str]
) -> list[Difference]:
    return [
        Difference(convention, layer, quantity, exact[quantity], theirs[quantity], reasons[quantity])
        for quantity in exact
        if exact[quantity] != theirs[quantity]
    ]


def _nessi_macs_reason(row: OpRow) -> str:
    node = row.node
    if node.emulates:
        return f"{node.op} with a kernel that makes it {_article(node.emulates)}, which NeSsi counts as a convolution"
    if node.op == "FULLY_CONNECTED" and node.weight:
        return (
            "NeSsi takes the last size of the input for the width of the dense layer:"
            f" {node.nessi_macs * node.weight[1] // node.macs} for {node.weight[1]}"
            if node.macs
            else UNEXPLAINED
        )
    return NESSI_REASONS.get(node.op, f"NeSsi has no rule for {node.op}")


def _nessi_params_reason(row: OpRow) -> str:
    ours, theirs = {tensor.name for tensor in row.constants}, {tensor.name for tensor in row.nessi_constants}
    again, state, inside = len(row.constants) - len(row.charged), len(theirs - ours), len(ours - theirs)
    reasons = {
        f"{again} of its constants shared with earlier ops, which NeSsi counts again": again,
        f"{counted(state, 'tensor')} of state, which NeSsi counts as constants": state,
        f"{counted(inside, 'constant')} of the subgraphs that it runs, which NeSsi does not read": inside,
    }
    return "; ".join(reason for reason, count in reasons.items() if count)


def _float_macs_reason(row: OpRow, modules: Sequence[ModuleCount]) -> str:
    """The reason for a difference of macs, in parts that add up: biases, norms, and ops that the file expresses as a
    convolution."""
    node = row.node
    norms = sum(module.macs for module in modules if "Norm" in module.kind)
    rest = sum(module.macs for module in modules) - norms - node.macs
    parts = [f"{norms:+,}: the batch norm, one for each parameter"] if norms else []
    convolves = any("Norm" not in module.kind for module in modules)
    if rest and not convolves:
        parts.append(
            f"{rest:+,}: a batch norm on its own, which the file runs as a depthwise 1x1 convolution"
            if modules
            else f"{rest:+,}: in the file only"
        )
    elif rest:
        parts.append(f"{rest:+,}: a bias at each output" if rest == row.outputs else f"{rest:+,}: {UNEXPLAINED}")
    return "; ".join(parts)


def _float_params_reason(row: OpRow, modules: Sequence[ModuleCount]) -> str:
    """The reason for a difference of parameters, in parts that add up: norms, shared constants, and constants that only
    the file has."""
    if row.node.emulates:
        return f"the kernel of {_article(row.node.emulates)} spelt as a convolution: in the file only"
    norms = sum(module.params for module in modules if "Norm" in module.kind)
    convolutions = sum(module.params for module in modules) - norms
    shared = elements(row.constants) - row.params
    parts = []
    if norms and convolutions:
        parts.append(f"{norms:+,}: the batch norm, which the file folds into the kernel")
        norms = 0
    only_here = elements(row.constants) - convolutions - norms
    if only_here:
        parts.append(f"{-only_here:+,}: constants in the file only, such as a folded bias, axes and shapes")
    if shared:
        parts.append(f"{shared:+,}: constants equal to an earlier op's, stored once")
    return "; ".join(parts)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
