"""The program whose instructions arm_cost.sh counts: two loops over each stage of a model file, with a mark for
insn_marks.c before, between and after them.

    python tools/arm_cost_loops.py MODEL    prints one JSON line: `Loops`

The stages are those of `edgekd bench` (network, front end, and the pipeline from one window to a decision) and the
stream of `listen`, which reads chunks as from a microphone and decides every half second.
"""

import gc
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from edgekd.evaluation.bench import stages_of
from edgekd.modelfile.engine import Model, open_model
from edgekd.runtime.listen import decisions
from edgekd.runtime.source.files import CHUNK_S

MARK = 0x45444745 << 24
"""The same number is in insn_marks.c."""
FEW, MANY = 16, 116
"""Iterations of the two loops of a stage. The difference of their costs is that of 100 iterations alone."""
MARKS_A_STAGE = 3
WARM_UP = 4
HOP_S = 0.5
SEED, LEVEL = 0, 0.1
"""Of the noise in the stream; LEVEL is its standard deviation, 1 is full scale."""
PACKAGES = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime"}


class Loops(msgspec.Struct, frozen=True):
    """What was run.

    Attributes:
        stages: in the order of their marks, three each.
        few, many: iterations between the marks of a stage.
        versions: of the software that influences the counts.
    """

    engine: str
    stages: tuple[str, ...]
    few: int
    many: int
    versions: dict[str, str]


def run(path: Path) -> Loops:
    """Loop over the stages of a model file."""
    model = open_model(path)
    stream = decisions(model, _chunks(model), "noise", HOP_S, 1)
    work: dict[str, Callable[[], object]] = {**stages_of(model), "stream": lambda: next(stream)}
    with open(os.devnull, "rb", buffering=0) as nowhere:  # noqa: PTH123
        gc.collect()
        gc.freeze()  # imported modules are not searched for garbage inside the loops
        for index, stage in enumerate(work.values()):
            _repeat(stage, WARM_UP)
            for offset, iterations in enumerate((FEW, MANY)):
                mark_stage(nowhere.fileno(), MARKS_A_STAGE * index + offset)
                _repeat(stage, iterations)
            mark_stage(nowhere.fileno(), MARKS_A_STAGE * index + MARKS_A_STAGE - 1)
    versions = {name: importlib.metadata.version(name) for name in (PACKAGES[model.engine], "numpy")}
    return Loops(model.engine, tuple(work), FEW, MANY, {"python": platform.python_version(), **versions})


def _repeat(stage: Callable[[], object], iterations: int) -> None:
    for _ in range(iterations):
        stage()


def mark_stage(nowhere: int, number: int) -> None:
    os.lseek(nowhere, MARK + number, os.SEEK_SET)


def _chunks(model: Model) -> Iterator[np.ndarray]:
    """Endless chunks of noise, float32 (time,), which repeats every second."""
    rate = model.manifest.frontend.sample_rate
    noise = (LEVEL * np.random.default_rng(SEED).standard_normal(rate)).astype(np.float32)
    size = int(CHUNK_S * rate)
    while True:
        yield from (noise[start : start + size] for start in range(0, rate, size))


if __name__ == "__main__":
    print(msgspec.json.encode(run(Path(sys.argv[1]))).decode())
