"""A model file as the ledger sees it: nodes over tensors with shapes and byte counts, whatever the format it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod


@dataclass(frozen=True)
class Tensor:
    """One tensor. shape: as in the file, batch first. bits: of one element. storage: tensors that share it share their bytes."""

    name: str
    shape: tuple[int, ...]
    bits: int
    storage: str

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

    inputs, outputs: activations by name. constants: parameters by name. weight: shape of the kernel, or None.
    macs: convolutions and dense layers, 0 elsewhere. nessi_macs: what NeSsi's rules add up for it.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...] = ()
    weight: tuple[int, ...] | None = None
    macs: int = 0
    nessi_macs: int = 0


@dataclass(frozen=True)
class Network:
    """Nodes in execution order, every tensor by name, and the names of the graph's inputs and outputs."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    persistent: tuple[str, ...] = field(default=())

    def peak_activation_bytes(self) -> int:
        """Largest sum of activations alive at once.

        A tensor lives from the node that writes it to the last node that reads it; while a node runs, what it reads and
        what it writes are both alive (no in-place reuse). Graph inputs live from the start, graph outputs to the end, and
        state that persists between inferences always.
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
            if born <= death[name]:
                change[born] += self.tensors[name].bytes
                change[death[name] + 1] -= self.tensors[name].bytes
        return max(accumulate(change))
