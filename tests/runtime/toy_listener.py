"""A model without an engine, and `edgekd listen` on it in a process of its own."""

import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from edgekd.frontend import FrontEnd
from edgekd.modelfile.manifest import GraphCounts, Manifest, Provenance, TensorQuant

QUANT = TensorQuant("float32", 1.0, 0)
MANIFEST = Manifest(
    name="toy",
    student="toy",
    precision="float32",
    labels=("low", "middle", "high"),
    frontend=FrontEnd(),
    window=16000,
    input=QUANT,
    output=QUANT,
    counts=GraphCounts(0, 0, 0),
    temperature=2.0,
    provenance=Provenance("toy", "", "toy", "", "none", True, "0", "2026-01-01T00:00:00Z"),
)


class ToyModel:
    """Its logits are the mean log-mel of the lower, the middle and the upper third of the bands."""

    manifest = MANIFEST

    def logits(self, features: np.ndarray) -> np.ndarray:
        return np.stack([third.mean(axis=(1, 2)) for third in np.array_split(features, 3, axis=1)], axis=1)


def tone(samples: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 200.0 * np.arange(samples) / 16000)).astype(np.float32)


def raw(waveform: np.ndarray) -> bytes:
    return (waveform * 32767).astype("<i2").tobytes()


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    """Whether a condition becomes true within some seconds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def thread_ended(name: str) -> bool:
    """Whether no thread of this name runs within some seconds any more."""
    return eventually(lambda: all(thread.name != name for thread in threading.enumerate()))


def toy_listener(*arguments: object) -> list[str]:
    """A command that runs `edgekd listen --json` on the toy model."""
    return [sys.executable, __file__, "listen", "--model", "m.tflite", "--json", *map(str, arguments)]


def main() -> None:
    from edgekd import cli
    from edgekd.runtime import listen, replay

    listen.open_model = replay.open_model = lambda *_: ToyModel()
    cli.main()


if __name__ == "__main__":
    main()
