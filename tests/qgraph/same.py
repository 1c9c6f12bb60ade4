"""Compares integer graphs field by field."""

from dataclasses import fields

import numpy as np

from edgekd.qgraph.graph import QGraph


def differences(first: QGraph, second: QGraph) -> list[str]:
    """What differs between two graphs; empty where they are equal, types of arrays included."""
    found = [
        f"{name}: {getattr(first, name)} and {getattr(second, name)}"
        for name in ("input", "output")
        if getattr(first, name) != getattr(second, name)
    ]
    for name in sorted({*first.edges, *second.edges}):
        edges = first.edges.get(name), second.edges.get(name)
        if edges[0] != edges[1]:
            found.append(f"{edges[0]} and {edges[1]}")
    kinds = [[(type(op).__name__, op.name) for op in graph.ops] for graph in (first, second)]
    if kinds[0] != kinds[1]:
        return [*found, f"{kinds[0]} and {kinds[1]}"]
    for one, other in zip(first.ops, second.ops, strict=True):
        for field in fields(one):
            values = getattr(one, field.name), getattr(other, field.name)
            if isinstance(values[0], np.ndarray):
                equal = values[0].dtype == values[1].dtype and np.array_equal(*values)
            else:
                equal = values[0] == values[1]
            if not equal:
                found.append(f"{one.name}.{field.name}: {values[0]} and {values[1]}")
    return found
