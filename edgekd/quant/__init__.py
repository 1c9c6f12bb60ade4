"""Quantization-aware training (QAT) of students, and their lowering to the integer graph.

`to_qat` turns a float student into a `QuantNetwork`; `calibrate`, `settle` and `freeze` set its scales; `lower` makes
the integer graph. `forms` holds one class for each kind of block. Not here: the training loop, file formats.
"""

from edgekd.quant.network import QuantNetwork, calibrate, freeze, lower, settle, to_qat

__all__ = ["QuantNetwork", "calibrate", "freeze", "lower", "settle", "to_qat"]
