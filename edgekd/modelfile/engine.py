"""Opens a model file in an inference engine: one small interface for the runner, evaluation and checks.

LiteRT (`ai_edge_litert`, or `tflite_runtime` on old systems) runs .tflite files, ONNX Runtime .onnx files.
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
from edgekd.modelfile.guard_tflite import table, vector
from edgekd.modelfile.manifest import Manifest, TensorQuant

Engine = Literal["litert", "onnxruntime"]

FLOAT = "float32"
X64_PRECISION_KEY = "session.x64quantprecision"
"""Without it ONNX Runtime's int8 products saturate on x86 processors that have AVX2 but no VNNI: logits wrong by 20
steps. With it they are right everywhere, and where VNNI would be right too, twice as slow."""
CPU_INFO = Path("/proc/cpuinfo")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""Flags of x86 processors whose 8-bit products do not saturate."""
FATAL_ONLY = 4
"""ONNX Runtime's log severity: what fails is raised, and told once."""
STDERR = 2
MAX_ELEMENTS = 2**24
"""Of all tensors of a .tflite file together: more than ten times what the largest student has."""
MAX_ONNX_ELEMENTS = 2**25
"""As above: an .onnx file spells most tensors of an int8 model two or three times, and the largest student has a tenth
of it."""
MAX_READ = 2**24
"""By the windows of one operator, a convolution or a pool, for one output channel: 25 times what the largest student
has."""
TFLITE_VECTORS = {"operator codes": 1, "graph": 2, "buffers": 4}
"""Vectors of the model table, and their field numbers."""
GRAPH_TENSORS, GRAPH_OUTPUTS, GRAPH_OPERATORS, OPERATOR_TENSORS = 0, 2, 3, (1, 2)
"""Field numbers in the graph's table, and in an operator's: what it reads and writes."""
MAX_THREADS = 256
"""An engine asked for many thousands starts them all and never comes back."""


def cpu_flags() -> frozenset[str]:
    """Extensions of an x86 processor's instruction set as Linux names them; none where the system does not tell, and on
    Arm."""
    try:
        flags = next(
            (line for line in CPU_INFO.read_text(errors="replace").splitlines() if line.startswith("flags")), ""
        )
    except OSError:
        return frozenset()
    return frozenset(flags.split())


def has_vnni() -> bool:
    """Whether the processor is known to multiply 8-bit integers exactly; False on Arm, where nothing depends on it."""
    return not VNNI.isdisjoint(cpu_flags())


class Session(Protocol):
    """What an engine gives: tensors as the file has them. input_shape: (mel, frame); input_dtype: numpy's name."""

    input_shape: tuple[int, ...]
    input_dtype: str
    labels: int

    def run(self, q: NDArray[Any]) -> NDArray[Any]:
        """(batch, mel, frame) -> (batch, labels), both in the file's types."""
        ...


class Model:
    """An opened model file. engine: "litert" or "onnxruntime". manifest: what the file says about itself."""

    def __init__(
        self, manifest: Manifest, engine: Engine, session: Session, colour: NDArray[np.float32] | None = None
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self._session, self._colour = session, colour

    @property
    def input_quant(self) -> TensorQuant:
        """Quantisation of the input."""
        return self.manifest.input

    def behind(self, colour: NDArray[np.float32]) -> "Model":
        """This model, which takes `colour`, float32 (mel, 1), off the features that `logits` is given."""
        return Model(self.manifest, self.engine, self._session, colour)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Classify windows.

        Args:
            features: normalised log-mel of the manifest's front end, float32 (batch, mel, frame).

        Returns:
            Logits before softmax, float32 (batch, labels).

        Raises:
            InputError: the wrong shape, NaN, or a failure inside the engine.
        """
        source, output = self.manifest.input, self.manifest.output
        if self._colour is not None:
            features = features - self._colour
        if source.dtype == FLOAT:
            q: NDArray[Any] = np.asarray(features, np.float32)
        else:
            q = rounding.quantize(features, source.scale, source.zero_point, source.dtype)
        answer = self.run_quantized(q)
        return answer if output.dtype == FLOAT else rounding.dequantize(answer, output.scale, output.zero_point)

    def run_quantized(self, q: NDArray[Any]) -> NDArray[Any]:
        """As `logits`, on what the file itself reads and writes: (batch, mel, frame) and (batch, labels) of the
        manifest's types."""
        if q.ndim != 3 or q.shape[1:] != self._session.input_shape or q.dtype != self._session.input_dtype:
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
        threads: that the engine computes with.

    Raises:
        InputError: a file without a manifest, damaged, at odds with its manifest, or one that would take very much
            memory; an unknown engine or one for another format.
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
    _check(path, file.manifest, session)
    return Model(file.manifest, name, session)


def _check(path: Path, manifest: Manifest, session: Session) -> None:
    """Whether the file's tensors are what its manifest promises."""
    shape = manifest.frontend.n_mels, manifest.frontend.frames(manifest.window)
    pairs = {
        "input (mel, frame)": (session.input_shape, shape),
        "input type": (session.input_dtype, manifest.input.dtype),
        "number of labels": (session.labels, len(manifest.labels)),
    }
    for what, (found, promised) in pairs.items():
        if found != promised:
            raise InputError(f"{path}: the {what} is {found}, but the manifest says {promised}; export the model again")


def refuse_odd_graph(content: bytes, optional_inputs: bool = False) -> None:
    """LiteRT reads a flatbuffer unverified, and ends the process where there are no operator codes, graph or buffers,
    or where an operator lacks a tensor. optional_inputs: an operator may say with -1 that it has no bias or state, as
    no emitter of edgekd does."""
    (model,) = struct.unpack_from("<I", content)
    for name, number in TFLITE_VECTORS.items():
        if vector(content, model, number)[1] == 0:
            raise ValueError(f"it has no {name}")
    graph = table(content, vector(content, model, TFLITE_VECTORS["graph"])[0])
    tensors = vector(content, graph, GRAPH_TENSORS)[1]
    first, operators = vector(content, graph, GRAPH_OPERATORS)
    left = len(content)  # an honest file has no more references than bytes
    for index in range(operators):
        operator = table(content, first + 4 * index)
        for number in OPERATOR_TENSORS:
            at, count = vector(content, operator, number)
            left -= count
            least = -1 if optional_inputs and number == OPERATOR_TENSORS[0] else 0
            if left < 0 or any(
                not least <= tensor < tensors for tensor in struct.unpack_from(f"<{count}i", content, at)
            ):
                raise ValueError(f"operator {index} lacks a tensor")


def with_output(content: bytes, choose: Callable[[list[int]], int]) -> bytes:
    """A .tflite file whose first output is another tensor, which engines and delegates then keep.

    Args:
        content: that `refuse_odd_graph` let pass.
        choose: numbers of the tensors that operators write -> one of them.
    """
    (model,) = struct.unpack_from("<I", content)
    graph = table(content, vector(content, model, TFLITE_VECTORS["graph"])[0])
    first, operators = vector(content, graph, GRAPH_OPERATORS)
    written: list[int] = []
    for index in range(operators):
        at, count = vector(content, table(content, first + 4 * index), OPERATOR_TENSORS[1])
        written += struct.unpack_from(f"<{count}i", content, at)
    at, count = vector(content, graph, GRAPH_OUTPUTS)
    if not count:
        raise ValueError("it has no output")
    changed = bytearray(content)
    struct.pack_into("<i", changed, at, choose(written))
    return bytes(changed)


class _LiteRT:
    """A .tflite file in LiteRT: one window at a time, as on the device."""

    def __init__(self, path: Path, content: bytes, threads: int) -> None:
        interpreter_type = litert_interpreter()
        try:
            guard_tflite.refuse_overlapping_tables(content)
            refuse_odd_graph(content)
            with silent_stderr():  # it announces its delegate there
                self._interpreter = interpreter_type(model_content=content, num_threads=threads)
                self._refuse_odd_tensors()
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

    def _refuse_odd_tensors(self) -> None:
        """Before they are allocated: absurd shapes, and types that edgekd does not write together, which make XNNPACK
        abort the process."""
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
        """One inference per window."""
        try:
            logits = np.empty((len(q), self.labels), self._output_dtype)
            for window, answer in zip(q, logits, strict=True):
                # views live only as long as the statement: invoke refuses others
                self._source()[:] = window.reshape(self._window_shape)
                self._interpreter.invoke()
                answer[:] = self._output()
        except (ValueError, RuntimeError) as error:
            raise InputError(_cannot_open(self._path, "LiteRT", error)) from None
        return logits


class _OnnxRuntime:
    """An .onnx file in ONNX Runtime: whole batches."""

    def __init__(self, path: Path, content: bytes, threads: int) -> None:
        open_session = onnx_opener()
        try:
            guard_onnx.refuse_costly_graph(content, MAX_ONNX_ELEMENTS, MAX_READ)
            self._session = open_session(content, threads)
            (source,), (output,) = self._session.get_inputs(), self._session.get_outputs()
            self.input_shape = tuple(source.shape[2:])
            self.input_dtype = np.dtype(
                source.type.removeprefix("tensor(").removesuffix(")").replace("float", FLOAT)
            ).name
            self.labels = output.shape[-1]
        except Exception as error:  # its exceptions have no common base of their own
            raise InputError(_cannot_open(path, "ONNX Runtime", error)) from None
        self._source = source.name
        self._path = path

    def run(self, q: NDArray[Any]) -> NDArray[Any]:
        """One inference for the batch."""
        try:
            logits: NDArray[Any] = self._session.run(None, {self._source: q[:, None]})[0]
        except Exception as error:  # as above
            raise InputError(_cannot_open(self._path, "ONNX Runtime", error)) from None
        return logits


ENGINES: dict[Engine, tuple[str, type[_LiteRT] | type[_OnnxRuntime]]] = {
    "litert": (".tflite", _LiteRT),
    "onnxruntime": (".onnx", _OnnxRuntime),
}
"""Name -> what it opens and how."""


def onnx_opener() -> Callable[[bytes, int], Any]:
    """What makes a session of ONNX Runtime from an .onnx file's bytes and a number of threads.

    Raises:
        MissingExtraError: it is not installed.
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
        with contextlib.redirect_stdout(io.StringIO()):  # it prints some failures there before it raises them
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    return open_session


def litert_interpreter() -> Any:
    """LiteRT's interpreter class, from whichever package is installed."""
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
    """Send what native code writes to standard error to nowhere for a moment; a failure still raises."""
    try:
        kept = os.dup(STDERR)
    except OSError:  # a service without standard error
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
