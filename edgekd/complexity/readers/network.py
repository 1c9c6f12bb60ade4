"""A model file in the form that is counted, whatever its format: nodes over tensors with shapes and bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod

BOOL_BITS = 8


def bits_of(dtype: str) -> int:
    """Bits of one element of a type: "int4" 4, "bfloat16" 16, "bool" 8; 0 for types without a fixed size like
    "string"."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else BOOL_BITS if dtype == "bool" else 0


@dataclass(frozen=True)
class Tensor:
    """One tensor. shape: as in the file, batch first. dtype: like "int8" or "float32". storage: the same for tensors
    that share their bytes.

    nonzero: number of stored elements of a constant that are not zero; None if the file does not hold them, which
    counts as all.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    storage: str
    nonzero: int | None = None

    @property
    def bits(self) -> int:
        """Bits of one element; 0 if it has no fixed size."""
        return bits_of(self.dtype)

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes when stored densely; the zeros of a pruned tensor count too."""
        return -(-self.elements * self.bits // 8)


@dataclass(frozen=True)
class Node:
    """One operation that an engine executes.

    inputs, outputs: names of activations. constants: names of parameters. kernel: name of the kernel's tensor; weight:
    its shape.
    macs: of convolutions, dense layers, matrix products and recurrent cells; 0 for other ops. nessi_macs,
    nessi_constants: the same by NeSsi's rules.
    emulates: "average pool" or "copy" for a convolution that computes one; its macs are then in `emulated_macs`.
    unknown: for an op without a counting rule, what is not counted; else "".
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
    """Nodes in execution order, tensors of known shape by name, and the names of the graph's inputs and outputs.

    persistent: tensors that keep their values between inferences. operators: op -> how many the file has, also those
    that an engine folds into others and those in branches and loops. external: name of another file -> constants in it.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    persistent: tuple[str, ...] = field(default=())
    operators: Mapping[str, int] = field(default_factory=dict)
    external: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def charged(self) -> list[list[Tensor]]:
        """The constants of each node. A constant that several nodes share is only at the first of them."""
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

        A tensor is alive from the node that writes it to the last node that reads it. While a node runs, its inputs and
        its outputs are both alive (no in-place reuse). Graph inputs are alive from the start, graph outputs to the end,
        and persistent tensors always. Outputs of unknown shape are left out.
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
