"""Opens a model file in an inference engine. The runtime, the evaluation and the checks all use its `Model`.

LiteRT (`ai_edge_litert`, or `tflite_runtime` on old systems) runs .tflite files, ONNX Runtime runs .onnx files.
"""

import contextlib
import io
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd import rounding
from edgekd.errors import InputError, MissingExtraError, nearest
from edgekd.modelfile import container, guard_onnx, guard_tflite
from edgekd.modelfile.manifest import Manifest, TensorQuant
from edgekd.modelfile.tflite_graph import refuse_malformed_graph

EngineName = Literal["litert", "onnxruntime"]

FLOAT = "float32"
X64_PRECISION_KEY = "session.x64quantprecision"
"""Option of ONNX Runtime. Without it the int8 products saturate on x86 processors that have AVX2 but no VNNI, and
logits are wrong by 20 steps. With it they are right everywhere. A processor with VNNI does not need it and takes twice
as long with it."""
CPU_INFO = Path("/proc/cpuinfo")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""Flags of x86 processors whose int8 products do not saturate."""
FATAL_ONLY = 4
"""Log severity of ONNX Runtime. Errors are raised as exceptions, so they are not logged as well."""
STDERR = 2
"""File descriptor of standard error."""
MAX_ELEMENTS = 2**24
"""Most elements of all tensors of a .tflite file together: more than ten times what the largest student has."""
MAX_ONNX_ELEMENTS = 2**25
"""The same for an .onnx file, which holds most tensors of an int8 model two or three times. The largest student has a
tenth of this."""
MAX_READ = 2**24
"""Most elements that the kernel windows of one convolution or pool read for one output channel: 25 times what the
largest student has."""
MAX_THREADS = 256
"""An engine that is asked for many thousands of threads starts them all and never returns."""


def cpu_flags() -> frozenset[str]:
    """Instruction set extensions of an x86 processor as Linux names them; empty on Arm and on other systems."""
    try:
        flags = next(
            (line for line in CPU_INFO.read_text(errors="replace").splitlines() if line.startswith("flags")), ""
        )
    except OSError:
        return frozenset()
    return frozenset(flags.split())


def has_vnni() -> bool:
    """Whether the processor is known to multiply int8 exactly; False on Arm, where nothing depends on it."""
    return not VNNI.isdisjoint(cpu_flags())


class Session(Protocol):
    """A model in an engine, with tensors of the file's own types.

    input_shape: (mel, frame). input_dtype: numpy's name of the input's type. labels: how many logits a window has.
    """

    input_shape: tuple[int, ...]
    input_dtype: str
    labels: int

    def run(self, q: NDArray[Any]) -> NDArray[Any]:
        """Logits (batch, labels) of the input (batch, mel, frame), both in the file's types."""
        ...


class Model:
    """An opened model file.

    engine: "litert" or "onnxruntime". manifest: of the file. gains: what a microphone adds to each mel band, float32
    (mel, 1) in units of the normalised log-mel; `logits` subtracts it from its input. None for no equaliser.
    """

    def __init__(
        self, manifest: Manifest, engine: EngineName, session: Session, gains: NDArray[np.float32] | None = None
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self._session, self._gains = session, gains
        self._input_dtype = np.dtype(session.input_dtype)

    @property
    def input_quant(self) -> TensorQuant:
        """Quantisation of the input."""
        return self.manifest.input

    def with_gains(self, gains: NDArray[np.float32]) -> "Model":
        """This model with an equaliser; `gains` as in the class."""
        return Model(self.manifest, self.engine, self._session, gains)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of windows.

        Args:
            features: normalised log-mel of the manifest's front end, float32 (batch, mel, frame).

        Returns:
            Logits before softmax, float32 (batch, labels).

        Raises:
            InputError: the wrong shape, NaN, or a failure inside the engine.
        """
        source, output = self.manifest.input, self.manifest.output
        if self._gains is not None:
            features = features - self._gains
        if source.dtype == FLOAT:
            q: NDArray[Any] = np.asarray(features, np.float32)
        else:
            q = rounding.quantize(features, source.scale, source.zero_point, source.dtype)
        logits = self.run_quantized(q)
        return logits if output.dtype == FLOAT else rounding.dequantize(logits, output.scale, output.zero_point)

    def run_quantized(self, q: NDArray[Any]) -> NDArray[Any]:
        """Logits (batch, labels) of an input (batch, mel, frame), both quantised: of the manifest's types.

        Raises:
            InputError: the wrong shape or type, or a failure inside the engine.
        """
        if q.ndim != 3 or q.shape[1:] != self._session.input_shape or q.dtype != self._input_dtype:
            raise InputError(
                f"{self.manifest.name}: the model reads {self._session.input_dtype} (batch, mel, frame) of "
                f"{self._session.input_shape}, got {q.dtype} {q.shape}; use the manifest's front end and window"
            )
        return self._session.run(q)


def open_model(path: str | Path, engine: str | None = None, threads: int = 1) -> Model:
    """Open a model file for inference.

    Args:
        path: a .tflite or .onnx file that edgekd wrote.
        engine: a key of `ENGINES`; None takes the one that opens this kind of file.
        threads: number of threads that the engine computes with.

    Raises:
        InputError: a file that is damaged, has no manifest, does not match its manifest or would take too much memory;
            an unknown engine, or one that does not open this format.
        MissingExtraError: the engine is not installed.
    """
    path = Path(path)
    if engine is not None and engine not in ENGINES:
        raise InputError(f"unknown engine '{engine}'{nearest(engine, ENGINES)}")
    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"{threads} threads; give 1 to {MAX_THREADS}")
    file = container.read(path)
    name, session_type = next((name, opener) for name, (suffix, opener) in ENGINES.items() if suffix == path.suffix)
    if engine not in (None, name):
        raise InputError(
            f"{path}: engine '{engine}' does not open {path.suffix} files; use engine '{name}' or another file"
        )
    session = session_type(path, file.content, threads)
    _check_manifest(path, file.manifest, session)
    return Model(file.manifest, name, session)


def _check_manifest(path: Path, manifest: Manifest, session: Session) -> None:
    """Raise where the tensors of the file are not those that its manifest describes."""
    shape = manifest.frontend.n_mels, manifest.frontend.frames(manifest.window)
    pairs = {
        "input (mel, frame)": (session.input_shape, shape),
        "input type": (session.input_dtype, manifest.input.dtype),
        "number of labels": (session.labels, len(manifest.labels)),
    }
    for what, (found, described) in pairs.items():
        if found != described:
            raise InputError(
                f"{path}: the {what} is {found}, but the manifest says {described}; export the model again"
            )


class _LiteRTSession:
    """A .tflite file in LiteRT. It runs one window at a time, as on a device."""

    def __init__(self, path: Path, content: bytes, threads: int) -> None:
        interpreter_type = litert_interpreter()
        try:
            guard_tflite.refuse_overlapping_tables(content)
            refuse_malformed_graph(content)
            with silent_stderr():  # LiteRT logs its delegate
                self._interpreter = interpreter_type(model_content=content, num_threads=threads)
                self._refuse_unsafe_tensors()
                guard_tflite.refuse_wrong_shapes(content, MAX_READ)
                self._interpreter.allocate_tensors()
            (source,), (output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            self._window_shape = tuple(int(size) for size in source["shape"])  # (1, mel, frame, 1)
            self.input_shape = self._window_shape[1:3]
            self.input_dtype = np.dtype(source["dtype"]).name
            self.labels = int(output["shape"][-1])
        # IndexError: an output without dimensions
        except (ValueError, RuntimeError, IndexError, struct.error) as error:
            raise InputError(_cannot_open(path, "LiteRT", error)) from None
        self._source, self._output = (
            self._interpreter.tensor(source["index"]),
            self._interpreter.tensor(output["index"]),
        )
        self._output_dtype = output["dtype"]
        self._path = path

    def _refuse_unsafe_tensors(self) -> None:
        """Raise for tensors that must not be allocated: too many elements, or a mixture of types that edgekd never
        writes, at which XNNPACK aborts the process."""
        (source,) = self._interpreter.get_input_details()
        types, left = {np.dtype(source["dtype"]).name, "int32"}, MAX_ELEMENTS
        for tensor in self._interpreter.get_tensor_details():
            size = math.prod(int(length) for length in tensor["shape"])
            left -= size
            if size < 0 or left < 0:
                raise ValueError(f"tensor '{tensor['name']}' has the shape {tuple(tensor['shape'])}")
            if np.dtype(tensor["dtype"]).name not in types:
                raise ValueError(
                    f"tensor '{tensor['name']}' is {np.dtype(tensor['dtype']).name} in a model of"
                    f" {source['dtype'].__name__}"
                )

    def run(self, q: NDArray[Any]) -> NDArray[Any]:
        """Logits, by one inference per window."""
        try:
            logits = np.empty((len(q), self.labels), self._output_dtype)
            for window, row in zip(q, logits, strict=True):
                # no view is kept: `invoke` refuses to run while one exists
                self._source()[:] = window.reshape(self._window_shape)
                self._interpreter.invoke()
                row[:] = self._output()
        except (ValueError, RuntimeError) as error:
            raise InputError(_cannot_open(self._path, "LiteRT", error)) from None
        return logits


class _OnnxRuntimeSession:
    """An .onnx file in ONNX Runtime. It runs a whole batch at once."""

    def __init__(self, path: Path, content: bytes, threads: int) -> None:
        open_session = onnx_session_opener()
        try:
            guard_onnx.refuse_costly_graph(content, MAX_ONNX_ELEMENTS, MAX_READ)
            self._session = open_session(content, threads)
            (source,), (output,) = self._session.get_inputs(), self._session.get_outputs()
            self.input_shape = tuple(source.shape[2:])
            self.input_dtype = np.dtype(
                source.type.removeprefix("tensor(").removesuffix(")").replace("float", FLOAT)
            ).name
            self.labels = output.shape[-1]
        except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
            raise InputError(_cannot_open(path, "ONNX Runtime", error)) from None
        self._source = source.name
        self._path = path

    def run(self, q: NDArray[Any]) -> NDArray[Any]:
        """Logits, by one inference for the batch."""
        try:
            logits: NDArray[Any] = self._session.run(None, {self._source: q[:, None]})[0]
        except Exception as error:  # as above
            raise InputError(_cannot_open(self._path, "ONNX Runtime", error)) from None
        return logits


ENGINES: dict[EngineName, tuple[str, type[_LiteRTSession] | type[_OnnxRuntimeSession]]] = {
    "litert": (".tflite", _LiteRTSession),
    "onnxruntime": (".onnx", _OnnxRuntimeSession),
}
"""Name of an engine -> suffix of the files that it opens, and the class that opens them."""


def onnx_session_opener() -> Callable[[bytes, int], Any]:
    """A function that makes an ONNX Runtime session from the bytes of an .onnx file and a number of threads.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx-runtime") from None

    def open_session(content: bytes, threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = FATAL_ONLY
        if not has_vnni():
            options.add_session_config_entry(X64_PRECISION_KEY, "1")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints some errors before it raises them
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    return open_session


def litert_interpreter() -> Any:
    """LiteRT's interpreter class, from `ai_edge_litert` or `tflite_runtime`, whichever is installed.

    Raises:
        MissingExtraError: neither is.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        if int(np.__version__.split(".", maxsplit=1)[0]) > 1:  # tflite_runtime crashes on numpy 2
            raise MissingExtraError("ai_edge_litert", "litert") from None
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise MissingExtraError("ai_edge_litert", "litert") from None
    return Interpreter


def _cannot_open(path: Path, engine: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{path}: {engine} cannot run this model ({reason}); it is damaged or needs another version, export it again"


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what native code writes to standard error inside the block. Exceptions pass as usual."""
    try:
        saved = os.dup(STDERR)
    except OSError:  # a service without standard error
        yield
        return
    try:
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), STDERR)
        yield
    finally:
        os.dup2(saved, STDERR)
        os.close(saved)
