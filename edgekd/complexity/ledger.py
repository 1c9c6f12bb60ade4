"""Counts what an exported model file costs, by each convention in use, from the file alone.

The conventions disagree, so a ledger carries each:

- `exact`: multiply-accumulates of convolutions (also depthwise, grouped, transposed) and dense layers, as the file spells them; an
  average pool that was emitted as a depthwise convolution is one. Bytes of all constants that ops read (int8 1, int32 4,
  float32 4; also axes, pads and shapes), each storage once; quantisation scales are not counted, by anybody.
- `nessi_tflite`: the rules of NeSsi, the counter of the DCASE challenge, on .tflite files. It adds pools (output elements *
  kernel), MEAN (input elements) and ADD (output elements), takes the last input dimension as the width of a dense layer, and
  counts the constants of each op again where several ops share them. On the official 2022 baseline (46,512 bytes) it gives
  29,234,920 where `exact` gives 29,203,560: +34,560 for the two max pools, and -3,200 because the first dense layer reads a
  (1, 2, 1, 32) map and is counted 32 wide instead of 64.
- `torchinfo` and `ptflops` count the torch module; they are not computed from a file and are null.
"""

from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from edgekd import modelfile
from edgekd.complexity import onnx, tflite
from edgekd.complexity.network import Network, Node, Tensor
from edgekd.frontend import FrontEnd, filterbank

READERS = {".tflite": tflite.read, ".onnx": onnx.read}


class Count(msgspec.Struct, frozen=True):
    """Totals by one convention. macs: of one inference."""

    macs: int
    params: int
    param_bytes: int


class Layer(msgspec.Struct, frozen=True):
    """One op of the file. input, output, weight: shapes as in the file (the first activation read, the first written, the kernel); null
    where there is none, or where an unknown op leaves it open.

    dtype: of the kernel, or of the output where there is none. macs_by: convention -> macs of this op.
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


class UnknownOp(msgspec.Struct, frozen=True):
    """Ops of one kind that no rule covers. params, param_bytes: their constants, which count. note: what was counted and what was not."""

    op: str
    count: int
    params: int
    param_bytes: int
    note: str


class Difference(msgspec.Struct, frozen=True):
    """Where a convention counts something else than `exact`. layer: an op of the file, or what only the convention sees."""

    convention: str
    layer: str
    quantity: Literal["macs", "params", "param_bytes"]
    exact: int
    theirs: int
    why: str


class Ledger(msgspec.Struct, frozen=True):
    """All counts of one file. frontend_macs: of one window, null without a manifest.

    nonzero_params: of the parameters of `exact`. bytes_by_dtype: their bytes by storage type. operators: op -> how many.
    unknown: what the counts leave out. differences: what separates each convention from `exact`; they add up.
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


def count(path: str | Path) -> Ledger:
    """Count a .tflite or .onnx file, with or without an edgekd manifest.

    Raises:
        InputError: unreadable, another format, damaged, or holding something that no rule covers.
        MissingExtraError: the package that reads the format is not installed.
    """
    path = Path(path)
    raw = modelfile.read_bytes(path)
    file = modelfile.split(path, raw)
    network = READERS[path.suffix](path, raw)
    layers = _layers(network, path.suffix == ".tflite")
    bytes_by_dtype: Counter[str] = Counter()
    for tensor in _stored(network):
        bytes_by_dtype[tensor.dtype] += tensor.bytes
    return Ledger(
        model=str(path),
        conventions={"exact": _exact(network), "nessi_tflite": _nessi(network) if path.suffix == ".tflite" else None,
                     "torchinfo": None, "ptflops": None},
        frontend_macs=None if file is None else frontend_macs(file.manifest.frontend, file.manifest.window),
        peak_activation_bytes=network.peak_activation_bytes(),
        file_bytes=len(raw),
        layers=layers,
        nonzero_params=sum(layer.nonzero_params for layer in layers), bytes_by_dtype=dict(bytes_by_dtype),
        operators=dict(Counter(layer.op for layer in layers)), engine_format="tflite" if path.suffix == ".tflite" else "onnx",
    )


def frontend_macs(fe: FrontEnd, samples: int) -> int:
    """Multiply-accumulates of the log-mel features of one window, an estimate.

    Per frame: window product (win_length) + real FFT + power (2 per bin) + sparse mel product (nonzero filter weights) +
    normalisation (n_mels); per sample: pre-emphasis. The real FFT of N samples is taken as a radix-2 complex FFT of N / 2 with 4
    multiplications per butterfly, N / 4 * log2(N / 2) butterflies, and 2 N for the split into N / 2 + 1 bins. Logarithms are not counted.

    Args:
        fe: the front end.
        samples: length of the window at `fe.sample_rate`.
    """
    fft = fe.n_fft * max(fe.n_fft // 2 - 1, 1).bit_length() + 2 * fe.n_fft
    mel = int((filterbank(fe) != 0).sum())
    per_frame = fe.win_length + fft + 2 * (fe.n_fft // 2 + 1) + mel + fe.n_mels
    return fe.frames(samples) * per_frame + (samples if fe.pre_emphasis else 0)


def _stored(network: Network) -> list[Tensor]:
    """Constants that ops read, one per storage."""
    stored = [network.tensors[name] for node in network.nodes for name in node.constants]
    return list({tensor.storage: tensor for tensor in reversed(stored)}.values())


def _exact(network: Network) -> Count:
    stored = _stored(network)
    return Count(
        macs=sum(node.macs for node in network.nodes),
        params=sum(tensor.elements for tensor in stored),
        param_bytes=sum(tensor.bytes for tensor in stored),
    )


def _nessi(network: Network) -> Count:
    constants = [network.tensors[name] for node in network.nodes for name in node.constants]
    return Count(
        macs=sum(node.nessi_macs for node in network.nodes),
        params=sum(tensor.elements for tensor in constants),
        param_bytes=sum(tensor.bytes for tensor in constants),
    )


def _layers(network: Network, tflite_rules: bool) -> tuple[Layer, ...]:
    """One row per op; a constant shared by several ops is charged to the first, so that the rows add up to `exact`."""
    charged: set[str] = set()
    rows = []
    for node in network.nodes:
        tensors = []
        for name in node.constants:
            tensor = network.tensors[name]
            if tensor.storage not in charged:
                charged.add(tensor.storage)
                tensors.append(tensor)
        rows.append(_layer(network, node, tensors, tflite_rules))
    return tuple(rows)


def _layer(network: Network, node: Node, charged: list[Tensor], tflite_rules: bool) -> Layer:
    output = network.tensors[node.outputs[0]]
    return Layer(
        name=node.name, op=node.op, input=network.tensors[node.inputs[0]].shape if node.inputs else None, output=output.shape,
        weight=node.weight, macs=node.macs, params=sum(tensor.elements for tensor in charged),
        param_bytes=sum(tensor.bytes for tensor in charged),
        nonzero_params=sum(tensor.elements if tensor.nonzero is None else tensor.nonzero for tensor in charged),
        dtype=next((network.tensors[name].dtype for name in node.constants if network.tensors[name].shape == node.weight), output.dtype),
        macs_by={"exact": node.macs, **({"nessi_tflite": node.nessi_macs} if tflite_rules else {})},
    )
