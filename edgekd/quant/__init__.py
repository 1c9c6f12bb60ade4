"""Quantization-aware training forms of the blocks, and their lowering to the integer graph."""

from edgekd.quant.network import QuantNetwork, calibrate, freeze, lower, settle, to_qat

__all__ = ["QuantNetwork", "calibrate", "freeze", "lower", "settle", "to_qat"]
