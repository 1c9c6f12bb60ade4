"""A `QGraph` under construction, to which the lowering of each block appends its ops."""

from edgekd.qgraph.graph import Edge, Op, Shape, broadcast, slide
from edgekd.quant.activation import ActQuant


class GraphBuilder:
    """Edges and ops so far. An edge bears the name of the op that writes it."""

    def __init__(self) -> None:
        self.edges: dict[str, Edge] = {}
        self.ops: list[Op] = []

    def edge(self, name: str, shape: Shape, quantiser: ActQuant) -> str:
        """Add an edge (channel, mel, frame) with the quantiser's scale; returns its name."""
        self.edges[name] = Edge(name, shape, quantiser.scale(), quantiser.zero_point())
        return name

    def same_scale(self, name: str, shape: Shape, source: str) -> str:
        """Add an edge that keeps the scale and zero point of another; returns its name."""
        self.edges[name] = Edge(name, shape, self.edges[source].scale, self.edges[source].zero_point)
        return name

    def broadcast(self, inputs: list[str]) -> Shape:
        """Shape of an elementwise op over edges whose axes of size 1 broadcast."""
        return broadcast([self.edges[name].shape for name in inputs])

    def pooled(
        self, source: str, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int] = (0, 0)
    ) -> Shape:
        """Shape after a floor-mode pool, with the same padding before and after each axis."""
        shape, (mel, frame) = self.edges[source].shape, padding
        return shape[0], *slide(shape, kernel, stride, (mel, mel, frame, frame))
