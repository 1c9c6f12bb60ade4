"""Counts of an imaginary file with small round numbers, and targets with a few budgets."""

from edgekd.complexity.counts import Layer, ModelCounts, Totals
from edgekd.complexity.target import Budgets, Target

COUNTS = ModelCounts(
    model="m.tflite",
    conventions={
        "exact": Totals(900, 50, 80),
        "nessi_tflite": Totals(1000, 50, 90),
        "torchinfo": None,
        "ptflops": None,
    },
    frontend_macs=None,
    peak_activation_bytes=300,
    file_bytes=2000,
    layers=(Layer("stem", "CONV_2D", (1, 8, 6, 2), (1, 8, 6, 4), (4, 3, 3, 2), 900, 50, 80),),
    nonzero_params=49,
    bytes_by_dtype={"int8": 64, "int32": 16},
    operators={"CONV_2D": 1},
    engine_format="tflite",
)


def target(**budgets: int) -> Target:
    return Target("toy", "a toy", "nowhere", Budgets(**budgets))


FIRST_FIELDS = (
    "model",
    "target",
    "ok",
    "conventions",
    "frontend_macs",
    "peak_activation_bytes",
    "file_bytes",
    "budgets",
    "layers",
)
"""Fields of the first version of the JSON document, in order."""
