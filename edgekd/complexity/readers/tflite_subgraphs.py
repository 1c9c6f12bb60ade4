"""What operators that run other subgraphs of a .tflite file cost: constants and multiply-accumulates of what they
run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgekd.complexity.readers import tflite_rules as rules
from edgekd.complexity.readers.network import Node


@dataclass
class Subgraph:
    """One subgraph. keys: its tensors by number. bodies: number of a node -> other subgraphs that it runs. runs: all of
    these."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    keys: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    bodies: dict[int, tuple[int, ...]] = field(default_factory=dict)
    runs: set[int] = field(default_factory=set)


def charged_nodes(graphs: Mapping[int, Subgraph]) -> tuple[Node, ...]:
    """The nodes of the first subgraph. Those that run other subgraphs have the constants of these, each subgraph at the
    first of them, and their multiply-accumulates where the file tells how often they run."""
    main, charged = graphs[0], {0}
    known: dict[int, int | None] = {0: None}
    nodes = list(main.nodes)
    for index, bodies in main.bodies.items():
        inside = _all_run(graphs, bodies)
        more = [name for number in sorted(inside - charged) for node in graphs[number].nodes for name in node.constants]
        charged |= inside
        nodes[index] = replace(
            _counted(graphs, nodes[index], bodies, known), constants=(*nodes[index].constants, *more)
        )
    return tuple(nodes)


def _counted(graphs: Mapping[int, Subgraph], node: Node, bodies: Sequence[int], known: dict[int, int | None]) -> Node:
    """A node with the multiply-accumulates of what it runs, or with a note where their number is unknown."""
    macs = _run_macs(graphs, node.op, bodies, known)
    if macs is not None:
        return replace(node, macs=macs, unknown="")
    inside = sum(each.macs for number in _all_run(graphs, bodies) for each in graphs[number].nodes)
    return replace(
        node,
        unknown="the constants of what it runs are counted; its multiply-accumulates are not: how often it runs is not"
        f" in the file (each subgraph once: {inside:,})",
    )


def _run_macs(
    graphs: Mapping[int, Subgraph], op: str, bodies: Sequence[int], known: dict[int, int | None]
) -> int | None:
    """Multiply-accumulates in one inference of what an operator runs; None where they are unknown."""
    if op in rules.RUN_AT_START:
        return 0
    if op not in rules.RUN_EACH_TIME:
        return None
    return _total(_subgraph_macs(graphs, number, known) for number in bodies)


def _subgraph_macs(graphs: Mapping[int, Subgraph], number: int, known: dict[int, int | None]) -> int | None:
    """Multiply-accumulates of a subgraph each time it runs; None where they are unknown. known: those found before."""
    if number not in known:
        known[number] = None  # for one that runs itself
        graph = graphs[number]
        known[number] = _total(
            _run_macs(graphs, node.op, graph.bodies[index], known)
            if index in graph.bodies
            else None
            if node.unknown
            else node.macs
            for index, node in enumerate(graph.nodes)
        )
    return known[number]


def _total(counts: Iterable[int | None]) -> int | None:
    """The sum; None if one is."""
    every = list(counts)
    return None if None in every else sum(count for count in every if count is not None)


def _all_run(graphs: Mapping[int, Subgraph], numbers: Sequence[int]) -> set[int]:
    """Some subgraphs and all subgraphs that they run, directly or not."""
    inside, pending = set[int](), list(numbers)
    while pending:
        number = pending.pop()
        if number not in inside:
            inside.add(number)
            pending += graphs[number].runs
    return inside
