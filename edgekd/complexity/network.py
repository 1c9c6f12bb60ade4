"""A model file as the ledger sees it: nodes over tensors with shapes and byte counts, whatever the format it came from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

BOOL_BITS = 8
Buffer = Any
"""What numpy reads bytes from: bytes or an array of them."""


@dataclass(frozen=True)
class Tensor:
    """One tensor. shape: as in the file, batch first. dtype: like "int8" or "float32". storage: tensors that share it share their bytes.

    nonzero: stored elements that are not zero, of a constant; None where the file does not hold them, which counts as all of them.
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


def bits_of(dtype: str) -> int:
    """Bits of one element by the name of its type: "int4" 4, "bfloat16" 16, "bool" 8; 0 for types without a fixed size, like "string"."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else BOOL_BITS if dtype == "bool" else 0


def count_nonzero(data: Buffer, dtype: str) -> int:
    """How many elements of packed little-endian values are not zero; either zero of a float is."""
    bits = bits_of(dtype)
    if bits < 8:
        raw = np.frombuffer(data, np.uint8)
        return sum(int(np.count_nonzero(raw >> shift & (1 << bits) - 1)) for shift in range(0, 8, bits))
    values = np.frombuffer(data, f"<u{min(bits // 8, 8)}")
    return int(np.count_nonzero(values << values.dtype.type(1) if "float" in dtype else values))


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
