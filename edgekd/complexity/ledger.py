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

from pathlib import Path

import msgspec

from edgekd import modelfile
from edgekd.complexity import onnx, tflite
from edgekd.complexity.network import Network, Node
from edgekd.frontend import FrontEnd, filterbank

READERS = {".tflite": tflite.read, ".onnx": onnx.read}


class Count(msgspec.Struct, frozen=True):
    """Totals by one convention. macs: of one inference."""

    macs: int
    params: int
    param_bytes: int


class Layer(msgspec.Struct, frozen=True):
    """One op of the file. input, output, weight: shapes as in the file (the first activation read, the first written, the kernel)."""

    name: str
    op: str
    input: tuple[int, ...] | None
    output: tuple[int, ...]
    weight: tuple[int, ...] | None
    macs: int
    params: int
    param_bytes: int


class Ledger(msgspec.Struct, frozen=True):
    """All counts of one file. frontend_macs: of one window, null without a manifest."""

    model: str
    conventions: dict[str, Count | None]
    frontend_macs: int | None
    peak_activation_bytes: int
    file_bytes: int
    layers: tuple[Layer, ...]


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
    return Ledger(
        model=str(path),
        conventions={"exact": _exact(network), "nessi_tflite": _nessi(network) if path.suffix == ".tflite" else None,
                     "torchinfo": None, "ptflops": None},
        frontend_macs=None if file is None else frontend_macs(file.manifest.frontend, file.manifest.window),
        peak_activation_bytes=network.peak_activation_bytes(),
        file_bytes=len(raw),
        layers=_layers(network),
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


def _exact(network: Network) -> Count:
    stored = {network.tensors[name].storage: network.tensors[name] for node in network.nodes for name in node.constants}
    return Count(
        macs=sum(node.macs for node in network.nodes),
        params=sum(tensor.elements for tensor in stored.values()),
        param_bytes=sum(tensor.bytes for tensor in stored.values()),
    )


def _nessi(network: Network) -> Count:
    constants = [network.tensors[name] for node in network.nodes for name in node.constants]
    return Count(
        macs=sum(node.nessi_macs for node in network.nodes),
        params=sum(tensor.elements for tensor in constants),
        param_bytes=sum(tensor.bytes for tensor in constants),
    )


def _layers(network: Network) -> tuple[Layer, ...]:
    """One row per op; a constant shared by several ops is charged to the first, so that the rows add up to `exact`."""
    charged: set[str] = set()
    rows = []
    for node in network.nodes:
        params = param_bytes = 0
        for name in node.constants:
            tensor = network.tensors[name]
            if tensor.storage not in charged:
                charged.add(tensor.storage)
                params, param_bytes = params + tensor.elements, param_bytes + tensor.bytes
        rows.append(_layer(network, node, params, param_bytes))
    return tuple(rows)


def _layer(network: Network, node: Node, params: int, param_bytes: int) -> Layer:
    return Layer(
        name=node.name, op=node.op, input=network.tensors[node.inputs[0]].shape if node.inputs else None,
        output=network.tensors[node.outputs[0]].shape, weight=node.weight, macs=node.macs, params=params, param_bytes=param_bytes,
    )
