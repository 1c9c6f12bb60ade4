"""Gives the free dimensions of an .onnx graph their sizes, since the counts depend on them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.complexity.readers import onnx_rules as rules
from edgekd.errors import InputError, nearest


def fix_shapes(path: Path, graph: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Set the free dimensions of a graph's inputs. A batch without a size is 1.

    Args:
        path: of the file, for errors.
        graph: is changed.
        shapes: name of an input -> its whole shape. A named dimension has the same size in all inputs.

    Raises:
        InputError: a shape of no input, one that contradicts the file, or a free dimension besides the batch.
    """
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in graph.input if value.name not in constants}
    named: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise InputError(f"--shape {name}: no input of {path}{nearest(name, inputs)}")
        named |= _set(path, name, inputs[name], shape)
    for name, kind in inputs.items():
        sizes = kind.shape.dim
        for axis, size in enumerate(sizes):
            if _is_fixed(size):
                continue
            if size.dim_param in named:
                size.dim_value = named[size.dim_param]
            elif axis > 0 or len(sizes) == 1:
                example = ",".join(
                    str(each.dim_value or (1 if index == 0 else "N")) for index, each in enumerate(sizes)
                )
                raise InputError(
                    f"{path}: input '{name}' has a free dimension at axis {axis}; give its size, like --shape"
                    f" {name}={example} with numbers for N, or export with fixed sizes (only the batch may be free)"
                )
            else:
                size.dim_value = 1
    foreign = any(node.domain not in rules.DOMAINS for node in graph.node)
    # their shapes may still name free sizes. Shape inference fills them again, but not after a foreign op
    for value in [*graph.output, *graph.value_info]:
        if not foreign or not all(_is_fixed(size) for size in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")


def _set(path: Path, name: str, kind: Any, shape: Sequence[int]) -> dict[str, int]:
    """Set the shape of an input. Returns the sizes of its named dimensions.

    Raises:
        InputError: the file has another number of dimensions, or another size.
    """
    if not kind.HasField("shape"):
        for _ in shape:
            kind.shape.dim.add()
    found = [size.dim_value if _is_fixed(size) else size.dim_param for size in kind.shape.dim]
    if len(found) != len(shape) or any(
        isinstance(old, int) and old != new for old, new in zip(found, shape, strict=True)
    ):
        raise InputError(
            f"--shape {name}={','.join(map(str, shape))}: in {path} it is"
            f" {','.join(str(size or '?') for size in found)}; give the free dimensions a size, the others as they are"
        )
    for size, new in zip(kind.shape.dim, shape, strict=True):
        size.dim_value = new
    return {old: new for old, new in zip(found, shape, strict=True) if isinstance(old, str) and old}


def _is_fixed(size: Any) -> bool:
    return bool(size.HasField("dim_value") and size.dim_value > 0)
