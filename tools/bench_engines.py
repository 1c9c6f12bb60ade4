"""Times exported files in their engines: one thread, batch 1, interleaved, so that all of them meet the same disturbances.

    python tools/bench_engines.py MODEL_DIR [--repeats 1000]
    python tools/bench_engines.py a.int8.tflite a.float.onnx

A folder stands for its *.int8.tflite, *.float.tflite, *.int8.onnx and *.float.onnx. The features are seeded noise, quantised
beforehand; a figure is one `run_quantized` call. Wall clock, and processor time of the thread, which is steadier on a busy
machine. Prints a table, then one JSON line.
"""

import platform
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from edgekd import rounding
from edgekd.engine import FLOAT, Model, open_model
from edgekd.errors import EdgekdError, InputError

PATTERNS = ("*.int8.tflite", "*.float.tflite", "*.int8.onnx", "*.float.onnx")
WARM_UP = 20


def main(
    models: Annotated[list[Path], typer.Argument(help="Folders of exported files, or files.")],
    repeats: Annotated[int, typer.Option(min=1, help="Inferences per file.")] = 1000,
) -> None:
    """Compare the latency of exported files."""
    paths = [path for each in models for path in (_inside(each) if each.is_dir() else [each])]
    opened = [open_model(path) for path in paths]
    inputs = [_noise(model) for model in opened]
    wall, processor = np.zeros((2, len(paths), repeats))  # ms
    for turn in range(-WARM_UP, repeats):
        for index, (model, q) in enumerate(zip(opened, inputs, strict=True)):
            began, began_processor = time.perf_counter(), time.thread_time()
            model.run_quantized(q)
            if turn >= 0:
                processor[index, turn] = 1e3 * (time.thread_time() - began_processor)
                wall[index, turn] = 1e3 * (time.perf_counter() - began)
    rows = {path.name: {"engine": model.engine, "p50_ms": _percentile(times, 50), "p95_ms": _percentile(times, 95),
                        "processor_p50_ms": _percentile(used, 50)}
            for path, model, times, used in zip(paths, opened, wall, processor, strict=True)}
    width = max(map(len, rows))
    print(f"{'':{width}}  {'engine':<12}{'p50 ms':>9}{'p95 ms':>9}{'processor p50 ms':>18}")
    for name, row in rows.items():
        print(f"{name:{width}}  {row['engine']:<12}{row['p50_ms']:9.3f}{row['p95_ms']:9.3f}{row['processor_p50_ms']:18.3f}")
    print(msgspec.json.encode({"machine": _machine(), "threads": 1, "batch": 1, "repeats": repeats, "models": rows}).decode())


def _inside(folder: Path) -> list[Path]:
    paths = [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]
    if not paths:
        raise InputError(f"{folder} holds no {' or '.join(PATTERNS)}; fill it with 'edgekd export RUN --int8 --out {folder}' and --float")
    return paths


def _noise(model: Model) -> np.ndarray:
    """(1, mel, frame) in the type that the file reads."""
    manifest = model.manifest
    shape = 1, manifest.frontend.n_mels, manifest.frontend.frames(manifest.window)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    source = manifest.input
    return noise if source.dtype == FLOAT else rounding.quantize(noise, source.scale, source.zero_point, source.dtype)


def _percentile(times: np.ndarray, share: float) -> float:
    return round(float(np.percentile(times, share)), 4)


def _machine() -> str:
    """Processor and what of its instruction set decides the speed of int8."""
    cpuinfo = Path("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line) if cpuinfo.exists() else {}
    known = {key.strip(): value.split() for key, value in fields.items()}
    extensions = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm"} & {*known.get("flags", []), *known.get("Features", [])}
    return f"{' '.join(known.get('model name', [platform.machine()]))} ({', '.join(sorted(extensions)) or 'no known extension'})"


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        print(f"bench_engines: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
