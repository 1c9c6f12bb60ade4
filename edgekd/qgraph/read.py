"""Reads the integer graph back from a model file: for learning on the device and for C code, without torch and without
an engine.

`read_graph` returns the graph that was emitted, field by field: stems are joined, pools are pools, paddings are numbers
again. Where an int8 file does not hold a field, the graph has what lowering gives it:

- An op bears the name of the edge that it writes.
- An activation is only saturation in integers. A convolution has `clip01` where its output has scale 1/255 and zero
  point -128, `relu` with zero point -128 and another scale, else `none`. An addition has `relu` where its output has
  zero point -128 and an input may be negative.
- The stride of a pool over a complete axis is the kernel's size.
- A constant stands right before its first reader.
- The scale of a constant that only additions read is in an .onnx file since that file documents it; an older one with
  such a constant is refused. `export` writes it again.
- In a .tflite file the padding behind a map of one channel is as wide as the one before it where that gives the same
  file, else as narrow as possible. In both formats an axis of such a kernel that has one position has dilation 1.
"""

import struct
from pathlib import Path

import numpy as np

from edgekd.errors import InputError
from edgekd.protobuf import DamagedError
from edgekd.qgraph import read_onnx, read_tflite
from edgekd.qgraph.graph import QGraph
from edgekd.qgraph.restore import restored
from edgekd.text import short_line
from edgekd.tflite_tables import is_tflite

FOREIGN = (ValueError, LookupError, ArithmeticError, struct.error, DamagedError)
"""What readers raise for a file that edgekd did not write, or that is damaged."""
WHAT_TO_DO = "give an int8 file that 'edgekd export' wrote"


def read_graph(model: str | Path | bytes) -> QGraph:
    """The integer graph of an int8 model file.

    Args:
        model: path of a .tflite or .onnx file, or the bytes of one, with or without its manifest. Whether the file has
            changed since its export is checked by `modelfile.container.read`, whose `content` may be given here.

    Returns:
        A validated graph, whose `reference.run` gives the integers of the file.

    Raises:
        InputError: unreadable, damaged, a float file, or written by another tool.
    """
    where, content = ("the model", model) if isinstance(model, bytes) else (str(model), _bytes_of(Path(model)))
    read = read_tflite.read if is_tflite(content) else read_onnx.read
    try:
        with np.errstate(all="ignore"):  # a damaged file may hold any float
            graph = restored(read(content))
            graph.validate()
    except InputError as error:
        raise InputError(f"{where}: {_reason(error)}") from None
    except FOREIGN as error:
        raise InputError(
            f"{where}: not a graph that edgekd writes, or damaged ({_reason(error)}); {WHAT_TO_DO}"
        ) from None
    return graph


def _reason(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    if isinstance(error, struct.error | IndexError):
        return "a reference leads out of the file"
    if isinstance(error, UnicodeDecodeError):
        return "a name is not UTF-8"
    return short_line(f"{error} is missing" if isinstance(error, KeyError) else str(error))


def _bytes_of(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a pipe would block, and a device may have no end
        raise InputError(f"{path}: not a regular file; give a .tflite or .onnx file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a .tflite or .onnx file") from None
