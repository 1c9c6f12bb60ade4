"""The quantiser of one activation edge: a Brevitas quantiser whose threshold is calibrated, then learned, then
frozen."""

import math
from typing import Any, Literal

import brevitas.nn as qnn
import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat
from torch import Tensor

from edgekd.models.base import TensorModule
from edgekd.qgraph.graph import INT8_MAX, INT8_MIN

Kind = Literal["signed", "unsigned", "shifted", "constant", "hard_gate", "soft_gate"]

_QUANTILE = 0.9999
"""Share of absolute values that the calibrated range of an edge holds."""
_MAX_SAMPLES = 200_000
"""Values used per batch and edge in calibration."""
_MIN_PEAK = 1e-6
_SILENT_RANGE = 2.0
"""Range of an edge whose peak stays below `_MIN_PEAK` in calibration (as may happen in a gate's hidden layer), where a
scale would vanish. With 1 the edge would have a hard sigmoid's scale, by which files are read (`qgraph.read`)."""


_LEARNED = {"scaling_impl_type": ScalingImplType.PARAMETER, "scaling_init": 1.0}
_QUANTISERS: dict[Kind, Any] = {
    "signed": Int8ActPerTensorFloat.let(**_LEARNED),
    "unsigned": Uint8ActPerTensorFloat.let(**_LEARNED),
    "shifted": Uint8ActPerTensorFloat.let(**_LEARNED),
    "constant": Int8ActPerTensorFloat.let(**_LEARNED),
    # scale 1/255: saturation of the int8 output is the clip to 0..1
    "hard_gate": Uint8ActPerTensorFloat.let(scaling_impl_type=ScalingImplType.CONST, scaling_init=1.0),
    # scale 1/256, the only one that LOGISTIC may have in TFLite
    "soft_gate": Uint8ActPerTensorFloat.let(scaling_impl_type=ScalingImplType.CONST, scaling_init=255 / 256),
}
"""Kind of edge -> Brevitas quantiser."""


class ActQuant(TensorModule):
    """Fake quantisation of one edge to 8 bits. While `calibrating`, it passes values through and records their range.

    kind: "signed" and "constant" have zero point 0, the others the int8 zero point -128. The values of a "constant" are
    trained, not computed, and its range holds all of them. The range of "shifted" begins at `least`, rounded to a step,
    which is below 0: its zero point is above -128.
    """

    def __init__(self, kind: Kind, least: float = 0.0) -> None:
        super().__init__()
        self.kind = kind
        self.least = least
        self.quant = qnn.QuantIdentity(act_quant=_QUANTISERS[kind], return_quant_tensor=False)
        self.logits = False
        """Whether this is the network's output. Its range then ends at the highest value of a winning label: what
        saturates far below it does not matter, and smaller steps leave fewer ties between labels."""
        self.calibrating = False
        self.peak = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.calibrating:
            if self.kind != "shifted":
                quantised: Tensor = self.quant(x)
                return quantised
            step = self.step().detach()
            shift = self._steps_below_zero(step) * step
            shifted: Tensor = self.quant(x + shift) - shift
            return shifted
        values = (x.detach().amax(dim=1) if self.logits else x.detach()).abs().flatten()
        if self.kind == "constant":
            self.peak = values.max().item() * INT8_MIN / -INT8_MAX  # the positive end has one step less
            return x
        if self.kind == "shifted":
            values = (x.detach().flatten() - self.least).clamp(min=0.0)
        values = values[:: max(1, values.numel() // _MAX_SAMPLES)]
        self.peak = max(self.peak, values.kthvalue(math.ceil(_QUANTILE * values.numel())).values.item())
        return x

    @property
    def signed(self) -> bool:
        """Whether values below zero are kept."""
        return self.kind in ("signed", "constant", "shifted")

    def set_range(self) -> None:
        """Use the recorded peak as the threshold; edges of fixed scale do not change."""
        for threshold in self.parameters():
            with torch.no_grad():
                threshold.fill_(max(self.peak, -self.least) if self.peak > _MIN_PEAK else _SILENT_RANGE)

    def _steps_below_zero(self, step: Tensor) -> Tensor:
        """Steps of "shifted" from `least` to 0, a scalar; a range that ends below 0 is taken to end there."""
        return torch.round(-self.least / step).clamp(max=INT8_MAX - INT8_MIN)

    def step(self) -> Tensor:
        """Scale of the int8 edge, a float32 scalar."""
        scale: Tensor = self.quant.act_quant.scale()
        return scale

    def scale(self) -> float:
        """`step` as a number."""
        return float(self.step().detach().item())

    def zero_point(self) -> int:
        """int8 zero point of the edge."""
        if self.kind == "shifted":
            return INT8_MIN + int(self._steps_below_zero(self.step().detach()))
        return 0 if self.signed else INT8_MIN


def quantiser_like(source: ActQuant) -> ActQuant:
    """A quantiser with a range of its own, for means of an edge's values or parts of them."""
    return ActQuant("shifted", source.least) if source.kind == "shifted" else range_quantiser(source.signed)


def range_quantiser(signed: bool) -> ActQuant:
    """A quantiser with a range of its own, for values of both signs or for values of at least zero."""
    return ActQuant("signed" if signed else "unsigned")
