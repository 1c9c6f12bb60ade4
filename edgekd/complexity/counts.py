"""Counts what a model file costs, by each convention in use, from the file alone.

The conventions disagree. So `ModelCounts` has the totals of each, and `differences` explains op by op why they differ:

- `exact`: multiply-accumulates of convolutions (also depthwise, grouped, dilated, transposed), dense layers, matrix
  products and recurrent cells. It counts what an op computes, not how the file expresses it. A convolution without a
  bias is an average pool if its kernel is 1 / k everywhere, and a copy if each output has a single weight of 1. The
  emitters write such convolutions for speed. They are recognised by their values alone, in the file of any tool. Like
  any pool or copy they cost nothing here; `emulated` has their totals. So the files of one student cost the same in
  every format, int8 or float, and as much as its integer graph. Attention costs its two matrix products. A Fourier
  transform costs the estimate of `fourier`, as in the front end. Biases, norms, activations, pools and means cost none.
  What runs once, before the first inference, costs none.
  Parameters are all constants that ops read (also axes, pads, shapes and kernels of emulated ops), each storage once,
  zeros too: int8 1 byte, int32 4, float32 4. No convention counts quantisation scales.
- `nessi_tflite`: the rules of NeSsi, the counter of the DCASE challenge, on .tflite files. It adds pools (output
  elements * kernel), MEAN (input elements) and ADD (output elements), takes the last input dimension as the width of a
  dense layer, counts emulated ops as convolutions, and counts shared constants once per op. On the official 2022
  baseline (46,512 bytes) it gives 29,234,920 where `exact` gives 29,203,560: +34,560 for the two max pools, and -3,200
  because the first dense layer reads a (1, 2, 1, 32) map and is counted 32 wide instead of 64.
- `torchinfo` (which NeSsi calls for torch modules) and `ptflops` (its `aten` backend) count the float network before it
  was folded and quantised. `export` stores their counts in the manifest; they are null for files without a manifest.
  Both add a bias at each output, torchinfo also one multiply-accumulate for each parameter of a batch norm. Their bytes
  are those of float32 parameters, not of the file.

An op without a counting rule is in `unknown`. Its constants count as parameters, but no convention counts its
multiply-accumulates.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Literal

import msgspec

from edgekd.complexity.differences import (
    NESSI,
    Difference,
    OpRow,
    assign,
    elements,
    of_float_network,
    of_nessi,
    rows,
    stored_bytes,
)
from edgekd.complexity.fourier import real_fft_macs
from edgekd.complexity.readers import onnx, tflite
from edgekd.complexity.readers.network import Network
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, filterbank
from edgekd.modelfile import container

READERS = {".tflite": tflite.read, ".onnx": onnx.read}
FLOAT_CONVENTIONS: tuple[Literal["torchinfo", "ptflops"], ...] = ("torchinfo", "ptflops")
"""Conventions that count the float network, not the file."""
NO_SHAPES: Mapping[str, Sequence[int]] = MappingProxyType({})
MAX_COUNT = 2**53
"""Largest count: every JSON reader keeps integers up to it exactly."""


class Totals(msgspec.Struct, frozen=True):
    """Totals by one convention. macs: multiply-accumulates of one inference."""

    macs: int
    params: int
    param_bytes: int


class Layer(msgspec.Struct, frozen=True):
    """One op of the file. input, output, weight: shapes in the file of the first activation read, the first one written
    and the kernel; null where there is none, and where an unknown op leaves it open.

    dtype: of the kernel, or of the output if there is no kernel. macs_by: convention -> macs of this op. emulates:
    "average pool" or "copy" for a convolution that computes one. counted: False where no rule counts its macs; they
    are 0 here.
    """

    name: str
    op: str
    input: tuple[int, ...] | None
    output: tuple[int, ...] | None
    weight: tuple[int, ...] | None
    macs: int
    params: int
    param_bytes: int
    nonzero_params: int = 0
    dtype: str = ""
    macs_by: dict[str, int] = {}
    emulates: str = ""
    counted: bool = True


class ExternalFile(msgspec.Struct, frozen=True):
    """Constants that an .onnx file has in another file. file: its name, relative to the model. bytes: of the constants,
    by their shapes. missing: whether no such file is in the folder of the model."""

    file: str
    bytes: int
    missing: bool


class UnknownOp(msgspec.Struct, frozen=True):
    """Ops of one kind without a counting rule. params, param_bytes: of their constants, which are counted. note: what
    was counted and what was not."""

    op: str
    count: int
    params: int
    param_bytes: int
    note: str


class ModelCounts(msgspec.Struct, frozen=True):
    """All counts of one file. frontend_macs: of one window, null without a manifest.

    nonzero_params: of the parameters of `exact`. bytes_by_dtype: their bytes by storage type. operators: op -> how many
    the file has, also those that an engine folds into others (but not ONNX's Constant). unknown: ops that the counts
    leave out. differences: between each convention and `exact`; they add up. emulated: convolutions that compute pools
    or copies; `exact` contains their params and bytes, but not their macs. file_bytes: with those of `external`, the
    files that hold constants besides the model file. unsized: ops that write tensors of unknown size.
    """

    model: str
    conventions: dict[str, Totals | None]
    frontend_macs: int | None
    peak_activation_bytes: int
    file_bytes: int
    layers: tuple[Layer, ...]
    nonzero_params: int = 0
    bytes_by_dtype: dict[str, int] = {}
    operators: dict[str, int] = {}
    unknown: tuple[UnknownOp, ...] = ()
    differences: tuple[Difference, ...] = ()
    engine_format: Literal["tflite", "onnx"] = "tflite"
    emulated: Totals = Totals(0, 0, 0)
    external: tuple[ExternalFile, ...] = ()
    unsized: tuple[str, ...] = ()

    def by_convention(self, quantity: str) -> dict[str, int]:
        """Counts of "macs", "params" or "param_bytes" by each convention that can be held against a budget. For bytes
        these are not the conventions of the float network, whose bytes are not those of the file."""
        return {
            name: getattr(count, quantity)
            for name, count in self.conventions.items()
            if count is not None and (quantity != "param_bytes" or name not in FLOAT_CONVENTIONS)
        }


def count_model(path: str | Path, shapes: Mapping[str, Sequence[int]] = NO_SHAPES) -> ModelCounts:
    """Counts of a .tflite or .onnx file, with or without an edgekd manifest.

    Args:
        path: of the file.
        shapes: name of an input -> its shape, for free dimensions of an .onnx file.

    Raises:
        InputError: unreadable, another format, damaged, several networks in one file, or shapes that are not fixed, too
            large or not those of the inputs.
        MissingExtraError: the package that reads the format is not installed.
    """
    path = Path(path)
    raw = container.read_bytes(path)
    file = container.split(path, raw)
    network = READERS[path.suffix](path, raw, shapes)
    op_rows = rows(network)
    float_counts = {} if file is None else file.manifest.float_counts
    conventions: dict[str, Totals | None] = {
        "exact": _exact(op_rows),
        NESSI: _nessi(op_rows) if path.suffix == ".tflite" else None,
    }
    for name in FLOAT_CONVENTIONS:
        counted = float_counts.get(name)
        conventions[name] = None if counted is None else Totals(counted.macs, counted.params, counted.param_bytes)
    peak, emulated, external = network.peak_activation_bytes(), _emulated(op_rows), _external(path, network)
    largest = max(
        peak,
        *(figure for each in (*conventions.values(), emulated) if each for figure in msgspec.structs.astuple(each)),
    )
    if largest > MAX_COUNT:
        raise InputError(
            f"{path}: its shapes give a count of {largest.bit_length():,} bits, more than {MAX_COUNT.bit_length() - 1};"
            " the file is damaged or not a model for a small device"
        )
    differences = of_nessi(op_rows) if path.suffix == ".tflite" else []
    for name, counted in float_counts.items():
        differences += of_float_network(name, op_rows, assign(op_rows, name, counted))
    layers = tuple(
        _layer(network, row, [name for name, total in conventions.items() if total is not None]) for row in op_rows
    )
    bytes_by_dtype: Counter[str] = Counter()
    for row in op_rows:
        for tensor in row.charged:
            bytes_by_dtype[tensor.dtype] += tensor.bytes
    return ModelCounts(
        model=str(path),
        conventions=conventions,
        frontend_macs=None if file is None else frontend_macs(file.manifest.frontend, file.manifest.window),
        peak_activation_bytes=peak,
        file_bytes=len(raw) + sum(each.bytes for each in external),
        layers=layers,
        nonzero_params=sum(layer.nonzero_params for layer in layers),
        bytes_by_dtype=dict(sorted(bytes_by_dtype.items())),
        operators=dict(sorted(network.operators.items())),
        unknown=_unknown(op_rows),
        differences=tuple(differences),
        engine_format="tflite" if path.suffix == ".tflite" else "onnx",
        emulated=emulated,
        external=external,
        unsized=tuple(
            sorted({node.op for node in network.nodes if any(name not in network.tensors for name in node.outputs)})
        ),
    )


def frontend_macs(fe: FrontEnd, samples: int) -> int:
    """Estimate of the multiply-accumulates that the log-mel features of one window cost.

    Per frame: window product (win_length) + real FFT + power (2 per bin) + sparse mel product (nonzero filter weights)
    + normalisation (n_mels); per sample: pre-emphasis. `fourier` explains the real FFT. Logarithms are not counted.

    Args:
        fe: the front end.
        samples: length of the window at `fe.sample_rate`.
    """
    mel = int((filterbank(fe) != 0).sum())
    per_frame = fe.win_length + real_fft_macs(fe.n_fft) + 2 * (fe.n_fft // 2 + 1) + mel + fe.n_mels
    return fe.frames(samples) * per_frame + (samples if fe.pre_emphasis else 0)


def _exact(op_rows: Sequence[OpRow]) -> Totals:
    return Totals(
        sum(row.node.macs for row in op_rows),
        sum(row.params for row in op_rows),
        sum(row.param_bytes for row in op_rows),
    )


def _nessi(op_rows: Sequence[OpRow]) -> Totals:
    return Totals(
        sum(row.node.nessi_macs for row in op_rows),
        sum(elements(row.nessi_constants) for row in op_rows),
        sum(stored_bytes(row.nessi_constants) for row in op_rows),
    )


def _emulated(op_rows: Sequence[OpRow]) -> Totals:
    found = [row for row in op_rows if row.node.emulates]
    return Totals(
        sum(row.node.emulated_macs for row in found),
        sum(row.params for row in found),
        sum(row.param_bytes for row in found),
    )


def _unknown(op_rows: Sequence[OpRow]) -> tuple[UnknownOp, ...]:
    """Unknown ops, grouped by name and note."""
    groups: dict[tuple[str, str], list[OpRow]] = {}
    for row in op_rows:
        if row.node.unknown:
            groups.setdefault((row.node.op, row.node.unknown), []).append(row)
    return tuple(
        UnknownOp(op, len(found), sum(row.params for row in found), sum(row.param_bytes for row in found), note)
        for (op, note), found in groups.items()
    )


def _layer(network: Network, row: OpRow, conventions: Sequence[str]) -> Layer:
    """The counts of one op. A constant shared by several ops counts at the first, so that the layers add up to
    `exact`."""
    node, tensors = row.node, network.tensors
    shapes = [tensors[name].shape if name in tensors else None for name in (*node.inputs[:1], *node.outputs[:1])]
    counted = {"exact": node.macs, NESSI: node.nessi_macs}
    counted |= {name: sum(module.macs for module in row.modules.get(name, ())) for name in FLOAT_CONVENTIONS}
    dtype_source = node.kernel or next(iter(node.outputs), "")
    return Layer(
        name=node.name,
        op=node.op,
        input=shapes[0] if node.inputs else None,
        output=shapes[-1] if node.outputs else None,
        weight=node.weight,
        macs=node.macs,
        params=row.params,
        param_bytes=row.param_bytes,
        nonzero_params=sum(tensor.elements if tensor.nonzero is None else tensor.nonzero for tensor in row.charged),
        dtype=tensors[dtype_source].dtype if dtype_source in tensors else "",
        macs_by={name: counted[name] for name in conventions},
        emulates=node.emulates,
        counted=not node.unknown,
    )


def _external(path: Path, network: Network) -> tuple[ExternalFile, ...]:
    """Files beside the model that hold constants. Only their existence is looked up, and only below its folder."""
    found = []
    for name, constants in network.external.items():
        place = PurePath(name)
        inside = bool(name) and not place.is_absolute() and ".." not in place.parts
        try:
            exists = inside and (path.parent / place).is_file()
        except (OSError, ValueError):  # a name that no file can have
            exists = False
        found.append(ExternalFile(name, stored_bytes(network.tensors[each] for each in constants), not exists))
    return tuple(found)
