"""Texture terms between maps of the same audio (SSATKD): edges at several scales, and how often levels are
neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.train.loss.embedding import MAP_DIMS, Projector, pooled_to_smaller, shape_text
from edgekd.train.loss.term import Shape, TapTerm, cosine

PYRAMID = 3
"""Levels of the Laplacian pyramid, including the smallest map."""
LEAST_SIDE = 2 ** (PYRAMID - 1)
"""Elements of the shorter side of a map that still has a pyramid."""
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Taps of the blur, along either side."""
LEVELS = 4
"""Levels of quantization and counting."""
LEAST_RANGE = 1e-3
"""Least range of similarity within a map that the levels divide."""


class Texture(TapTerm):
    """A texture loss. The teacher's map is projected to the student's channels (1x1 convolution and ReLU), then both
    maps are averaged down to the smaller size.

    Args:
        loss: "structural" or "statistical".
        project: learn a projector; else the channels must be equal.
        student, teacher: shapes of both taps without the batch.
        where: what an error names.
    """

    def __init__(self, loss: str, project: bool, student: Shape, teacher: Shape, where: str) -> None:
        super().__init__()
        shapes = f"the student's shape is {shape_text(student)} and the teacher's {shape_text(teacher)}"
        if any(len(shape) != MAP_DIMS or min(shape[1:]) < LEAST_SIDE for shape in (student, teacher)):
            raise InputError(
                f"{where}: {shapes}; a texture needs maps (channels, mel, frame) of at least "
                f"{LEAST_SIDE} x {LEAST_SIDE} elements; take taps further from the output"
            )
        if not project and student[0] != teacher[0]:
            raise InputError(f"{where}: {shapes}; set project = true, or take taps of as many channels")
        self.compare = structural if loss == "structural" else statistical
        self.projector = nn.Sequential(Projector(teacher[0], student[0]), nn.ReLU()) if project else nn.Identity()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.compare(*pooled_to_smaller(student, self.projector(teacher)))


def structural(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of the edges of two maps (batch, channels, height, width), averaged over the levels of a Laplacian
    pyramid: (batch,)."""
    levels = [
        1 - cosine(edges(x).flatten(1), edges(y).flatten(1), 1) for x, y in zip(pyramid(a), pyramid(b), strict=True)
    ]
    return torch.stack(levels).mean(dim=0)


def statistical(a: Tensor, b: Tensor) -> Tensor:
    """Earth mover's distance of the counts of two maps (batch, channels, height, width): (batch,)."""
    return earth_movers_distance(quantised_counts(a), quantised_counts(b))


def pyramid(x: Tensor) -> list[Tensor]:
    """Laplacian pyramid (Burt and Adelson 1983) of (batch, channels, height, width).

    Each level is the difference between a map and the next smaller one, whose sides are half, rounded up. The last
    level is the smallest map itself.
    """
    levels = []
    for _ in range(PYRAMID - 1):
        smaller = blurred(x)[..., ::2, ::2]
        levels.append(x - upsampled(smaller, x.shape))
        x = smaller
    return [*levels, x]


def edges(x: Tensor) -> Tensor:
    """Responses (batch, channels, 4, height, width) to 3x3 Sobel masks, each turned by 45 degrees from the one before,
    times 1/8.

    Of the masks at 8 angles the other four are the negatives of these and change no cosine. Beyond the border of a map
    its last elements repeat.
    """
    height, width = x.shape[2:]
    x = _padded(x, 1) / 8
    # differences between opposite neighbours; a depthwise convolution would be slower
    falling, vertical, rising, horizontal = (
        x[..., row : row + height, column : column + width]
        - x[..., 2 - row : 2 - row + height, 2 - column : 2 - column + width]
        for row, column in ((0, 0), (0, 1), (0, 2), (1, 2))
    )
    return torch.stack(
        [
            falling + 2 * vertical + rising,
            2 * falling + vertical - horizontal,
            falling - rising - 2 * horizontal,
            -vertical - 2 * rising - horizontal,
        ],
        dim=2,
    )


def quantised_counts(x: Tensor) -> Tensor:
    """Quantization and counting (Ji et al. 2022): how often an element of one level has one of another level below it
    on its right.

    The value of an element is the cosine of its channels with the map's mean. Levels divide the range of values evenly;
    a value counts towards the two nearest levels, more towards the nearer.

    Args:
        x: (batch, channels, height, width).

    Returns:
        (batch, LEVELS, LEVELS), non-negative, each item's sum 1.
    """
    value = cosine(x, x.mean(dim=(2, 3), keepdim=True), 1)  # (batch, height, width)
    least, most = value.amin(dim=(1, 2), keepdim=True), value.amax(dim=(1, 2), keepdim=True)
    scaled = (value - least) / (most - least).clamp_min(LEAST_RANGE) * (LEVELS - 1)
    level = torch.arange(LEVELS, device=x.device, dtype=x.dtype)
    near = F.relu(1 - (scaled[..., None] - level).abs())  # (batch, height, width, LEVELS)
    first, second = near[:, :-1, :-1].flatten(1, 2), near[:, 1:, 1:].flatten(1, 2)
    return first.transpose(1, 2) @ second / first.shape[1]


def earth_movers_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sum of squared differences of the cumulative distributions of histograms (batch, levels, levels): (batch,)."""
    return (a - b).cumsum(dim=1).cumsum(dim=2).square().sum(dim=(1, 2))


def blurred(x: Tensor) -> Tensor:
    """(batch, channels, height, width) through a binomial filter of 5 x 5."""
    height, width = x.shape[2:]
    x = _padded(x, len(BINOMIAL) // 2)
    start = x.new_zeros(())
    x = sum((weight * x[..., tap : tap + height, :] for tap, weight in enumerate(BINOMIAL)), start)
    return sum((weight * x[..., tap : tap + width] for tap, weight in enumerate(BINOMIAL)), start)


def upsampled(x: Tensor, shape: torch.Size) -> Tensor:
    """(batch, channels, height, width) enlarged to the last two sizes of `shape`, at most double."""
    return blurred(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[..., : shape[2], : shape[3]])


def _padded(x: Tensor, reach: int) -> Tensor:
    """A map with `reach` more elements on each side that repeat its border.

    Written by hand, as the gradients of torch's padding differ from run to run on a GPU.
    """
    x = torch.cat([x[..., :1, :].expand(-1, -1, reach, -1), x, x[..., -1:, :].expand(-1, -1, reach, -1)], dim=2)
    return torch.cat([x[..., :1].expand(-1, -1, -1, reach), x, x[..., -1:].expand(-1, -1, -1, reach)], dim=3)
