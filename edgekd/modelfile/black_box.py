"""Features of any network: a .tflite or .onnx file as a function from a waveform to a vector, read at an output or at
an inner tensor.

An inner tensor is made an output before an engine opens the file: in a .tflite by four bytes of the graph's list of
outputs, in an .onnx by one more name. So the engine and its delegates keep that tensor and no other. LiteRT's flag that
keeps all tensors is for debugging.
"""

import difflib
import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd import rounding
from edgekd.errors import InputError, MissingExtraError, nearest
from edgekd.frontend import log_mel
from edgekd.modelfile import container
from edgekd.modelfile.engine import FLOAT, litert_interpreter, onnx_session_opener, silent_stderr
from edgekd.modelfile.manifest import Manifest
from edgekd.modelfile.tflite_graph import refuse_malformed_graph, with_output

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None where the file leaves one open."""
PROBE_SAMPLES = 16_000
"""Samples of the silence that finds the width of the vectors, where the file takes any length."""
FUSED = ";"
"""Separates the names in the name of a tensor that TFLite's converter made of several."""
HINTS = 3
"""Names in a hint of an error."""


class _FeatureSession(Protocol):
    """A file in an engine. shape, dtype: of the input."""

    shape: Shape
    dtype: str

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """The chosen tensor for one input, float32."""
        ...


class BlackBox:
    """An opened file.

    Attributes:
        path: of the file. sha256: of its bytes, 64 hex digits.
        manifest: of a file that edgekd wrote, with the front end in it; None for any other file.
        samples: length of a waveform, None where the file takes any length.
        width: length of the vectors.
    """

    def __init__(self, path: Path, sha256: str, manifest: Manifest | None, session: _FeatureSession) -> None:
        self.path, self.sha256, self.manifest = path, sha256, manifest
        self._session = session
        if manifest is None:
            self.samples = _waveform_samples(path, session)
        else:
            self.samples = manifest.window
        silence = np.zeros(self.samples or PROBE_SAMPLES, np.float32)
        self.width = len(self.vector(silence))

    def vector(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of a waveform.

        Args:
            waveform: float32 (samples,) in [-1, 1].

        Returns:
            float32 (width,). Where the tensor has a vector per frame, their mean.

        Raises:
            InputError: a waveform of another length, a failure inside the engine, or a tensor with more dimensions than
                frames and width.
        """
        if self.samples not in (None, len(waveform)):
            raise InputError(f"{self.path}: reads {self.samples} samples at a time, got {len(waveform)}")
        tensor = self._session.run(self._input(waveform))
        kept = [size for size in tensor.shape if size != 1]
        if len(kept) > 2:
            raise InputError(
                f"{self.path}: the chosen output has the shape {tensor.shape}, which is neither one vector nor one per"
                " frame; choose another, for instance the one after the last pool"
            )
        vector: NDArray[np.float32] = tensor.reshape(kept or [1])
        if len(kept) == 2:
            vector = vector.mean(axis=0, dtype=np.float32)
        return vector

    def _input(self, waveform: NDArray[np.float32]) -> NDArray[Any]:
        if self.manifest is None:
            leading = [1] * (len(self._session.shape) - 1)
            return np.ascontiguousarray(waveform, np.float32).reshape(*leading, len(waveform))
        features = log_mel(self.manifest.frontend, waveform)  # (mel, frame)
        source = self.manifest.input
        if source.dtype != FLOAT:
            features = rounding.quantize(features, source.scale, source.zero_point, source.dtype)
        return features.reshape([size or 1 for size in self._session.shape])


def open_features(path: str | Path, output: str = "", threads: int = 1) -> BlackBox:
    """Open a network to compute features.

    Args:
        path: a .tflite or .onnx file, of edgekd or of any other tool. It has one input: a float32 waveform (time,),
            (1, time) or (1, 1, time).
        output: "" for the first output. Else the name of an output or of any tensor that an operator writes, in a
            .tflite also one of the names that the converter joined with ";". Or a number: of a tensor of a .tflite, of
            an output of an .onnx.
        threads: number of threads that the engine computes with.

    Raises:
        InputError: unreadable, another kind of file or input, an unknown output, or a network that the engine cannot
            run.
        MissingExtraError: the engine is not installed.
    """
    path = Path(path)
    raw = _bytes_of(path)
    file = container.split(path, raw)
    manifest, content = (None, raw) if file is None else (file.manifest, file.content)
    session: _FeatureSession = ENGINES[path.suffix](path, content, output, threads, manifest)
    return BlackBox(path, hashlib.sha256(raw).hexdigest(), manifest, session)


def labels_of(path: str | Path) -> tuple[str, ...] | None:
    """Labels of the logits of a file that edgekd wrote; None for any other file.

    Raises:
        InputError: unreadable or damaged.
    """
    path = Path(path)
    file = container.split(path, _bytes_of(path))
    return None if file is None else file.manifest.labels


def _bytes_of(path: Path) -> bytes:
    """All bytes of a file. Unlike `container.read_bytes` it takes files of any size."""
    if path.suffix not in ENGINES:
        raise InputError(f"{path}: unknown model format '{path.suffix}'{nearest(path.suffix, ENGINES)}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; give a .tflite or .onnx file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a .tflite or .onnx file") from None


class _LiteRTFeatures:
    """A .tflite file in LiteRT."""

    def __init__(self, path: Path, content: bytes, output: str, threads: int, _: Manifest | None) -> None:
        interpreter_type = litert_interpreter()
        self._path = path
        try:
            refuse_malformed_graph(content, optional_inputs=True)
            if output:
                with silent_stderr():  # LiteRT logs its delegate
                    names = {
                        int(each["index"]): str(each["name"])
                        for each in interpreter_type(model_content=content).get_tensor_details()
                    }
                content = with_output(
                    content, lambda written: _chosen(path, output, {index: names[index] for index in written})
                )
            with silent_stderr():
                self._interpreter = interpreter_type(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
            sources = self._interpreter.get_input_details()
            self._output = self._interpreter.get_output_details()[0]
        except (ValueError, RuntimeError, IndexError, KeyError, struct.error) as error:
            raise _cannot_run(path, "LiteRT", error) from None
        source = _single_input(path, sources)
        signature = source["shape_signature"] if len(source["shape_signature"]) else source["shape"]
        self.shape: Shape = tuple(int(size) if size >= 0 else None for size in signature)
        self.dtype = np.dtype(source["dtype"]).name
        self._source, self._input_shape = source["index"], tuple(int(size) for size in source["shape"])
        if np.issubdtype(self._output["dtype"], np.integer) and not self._output["quantization"][0]:
            raise InputError(
                f"{path}: the chosen output holds {np.dtype(self._output['dtype']).name} numbers; choose one of float32"
            )

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """The chosen tensor for one input, float32."""
        try:
            if x.shape != self._input_shape:
                with silent_stderr():
                    self._interpreter.resize_tensor_input(self._source, x.shape)
                    self._interpreter.allocate_tensors()
                self._input_shape = x.shape
            self._interpreter.set_tensor(self._source, x)
            self._interpreter.invoke()
            tensor: NDArray[Any] = self._interpreter.get_tensor(self._output["index"])
        except (ValueError, RuntimeError) as error:
            raise _cannot_run(self._path, "LiteRT", error) from None
        scale, zero_point = self._output["quantization"]
        return (
            rounding.dequantize(tensor, scale, zero_point)
            if np.issubdtype(tensor.dtype, np.integer)
            else tensor.astype(np.float32)
        )


class _OnnxRuntimeFeatures:
    """An .onnx file in ONNX Runtime."""

    def __init__(self, path: Path, content: bytes, output: str, threads: int, manifest: Manifest | None) -> None:
        open_session = onnx_session_opener()
        self._path = path
        try:
            self._session = open_session(content, threads)
            outputs = [each.name for each in self._session.get_outputs()]
            name = output or outputs[0]
        except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
            raise _cannot_run(path, "ONNX Runtime", error) from None
        if output.isdecimal() and output not in outputs:
            name = outputs[_numbered(path, int(output), range(len(outputs)))]
        elif name not in outputs:
            content = _with_named_output(path, content, name, outputs)
            try:
                self._session = open_session(content, threads)
            except Exception as error:  # as above
                raise _cannot_run(path, "ONNX Runtime", error) from None
        source = _single_input(path, self._session.get_inputs())
        self.shape: Shape = tuple(size if isinstance(size, int) else None for size in source.shape)
        self.dtype = source.type.removeprefix("tensor(").removesuffix(")").replace("float", FLOAT)
        self._source, self._output = source.name, name
        self._quant = (
            manifest.output if manifest is not None and name == outputs[0] and manifest.output.dtype != FLOAT else None
        )

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """The chosen tensor for one input, float32."""
        try:
            tensor: NDArray[Any] = np.asarray(self._session.run([self._output], {self._source: x})[0])
        except Exception as error:  # as above
            raise _cannot_run(self._path, "ONNX Runtime", error) from None
        if self._quant is not None:
            return rounding.dequantize(tensor, self._quant.scale, self._quant.zero_point)
        if not np.issubdtype(tensor.dtype, np.floating):
            raise InputError(
                f"{self._path}: tensor '{self._output}' holds {tensor.dtype.name} numbers; choose one of float32, "
                "for instance the output of a DequantizeLinear"
            )
        return tensor.astype(np.float32)


def _with_named_output(path: Path, content: bytes, name: str, outputs: Sequence[str]) -> bytes:
    """The bytes of an .onnx file with one more output."""
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "train") from None
    model = onnx.load_from_string(content)
    inner = [each for node in model.graph.node for each in node.output if each]
    if name not in inner:
        raise InputError(f"{path}: no tensor '{name}'{_near(name, [*inner, *outputs])}")
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    changed: bytes = model.SerializeToString()
    return changed


ENGINES: dict[str, Any] = {".tflite": _LiteRTFeatures, ".onnx": _OnnxRuntimeFeatures}
"""Suffix -> class that opens a file, called with (path, content, output, threads, manifest)."""


def _chosen(path: Path, output: str, names: Mapping[int, str]) -> int:
    """Number of the tensor of a .tflite file that `output` names: by its name, by one of the joined names or by number.

    Raises:
        InputError: no such tensor, or several.
    """
    parts = {index: name.split(FUSED) for index, name in names.items()}
    for found in (
        [index for index, name in names.items() if name == output],
        [index for index, each in parts.items() if output in each],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{path}: several tensors have the name '{output}': numbers {', '.join(map(str, found))}; give one of"
                " these"
            )
    if output.isdecimal():
        return _numbered(path, int(output), names)
    raise InputError(f"{path}: no tensor '{output}'{_near(output, [name for each in parts.values() for name in each])}")


def _numbered(path: Path, number: int, allowed: Iterable[int]) -> int:
    numbers = sorted(allowed)
    if number not in numbers:
        raise InputError(f"{path}: no output has the number {number}; there are {numbers[0]} to {numbers[-1]}")
    return number


def _near(name: str, names: Sequence[str]) -> str:
    """A hint: similar names, or the last ones, which are closest to the output."""
    near = difflib.get_close_matches(name, names, n=HINTS, cutoff=0.5)
    shown = ", ".join(f"'{each}'" for each in near or names[-HINTS:])
    return f"; did you mean {shown}?" if near else f"; the last ones are {shown}"


def _single_input(path: Path, inputs: Sequence[Any]) -> Any:
    if len(inputs) != 1:
        raise InputError(f"{path}: has {len(inputs)} inputs; give a file whose one input is a waveform")
    return inputs[0]


def _waveform_samples(path: Path, session: _FeatureSession) -> int | None:
    """Length of the waveform that a file reads, None for any length.

    Raises:
        InputError: the input is not a waveform.
    """
    shape = tuple("?" if size is None else size for size in session.shape)
    if not shape or any(size not in (1, "?") for size in shape[:-1]) or shape[-1] == 1:
        what = "anything" if not shape else f"({', '.join(map(str, shape))})"
        raise InputError(
            f"{path}: reads {what}, which is not a waveform (time,), (1, time) or (1, 1, time); a file that reads a "
            "spectrogram needs edgekd's manifest, which contains the front end"
        )
    if session.dtype != FLOAT:
        raise InputError(f"{path}: reads {session.dtype}; give a file that reads a float32 waveform")
    return session.shape[-1]


def _cannot_run(path: Path, engine: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(
        f"{path}: {engine} cannot run this model ({reason}); it is damaged, or the engine does not"
        " support its operators or sizes"
    )
