"""What `UnfoldOp` becomes in a .tflite file: operators that move bytes, one after the other. The emitter writes these
steps, and the reader finds the op that they come from."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from edgekd.operators import Tflite
from edgekd.qgraph.graph import Edge, Shape, UnfoldOp

MAX_CONCATENATED = 4
"""Inputs of one CONCATENATION that XNNPACK takes in every LiteRT that edgekd supports."""
MAP = -1
"""The source of a step that reads the map itself."""


class Step(NamedTuple):
    """One operator. sources: what it moves, numbers of earlier steps or `MAP`. shape: of what it writes. arguments: the
    numbers of its int32 constants."""

    kind: Tflite
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    arguments: tuple[tuple[int, ...], ...] = ()


class _Steps(list[Step]):
    """Steps so far. Methods append steps and return the number of the last one."""

    def move(self, kind: Tflite, shape: tuple[int, ...], *arguments: tuple[int, ...], source: int | None = None) -> int:
        """Append a step of one source, by default the latest step."""
        self.append(Step(kind, (len(self) - 1 if source is None else source,), shape, arguments))
        return len(self) - 1

    def stack(self, parts: list[int]) -> int:
        """Planes stacked along the first axis, `MAX_CONCATENATED` at a time."""
        while len(parts) > 1:
            groups = [parts[start : start + MAX_CONCATENATED] for start in range(0, len(parts), MAX_CONCATENATED)]
            parts = [self._concatenate(group) if len(group) > 1 else group[0] for group in groups]
        return parts[0]

    def _concatenate(self, parts: list[int]) -> int:
        rows = sum(self[part].shape[0] for part in parts)
        self.append(Step(Tflite.CONCATENATION, tuple(parts), (rows, self[parts[0]].shape[1])))
        return len(self) - 1


def steps(op: UnfoldOp, source: Shape) -> list[Step]:
    """The operators that write (mel * frame, position): what each kernel position reads. A RESHAPE then makes a map of
    it.

    Both axes are folded by their strides, so that what each kernel position reads is a rectangle; these are cut out
    one by one.
    """
    written = _Steps()
    _, mels, frames = op.shape([source])
    mel, frame = _fold(op, 0, source[1], mels), _fold(op, 1, source[2], frames)
    plane = (mel.stride * mel.length, frame.stride * frame.length)
    paddings = tuple(
        size
        for axis in (0, 1)
        for size in (op.padding[2 * axis], plane[axis] - source[axis + 1] - op.padding[2 * axis])
    )
    whole = written.move(Tflite.RESHAPE, source[1:], source[1:])
    if any(paddings):
        whole = written.move(Tflite.PAD, plane, paddings)
    if (mel.stride, frame.stride) != (1, 1):
        folded = (mel.length, mel.stride, frame.length, frame.stride)
        written.move(Tflite.RESHAPE, folded, folded)
        written.move(Tflite.TRANSPOSE, (mel.stride, mel.length, frame.stride, frame.length), (1, 0, 3, 2))
        whole = written.move(Tflite.RESHAPE, plane, plane)
    size = (mels, plane[1])
    rows = written.stack([written.move(Tflite.SLICE, size, (start, 0), size, source=whole) for start in mel.starts])
    size = (mels * op.kernel[0], frames)
    written.stack([written.move(Tflite.SLICE, size, (0, start), size, source=rows) for start in frame.starts])
    by_position = (op.kernel[0] * op.kernel[1], mels * frames)
    written.move(Tflite.RESHAPE, by_position, by_position)
    written.move(Tflite.TRANSPOSE, by_position[::-1], (1, 0))
    return written


class _Fold(NamedTuple):
    """One axis as (length, stride) in place of length * stride values. starts: where each kernel position begins once
    the axis is (stride, length)."""

    stride: int
    length: int
    starts: tuple[int, ...]


def _fold(op: UnfoldOp, axis: int, size: int, out: int) -> _Fold:
    """size: of the axis without padding. out: size of the output."""
    stride, padded = op.stride[axis], size + op.padding[2 * axis] + op.padding[2 * axis + 1]
    offsets = [position * op.dilation[axis] for position in range(op.kernel[axis])]
    length = max(offsets[-1] // stride + out, -(-padded // stride))
    return _Fold(stride, length, tuple(each % stride * length + each // stride for each in offsets))


def unfolded(source: Edge, output: Edge, found: Sequence[Step]) -> UnfoldOp:
    """The op that was written as these steps; it is named after its output.

    Steps do not show how much of the padding behind the map no kernel position reads. So the padding is the same on
    both sides where that gives these steps, else as narrow as possible. A kernel of one position has dilation 1.

    Raises:
        ValueError, LookupError: no op is written so.
    """
    cuts = [step for step in found if step.kind is Tflite.SLICE]
    folded = [step.shape for step in found if len(step.shape) == 4]
    paddings = [step.arguments[0] for step in found if step.kind is Tflite.PAD]
    stride = (folded[0][1], folded[0][3]) if folded else (1, 1)
    plane = found[cuts[0].sources[0]].shape
    kernels, dilations, sides = [], [], []
    for axis in (0, 1):
        parts = [step for step in cuts if (step.sources == cuts[0].sources) is (axis == 0)]
        length, out, size = plane[axis] // stride[axis], output.shape[axis + 1], source.shape[axis + 1]
        second = parts[1].arguments[0][axis] if len(parts) > 1 else length  # begins at value 1 without a second one
        kernels.append(len(parts))
        dilations.append(second // length + second % length * stride[axis])
        before, last = paddings[0][2 * axis] if paddings else 0, dilations[axis] * (kernels[axis] - 1)
        needed = (out - 1) * stride[axis] + last + 1
        if length > last // stride[axis] + out:  # longer than what is read, because padding follows
            needed = max(needed, (length - 1) * stride[axis] + 1)
        sides.append([(before, before), (before, max(0, needed - size - before))])
    for mel, frame in product(*sides):
        op = UnfoldOp(
            output.name,
            source.name,
            output.name,
            (kernels[0], kernels[1]),
            stride,
            (*mel, *frame),
            (dilations[0], dilations[1]),
        )
        if op.shape([source.shape]) == output.shape and steps(op, source.shape) == list(found):
            return op
    raise ValueError(f"what writes '{output.name}' is no unfolded kernel")
