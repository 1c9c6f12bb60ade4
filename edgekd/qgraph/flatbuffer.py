"""Writes a .tflite file: collects tensors, constants and operators, and packs them as a flatbuffer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MissingExtraError
from edgekd.operators import Tflite
from edgekd.tflite_tables import IDENTIFIER

SCHEMA_VERSION = 3
BUFFER_ALIGNMENT = 16
LARGEST_OLD_CODE = 127
"""The old 8-bit field of operator codes holds this for operators of this code or a larger one."""
TYPES = {np.dtype(np.float32): "FLOAT32", np.dtype(np.int32): "INT32", np.dtype(np.int8): "INT8"}


class FlatbufferWriter:
    """A model with one subgraph. Methods name tensors by their index.

    Args:
        description: free text kept in the model.

    Raises:
        MissingExtraError: flatbuffers or ai_edge_litert (its schema) is not installed.
    """

    def __init__(self, description: str) -> None:
        try:
            from ai_edge_litert import schema_py_generated
        except ImportError as error:
            raise MissingExtraError(error.name or "ai_edge_litert", "check") from None
        self.schema: Any = schema_py_generated
        self._description = description
        self._tensors: list[Any] = []
        self._buffers: list[NDArray[np.uint8] | None] = [None]  # by convention buffer 0 is the empty one
        self._operators: list[Any] = []
        self._codes: list[tuple[Tflite, int]] = []
        self._constants: dict[tuple[object, ...], int] = {}

    @property
    def tensors(self) -> int:
        """Number of tensors so far, which is the index of the next one."""
        return len(self._tensors)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: type[np.generic],
        *,
        scale: Sequence[float] | None = None,
        zero_point: int = 0,
        axis: int = 0,
        buffer: int = 0,
    ) -> int:
        """Add a tensor. scale: None where it is not quantised, else one, or one for each channel along axis."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.hasRank = name.encode(), list(shape), buffer, True
        tensor.type = getattr(self.schema.TensorType, TYPES[np.dtype(dtype)])
        if scale is not None:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = [float(value) for value in scale]
            tensor.quantization.zeroPoint = [zero_point] * len(scale)
            tensor.quantization.quantizedDimension = axis if len(scale) > 1 else 0
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(
        self,
        name: str,
        values: NDArray[Any],
        scale: Sequence[float] | None = None,
        axis: int = 0,
        zero_point: int = 0,
        shared: bool = True,
    ) -> int:
        """Add a constant tensor. Equal constants that are shared are stored once, with the name of the first."""
        scales = None if scale is None else tuple(float(value) for value in scale)
        key = (values.dtype.str, values.shape, values.tobytes(), scales, axis, zero_point, None if shared else name)
        if key not in self._constants:
            self._buffers.append(np.frombuffer(values.tobytes(), np.uint8))
            self._constants[key] = self.tensor(
                name,
                values.shape,
                values.dtype.type,
                scale=scales,
                axis=axis,
                zero_point=zero_point,
                buffer=len(self._buffers) - 1,
            )
        return self._constants[key]

    def operator(self, kind: Tflite, inputs: Sequence[int], output: int, **options: object) -> None:
        """Append an operator. options: fields of its options table; the others keep the schema's defaults."""
        quantised = self._tensors[output].type == self.schema.TensorType.INT8
        code = kind, kind.value.int8_version if quantised else 1
        if code not in self._codes:
            self._codes.append(code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._codes.index(code), list(inputs), [output]
        if kind.value.options is not None:
            table, operator.builtinOptionsType = kind.value.options
            operator.builtinOptions = getattr(self.schema, f"{table}T")()
            for option, value in options.items():
                if option not in vars(operator.builtinOptions):
                    raise AttributeError(f"{table} has no field {option}")
                setattr(operator.builtinOptions, option, value)
        self._operators.append(operator)

    def pack(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The finished file."""
        import flatbuffers

        model, subgraph = self.schema.ModelT(), self.schema.SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = b"main", self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = list(inputs), list(outputs)
        model.version, model.description, model.subgraphs = SCHEMA_VERSION, self._description.encode(), [subgraph]
        model.operatorCodes = [self._operator_code(*code) for code in self._codes]
        model.buffers = [_aligned_buffer(self.schema, data) for data in self._buffers]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _operator_code(self, kind: Tflite, version: int) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.version = kind.value.code, version
        code.deprecatedBuiltinCode = min(code.builtinCode, LARGEST_OLD_CODE)
        return code


def _aligned_buffer(schema: Any, data: NDArray[np.uint8] | None) -> Any:
    """A buffer whose data start on a 16-byte boundary; the generated packer does not align them."""

    class AlignedBuffer(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802
            if data is None:
                return super().Pack(builder)
            builder.StartVector(1, len(data), BUFFER_ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return AlignedBuffer()
