"""A model file as the ledger sees it: nodes over tensors with shapes and byte counts, whatever the format it came
from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod

BOOL_BITS = 8


def bits_of(dtype: str) -> int:
    """Bits of one element by the name of its type: "int4" 4, "bfloat16" 16, "bool" 8; 0 for types without a fixed size,
    like "string"."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else BOOL_BITS if dtype == "bool" else 0


@dataclass(frozen=True)
class Tensor:
    """One tensor. shape: as in the file, batch first. dtype: like "int8" or "float32". storage: tensors that share it
    share their bytes.

    nonzero: stored elements that are not zero, of a constant; None where the file does not hold them, which counts as
    all of them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    storage: str
    nonzero: int | None = None

    @property
    def bits(self) -> int:
        """Of one element; 0 where it has no fixed size."""
        return bits_of(self.dtype)

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes when stored densely; zeros of a pruned tensor count."""
        return -(-self.elements * self.bits // 8)


@dataclass(frozen=True)
class Node:
    """One operation that an engine executes.

    inputs, outputs: activations by name. constants: parameters by name. kernel: name of the kernel's tensor; weight:
    its shape.
    macs: convolutions, dense layers, matrix products and recurrent cells, 0 elsewhere. nessi_macs: what NeSsi's rules
    add up for it.
    emulates: "average pool" or "copy" for a convolution that is one in fact; its macs are then in `emulated_macs`.
    unknown: for an op that no rule covers, what of it is not counted.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...] = ()
    kernel: str | None = None
    weight: tuple[int, ...] | None = None
    macs: int = 0
    nessi_macs: int = 0
    nessi_constants: tuple[str, ...] = ()
    emulates: str = ""
    emulated_macs: int = 0
    unknown: str = ""


@dataclass(frozen=True)
class Network:
    """Nodes in execution order, every tensor of known shape by name, and the names of the graph's inputs and outputs.

    operators: op -> how many the file holds, also those that an engine folds into others and those inside branches and
    loops.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    persistent: tuple[str, ...] = field(default=())
    operators: Mapping[str, int] = field(default_factory=dict)

    def charged(self) -> list[list[Tensor]]:
        """For each node its constants, one that several nodes share only at the first of them."""
        seen: set[str] = set()
        rows: list[list[Tensor]] = []
        for node in self.nodes:
            rows.append([])
            for tensor in (self.tensors[name] for name in node.constants):
                if tensor.storage not in seen:
                    seen.add(tensor.storage)
                    rows[-1].append(tensor)
        return rows

    def peak_activation_bytes(self) -> int:
        """Largest sum of activations alive at once.

        A tensor lives from the node that writes it to the last node that reads it; while a node runs, what it reads and
        what it writes are both alive (no in-place reuse). Graph inputs live from the start, graph outputs to the end,
        and state that persists between inferences always. What an unknown op writes without telling its shape is left
        out.
        """
        if not self.nodes:
            return 0
        last = len(self.nodes) - 1
        birth = dict.fromkeys(self.inputs, 0)
        death = dict.fromkeys(self.inputs, 0)
        for step, node in enumerate(self.nodes):
            for name in node.outputs:
                birth.setdefault(name, step)
                death[name] = step
            for name in node.inputs:
                if name in birth:
                    death[name] = step
        for name in self.outputs:
            if name in birth:
                death[name] = last
        for name in self.persistent:
            birth[name], death[name] = 0, last
        change = [0] * (len(self.nodes) + 1)
        for name, born in birth.items():
            if born <= death[name] and name in self.tensors:
                change[born] += self.tensors[name].bytes
                change[death[name] + 1] -= self.tensors[name].bytes
        return max(accumulate(change))
