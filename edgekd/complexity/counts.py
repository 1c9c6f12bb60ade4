"""Counts what an exported model file costs, by each convention in use, from the file alone.

The conventions disagree, so a ledger carries each, and says op by op why (`differences`):

- `exact`: multiply-accumulates of convolutions (also depthwise, grouped, dilated, transposed), dense layers, matrix
  products and recurrent cells, by what an op computes and not by how the file spells it: a convolution whose kernel is
  1 / k everywhere is an average pool, one whose outputs have a single weight of 1 is a copy, both without a bias. The
  emitters write such ones for speed. They are told by their values alone, in anybody's file, cost nothing here like any
  pool or copy, and are summed up in `emulated`. So the files of one student cost the same in every format, int8 or
  float, and as much as its integer graph. Biases, norms, activations, pools, means and transforms like an FFT cost
  none. Parameters are all constants that ops read (also axes, pads, shapes and kernels of emulated ops), each storage
  once, zeros too: int8 1 byte, int32 4, float32 4. Quantisation scales are not counted, by anybody.
- `nessi_tflite`: the rules of NeSsi, the counter of the DCASE challenge, on .tflite files. It adds pools (output
  elements * kernel), MEAN (input elements) and ADD (output elements), takes the last input dimension as the width of a
  dense layer, counts emulated ops as the convolutions they look like, and the constants of each op again where several
  ops share them. On the official 2022 baseline (46,512 bytes) it gives 29,234,920 where `exact` gives 29,203,560:
  +34,560 for the two max pools, and -3,200 because the first dense layer reads a (1, 2, 1, 32) map and is counted 32
  wide instead of 64.
- `torchinfo` (which NeSsi calls for torch modules) and `ptflops` (its `aten` backend) count the float network before it
  was folded and quantised; `export` keeps what they say in the manifest, and they are null for files without. Both add
  a bias at each output, torchinfo also one multiply-accumulate for each parameter of a batch norm. Their bytes are
  those of float32 parameters, not of the file.

An op that no rule covers is in `unknown`: its constants count as parameters, its multiply-accumulates are missing from
every convention.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edgekd.complexity.differences import (
    NESSI,
    Difference,
    Row,
    assign,
    elements,
    of_float_network,
    of_nessi,
    rows,
    stored_bytes,
)
from edgekd.complexity.readers import onnx, tflite
from edgekd.complexity.readers.network import Network
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, filterbank
from edgekd.modelfile import container

READERS = {".tflite": tflite.read, ".onnx": onnx.read}
FLOAT_CONVENTIONS: tuple[Literal["torchinfo", "ptflops"], ...] = ("torchinfo", "ptflops")
"""Conventions that count the float network and not the file."""


LARGEST = 2**53
"""Of any count: what every reader of JSON takes exactly."""


class Count(msgspec.Struct, frozen=True):
    """Totals by one convention. macs: of one inference."""

    macs: int
    params: int
    param_bytes: int


class Layer(msgspec.Struct, frozen=True):
    """One op of the file. input, output, weight: shapes as in the file (the first activation read, the first written,
    the kernel); null where there is none, or where an unknown op leaves it open.

    dtype: of the kernel, or of the output where there is none. macs_by: convention -> macs of this op. emulates:
    "average pool" or "copy" for a convolution that is one in fact.
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


class UnknownOp(msgspec.Struct, frozen=True):
    """Ops of one kind that no rule covers. params, param_bytes: their constants, which count. note: what was counted
    and what was not."""

    op: str
    count: int
    params: int
    param_bytes: int
    note: str


class Ledger(msgspec.Struct, frozen=True):
    """All counts of one file. frontend_macs: of one window, null without a manifest.

    nonzero_params: of the parameters of `exact`. bytes_by_dtype: their bytes by storage type. operators: op -> how many
    the file holds, also those that an engine folds into others (ONNX's Constant excepted). unknown: what the counts
    leave out. differences: what separates each convention from `exact`; they add up. emulated: convolutions that are
    pools or copies in fact; params and bytes of theirs are in `exact`, macs are not.
    """

    model: str
    conventions: dict[str, Count | None]
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
    emulated: Count = Count(0, 0, 0)

    def judged(self, quantity: str) -> dict[str, int]:
        """What each convention that may judge the file counts of "macs", "params" or "param_bytes"; those of the float
        network know nothing of its bytes."""
        return {
            name: getattr(count, quantity)
            for name, count in self.conventions.items()
            if count is not None and (quantity != "param_bytes" or name not in FLOAT_CONVENTIONS)
        }


def count(path: str | Path) -> Ledger:
    """Count a .tflite or .onnx file, with or without an edgekd manifest.

    Raises:
        InputError: unreadable, another format, damaged, several networks in one file, or shapes that are not fixed or
            absurd.
        MissingExtraError: the package that reads the format is not installed.
    """
    path = Path(path)
    raw = container.read_bytes(path)
    file = container.split(path, raw)
    network = READERS[path.suffix](path, raw)
    table = rows(network)
    float_counts = {} if file is None else file.manifest.float_counts
    conventions: dict[str, Count | None] = {
        "exact": _exact(table),
        NESSI: _nessi(table) if path.suffix == ".tflite" else None,
    }
    for name in FLOAT_CONVENTIONS:
        counted = float_counts.get(name)
        conventions[name] = None if counted is None else Count(counted.macs, counted.params, counted.param_bytes)
    peak, emulated = network.peak_activation_bytes(), _emulated(table)
    largest = max(
        peak,
        *(figure for each in (*conventions.values(), emulated) if each for figure in msgspec.structs.astuple(each)),
    )
    if largest > LARGEST:
        raise InputError(
            f"{path}: its shapes give a count of {largest.bit_length():,} bits, more than {LARGEST.bit_length() - 1}; "
            "the file is damaged or no model for a small device"
        )
    differences = of_nessi(table) if path.suffix == ".tflite" else []
    for name, counted in float_counts.items():
        differences += of_float_network(name, table, assign(table, name, counted))
    layers = tuple(
        _layer(network, row, [name for name, total in conventions.items() if total is not None]) for row in table
    )
    bytes_by_dtype: Counter[str] = Counter()
    for row in table:
        for tensor in row.charged:
            bytes_by_dtype[tensor.dtype] += tensor.bytes
    return Ledger(
        model=str(path),
        conventions=conventions,
        frontend_macs=None if file is None else frontend_macs(file.manifest.frontend, file.manifest.window),
        peak_activation_bytes=peak,
        file_bytes=len(raw),
        layers=layers,
        nonzero_params=sum(layer.nonzero_params for layer in layers),
        bytes_by_dtype=dict(sorted(bytes_by_dtype.items())),
        operators=dict(sorted(network.operators.items())),
        unknown=_unknown(table),
        differences=tuple(differences),
        engine_format="tflite" if path.suffix == ".tflite" else "onnx",
        emulated=emulated,
    )


def frontend_macs(fe: FrontEnd, samples: int) -> int:
    """Multiply-accumulates of the log-mel features of one window, an estimate.

    Per frame: window product (win_length) + real FFT + power (2 per bin) + sparse mel product (nonzero filter weights)
    + normalisation (n_mels); per sample: pre-emphasis. The real FFT of N samples is taken as a radix-2 complex FFT of N
    / 2 with 4 multiplications per butterfly, N / 4 * log2(N / 2) butterflies, and 2 N for the split into N / 2 + 1
    bins. Logarithms are not counted.

    Args:
        fe: the front end.
        samples: length of the window at `fe.sample_rate`.
    """
    fft = fe.n_fft * max(fe.n_fft // 2 - 1, 1).bit_length() + 2 * fe.n_fft
    mel = int((filterbank(fe) != 0).sum())
    per_frame = fe.win_length + fft + 2 * (fe.n_fft // 2 + 1) + mel + fe.n_mels
    return fe.frames(samples) * per_frame + (samples if fe.pre_emphasis else 0)


def _exact(table: Sequence[Row]) -> Count:
    return Count(
        sum(row.node.macs for row in table), sum(row.params for row in table), sum(row.param_bytes for row in table)
    )


def _nessi(table: Sequence[Row]) -> Count:
    return Count(
        sum(row.node.nessi_macs for row in table),
        sum(elements(row.nessi_constants) for row in table),
        sum(stored_bytes(row.nessi_constants) for row in table),
    )


def _emulated(table: Sequence[Row]) -> Count:
    found = [row for row in table if row.node.emulates]
    return Count(
        sum(row.node.emulated_macs for row in found),
        sum(row.params for row in found),
        sum(row.param_bytes for row in found),
    )


def _unknown(table: Sequence[Row]) -> tuple[UnknownOp, ...]:
    """Unknown ops, those alike together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in table:
        if row.node.unknown:
            groups.setdefault((row.node.op, row.node.unknown), []).append(row)
    return tuple(
        UnknownOp(op, len(found), sum(row.params for row in found), sum(row.param_bytes for row in found), note)
        for (op, note), found in groups.items()
    )


def _layer(network: Network, row: Row, conventions: Sequence[str]) -> Layer:
    """One row per op; a constant shared by several ops is charged to the first, so that the rows add up to `exact`."""
    node, tensors = row.node, network.tensors
    shapes = [tensors[name].shape if name in tensors else None for name in (*node.inputs[:1], *node.outputs[:1])]
    counted = {"exact": node.macs, NESSI: node.nessi_macs}
    counted |= {name: sum(module.macs for module in row.modules.get(name, ())) for name in FLOAT_CONVENTIONS}
    typed = node.kernel or next(iter(node.outputs), "")
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
        dtype=tensors[typed].dtype if typed in tensors else "",
        macs_by={name: counted[name] for name in conventions},
        emulates=node.emulates,
    )
