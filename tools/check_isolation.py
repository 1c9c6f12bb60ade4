"""Imports all modules that a device or a CI gate needs, with training frameworks blocked, and times `import edgekd`.

Usage: python tools/check_isolation.py [--base-only] [--no-timing]

`--base-only` also blocks every optional package, as on a machine with the base install only: optional packages must be
imported in the functions that use them, or in the modules of `EXTRA_MODULES`. Exits 1 and names the module on the first
failure.
"""

import argparse
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

TRAINING = frozenset({"torch", "brevitas", "lightning", "pytorch_lightning", "tensorflow"})
OPTIONAL = frozenset(
    {
        "ai_edge_litert",
        "tflite_runtime",
        "onnxruntime",
        "onnx",
        "flatbuffers",
        "google",
        "soundfile",
        "soxr",
        "sounddevice",
        "sklearn",
        "scipy",
        "matplotlib",
        "tensorboard",
        "torchmetrics",
        "ptflops",
        "paho",
        "pooch",
        "requests",
        "yaml",
        "codecarbon",
        "starlette",
        "uvicorn",
        "prometheus_client",
        "httpx",
    }
)
TORCH_PACKAGES = ("edgekd.models", "edgekd.quant", "edgekd.train", "edgekd.export", "edgekd.experiments")
TORCH_MODULES = (
    "edgekd.data.audio.augment",
    "edgekd.dcase.adapt",
    "edgekd.dcase.inference_module",
    "edgekd.dcase.onnx_module",
    "edgekd.dcase.package",
    "edgekd.demo",
)
TORCH_FREE_MODULES = ("edgekd.export.card",)
"""Modules of these packages that must not import torch: `edgekd info --card` needs them."""
EXTRA_MODULES = tuple(f"edgekd.runtime.outputs.web.{name}" for name in ("application", "prometheus", "server", "web"))
"""Modules that are made of an extra's packages. One function imports them, with an error that names the extra."""
IMPORT_SECONDS = 0.15
"""Longest time for importing edgekd and its command line, numpy not included."""
TIMING_RUNS = 5


class Blocker:
    """An import finder that reports some top-level packages as not installed."""

    def __init__(self, blocked: frozenset[str]) -> None:
        self.blocked = blocked

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise for a blocked package; None lets other finders find the others."""
        del path, target
        if name.split(".", maxsplit=1)[0] in self.blocked:
            raise ModuleNotFoundError(f"No module named '{name}' (blocked)", name=name)
        return None


def torch_free_modules() -> list[str]:
    """Names of every module that must import without a training framework."""
    package = importlib.import_module("edgekd")
    found = [module.name for module in pkgutil.walk_packages(package.__path__, "edgekd.", onerror=lambda _: None)]
    torch = (*TORCH_PACKAGES, *TORCH_MODULES)
    found = [
        name
        for name in found
        if name in TORCH_FREE_MODULES or not any(name == each or name.startswith(f"{each}.") for each in torch)
    ]
    return sorted(found)


def import_seconds() -> float:
    """Seconds of `import edgekd, edgekd.cli` after numpy, the least of a few fresh interpreters."""
    code = (
        "import numpy, time; start = time.perf_counter(); import edgekd, edgekd.cli; print(time.perf_counter() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(TIMING_RUNS)
    ]
    return min(float(run.stdout) for run in runs)


def main() -> None:
    """Block, import, time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-only", action="store_true", help="block every optional package too")
    parser.add_argument("--no-timing", action="store_true", help="do not time the import: for machines that are busy")
    options = parser.parse_args()
    blocked = TRAINING | OPTIONAL if options.base_only else TRAINING
    sys.meta_path.insert(0, Blocker(blocked))  # type: ignore[arg-type]
    modules = [name for name in torch_free_modules() if not (options.base_only and name in EXTRA_MODULES)]
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise SystemExit(f"{name}: {error}; import optional packages inside the function that uses them") from None
    loaded = sorted(blocked & {name.split(".")[0] for name in sys.modules})
    if loaded:
        raise SystemExit(f"imported although blocked: {', '.join(loaded)}")
    print(f"isolation ok: {len(modules)} modules without {', '.join(sorted(blocked))}")
    if not options.no_timing:
        seconds = import_seconds()
        print(f"import edgekd: {seconds:.3f} s beyond numpy")
        if seconds > IMPORT_SECONDS:
            raise SystemExit(f"importing edgekd takes {seconds:.3f} s beyond numpy, more than {IMPORT_SECONDS} s")


if __name__ == "__main__":
    main()
