"""Terms of embeddings: the distance of a student's embedding from its teacher's, and from the centre of its label."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.train.loss.term import Shape, StudentOutputs, StudentTerm, TapTerm, Targets, cosine

MAP_DIMS = 3
"""Of a map without the batch: channels, mel, frame."""


class Projector(nn.Module):
    """A linear map of the second dimension of (batch, channels, ...); with two further dimensions a 1x1 convolution.

    Its initial weights depend on its widths alone; torch's global generator is not used.
    """

    def __init__(self, width: int, to: int) -> None:
        super().__init__()
        weight = torch.empty(to, width)
        self.weight = nn.Parameter(nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(0)))
        self.bias = nn.Parameter(torch.zeros(to))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.movedim(1, -1), self.weight, self.bias).movedim(-1, 1)


class Embedding(TapTerm):
    """Mean squared difference of the components, or 1 - cosine (FitNets, Romero et al. 2015; Heo et al. 2019).

    A projector maps the student's channels to the teacher's. In the other direction both could become zero. Maps
    (channels, mel, frame) are compared element by element at the smaller of their sizes.

    Args:
        distance: "mse" or "cosine".
        project: learn a projector; else the widths must be equal.
        student, teacher: shapes of both taps without the batch.
        where: what an error names.
    """

    def __init__(self, distance: str, project: bool, student: Shape, teacher: Shape, where: str) -> None:
        super().__init__()
        student, teacher = squeezed(student), squeezed(teacher)
        shapes = f"the student's shape is {shape_text(student)} and the teacher's {shape_text(teacher)}"
        if len(student) != len(teacher) or len(student) not in {1, MAP_DIMS}:
            raise InputError(f"{where}: {shapes}; take two vectors, or two maps of (channels, mel, frame)")
        if not project and student[0] != teacher[0]:
            raise InputError(f"{where}: {shapes}; set project = true, or take taps of one width")
        self.distance, self.of_maps = distance, len(student) == MAP_DIMS
        self.projector = Projector(student[0], teacher[0]) if project else nn.Identity()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = (x.reshape(len(x), *squeezed(tuple(x.shape[1:]))) for x in (student, teacher))
        student, teacher = pooled_to_smaller(self.projector(student), teacher)
        if self.distance == "cosine":
            return 1 - cosine(student.flatten(1), teacher.flatten(1), 1)
        return (student - teacher).square().flatten(1).mean(dim=1)


class Centre(StudentTerm):
    """Half the squared distance of an embedding from the learned centre of its label (Wen et al. 2016). The centre of a
    mixed item is the mix of both centres.

    Args:
        tap: path of the student's module.
        labels: how many.
        student: shape of the tap without the batch.
    """

    def __init__(self, tap: str, labels: int, student: Shape) -> None:
        super().__init__()
        self.tap = tap
        self.centres = nn.Parameter(torch.zeros(labels, torch.Size(student).numel()))

    def forward(self, student: StudentOutputs, targets: Targets) -> Tensor:
        embedding = student.taps[self.tap].float().flatten(1)
        return (embedding - targets.shares @ self.centres).square().sum(dim=1) / 2


def squeezed(shape: Shape) -> Shape:
    """The shape, or that of a vector where it is a map of one element."""
    return shape[:1] if len(shape) > 1 and torch.Size(shape[1:]).numel() == 1 else shape


def shape_text(shape: Shape) -> str:
    """A shape for people, e.g. "16 x 32 x 50"."""
    return " x ".join(map(str, shape))


def pooled_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps (batch, channels, mel, frame), averaged down to the smaller of both sizes in each direction; vectors
    unchanged."""
    if student.dim() != 1 + MAP_DIMS or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
