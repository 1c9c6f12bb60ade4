"""Reads the constants of an .onnx graph: initializers and Constant nodes, dense and sparse, in every form of ONNX."""

from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.complexity.readers.network import Tensor, bits_of
from edgekd.complexity.readers.values import MAX_KERNEL, REAL_KERNELS, count_nonzero
from edgekd.errors import InputError

DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}
"""ONNX's names of types without a size in them. All other names are taken in lower case."""
NUMBER_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
"""Fields of a constant that may hold its values one by one."""


def tensor_of(path: Path, onnx: Any, name: str, shape: tuple[int, ...], kind: int) -> Tensor:
    """A tensor. kind: a number of ONNX's TensorProto.DataType.

    Raises:
        InputError: a type without a fixed size.
    """
    known = onnx.TensorProto.DataType.Name(kind)
    dtype = DTYPES.get(known, known.lower())
    if not bits_of(dtype):
        raise InputError(f"{path}: tensor '{name}' has type {known}, which has no fixed size; it cannot be counted")
    return Tensor(name, shape, dtype, name)


class Constants:
    """The constants of a graph, and of the graphs that its ops run.

    tensors: the reader's tensors by name; each constant read is added. external: name of another file -> names of the
    constants whose values are there.
    """

    def __init__(self, path: Path, onnx: Any, tensors: MutableMapping[str, Tensor]) -> None:
        self._path, self._onnx, self._tensors = path, onnx, tensors
        self._names: set[str] = set()
        self._values: dict[str, Any] = {}
        self.external: dict[str, tuple[str, ...]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def read(self, graph: Any, prefix: str = "") -> list[str]:
        """Read the constants of a graph; their names, which start with `prefix` to keep graphs apart."""
        names = [self._add(prefix + value.name, tuple(value.dims), value) for value in graph.initializer]
        for sparse in graph.sparse_initializer:
            names.append(self._add(prefix + sparse.values.name, tuple(sparse.dims), sparse.values, sparse=True))
        for node in graph.node:
            if node.op_type == "Constant":
                names.append(self._add_node(prefix + node.output[0], node.attribute[0]))
        return names

    def array(self, name: str) -> NDArray[Any] | None:
        """Values of a small constant; None if the file does not hold them, or has a type or size that is not
        examined."""
        if (
            name not in self._values
            or self._tensors[name].dtype not in REAL_KERNELS
            or not 0 < self._tensors[name].elements <= MAX_KERNEL
        ):
            return None
        values: NDArray[Any] = self._onnx.numpy_helper.to_array(self._values[name])
        return values

    def integer(self, name: str) -> int | None:
        """Value of a constant that is a single integer; None for any other."""
        if name not in self._values or self._tensors[name].elements != 1:
            return None
        value = self._onnx.numpy_helper.to_array(self._values[name]).reshape(())
        return int(value) if np.issubdtype(value.dtype, np.integer) else None

    def _add_node(self, name: str, attribute: Any) -> str:
        """Add a Constant node. attribute: the one that holds its value, in any form."""
        if attribute.name == "value":
            return self._add(name, tuple(attribute.t.dims), attribute.t)
        if attribute.name == "sparse_value":
            return self._add(name, tuple(attribute.sparse_tensor.dims), attribute.sparse_tensor.values, sparse=True)
        forms: dict[str, Any] = {
            "value_float": np.float32(attribute.f),
            "value_floats": np.asarray(attribute.floats, np.float32),
            "value_int": np.int64(attribute.i),
            "value_ints": np.asarray(attribute.ints, np.int64),
        }
        if attribute.name not in forms:
            raise InputError(f"{self._path}: constant '{name}' is text, which cannot be counted")
        values = np.asarray(forms[attribute.name])
        return self._add(name, values.shape, self._onnx.numpy_helper.from_array(values))

    def _add(self, name: str, shape: tuple[int, ...], value: Any, *, sparse: bool = False) -> str:
        """Add a constant. value: its TensorProto, for a sparse one that of the values it stores."""
        tensor = tensor_of(self._path, self._onnx, name, shape, value.data_type)
        self._tensors[name] = tensor
        self._names.add(name)
        if any(size < 0 for size in shape):
            raise ValueError(f"constant '{name}' has shape {shape}")
        if value.data_location == self._onnx.TensorProto.EXTERNAL:
            file = next((entry.value for entry in value.external_data if entry.key == "location"), "")
            self.external[file] = (*self.external.get(file, ()), name)
            return name
        if value.raw_data:
            if not sparse and len(value.raw_data) != tensor.bytes:
                raise ValueError(f"constant '{name}' has {len(value.raw_data):,} bytes of {tensor.bytes:,}")
            nonzero: int | None = count_nonzero(value.raw_data, tensor.dtype)
        else:
            nonzero = _count_numbers(value, name, 0 if sparse else tensor.elements, tensor.dtype)
        self._tensors[name] = replace(tensor, nonzero=nonzero)
        if not sparse:
            self._values[name] = value
        return name


def _count_numbers(value: Any, name: str, elements: int, dtype: str) -> int | None:
    """Number of values that are not zero, of a constant that holds them one by one. None if several share a number.

    Raises:
        ValueError: the number of values is not that of elements.
    """
    numbers = next((each for each in (getattr(value, field) for field in NUMBER_FIELDS) if each), ())
    if elements and (bits_of(dtype) < 8 or dtype.startswith("complex")):
        return None
    if elements and len(numbers) != elements:
        raise ValueError(f"constant '{name}' has {len(numbers):,} values of {elements:,}")
    return sum(1 for number in numbers if number)
