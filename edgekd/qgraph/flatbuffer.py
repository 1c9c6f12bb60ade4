"""The mechanics of a .tflite file: collects tensors, constants and operators, and packs them as a flatbuffer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MissingExtraError

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
BUFFER_ALIGNMENT = 16
INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "RESHAPE": 1}
"""Operator versions that brought int8; every other one that is used here has it since version 2."""
LARGEST_OLD_CODE = 127
"""What the old 8-bit operator code field holds for operators at or beyond it."""
TYPES = {np.dtype(np.float32): "FLOAT32", np.dtype(np.int32): "INT32", np.dtype(np.int8): "INT8"}


class FlatbufferWriter:
    """One model with one subgraph. Tensors are known by their index.

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
        self._codes: list[tuple[str, int]] = []
        self._constants: dict[tuple[object, ...], int] = {}

    @property
    def tensors(self) -> int:
        """Tensors so far: the index of the next."""
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
        """Add a tensor; scale None is not quantised, one scale is per tensor, more are per channel along axis."""
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
        self, name: str, values: NDArray[Any], scale: Sequence[float] | None = None, axis: int = 0, zero_point: int = 0
    ) -> int:
        """Add a constant tensor; equal constants are stored once."""
        scales = None if scale is None else tuple(float(value) for value in scale)
        key = (values.dtype.str, values.shape, values.tobytes(), scales, axis, zero_point)
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

    def operator(self, name: str, inputs: Sequence[int], output: int, kind: str = "", **options: object) -> None:
        """Append an operator. name: as in BuiltinOperator. kind: prefix of its options table, if it has one."""
        quantised = self._tensors[output].type == self.schema.TensorType.INT8
        code = name, INT8_VERSIONS.get(name, 2) if quantised else 1
        if code not in self._codes:
            self._codes.append(code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._codes.index(code), list(inputs), [output]
        if kind:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, f"{kind}Options")
            operator.builtinOptions = getattr(self.schema, f"{kind}OptionsT")()
            for option, value in options.items():
                if option not in vars(operator.builtinOptions):
                    raise AttributeError(f"{kind}Options has no field {option}")
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
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _operator_code(self, name: str, version: int) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.version = getattr(self.schema.BuiltinOperator, name), version
        code.deprecatedBuiltinCode = min(code.builtinCode, LARGEST_OLD_CODE)
        return code


def _aligned_buffer(schema: Any, data: NDArray[np.uint8] | None) -> Any:
    """A buffer whose data start on a 16-byte boundary, which the generated packer does not give."""

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
