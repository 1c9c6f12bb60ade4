"""The base of all quantization-aware forms of blocks."""

from abc import ABC, abstractmethod

from torch import Tensor

from edgekd.models.base import TensorModule
from edgekd.quant.activation import ActQuant
from edgekd.quant.builder import GraphBuilder


class QuantBlock(TensorModule, ABC):
    """QAT form of one block, built from the block and the quantisers of its inputs."""

    @property
    @abstractmethod
    def edge(self) -> ActQuant:
        """The quantiser of the output."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor: ...

    @abstractmethod
    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        """Append this block's ops to the graph under construction and return the name of the output edge."""
