"""`edgekd bench`: times of model files in their engines, stage by stage, all files interleaved in one run.

Stages, each on one window of seeded noise, batch 1: the front end (`log_mel` of a whole window), the network
(`run_quantized` on quantised features), and the pipeline (from a waveform to a decision: both, with quantisation and
softmax). Interleaving exposes all files to the same disturbances. The processor time of the calling thread is the
steadier figure on a busy machine.

The network is timed twice. Between front ends its weights have left the nearest caches, as on a device; back to back,
as in the engines' own benchmarks, they stay there. Start-up time and resident memory are those of fresh interpreters
that do what a device does: import, open the file, classify one window.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd import rounding
from edgekd.errors import InputError
from edgekd.frontend import log_mel
from edgekd.modelfile.engine import CPU_INFO, FLOAT, Model, open_model
from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import decide
from edgekd.text import columns, counted

PATTERNS = ("*.int8.tflite", "*.float.tflite", "*.int8.onnx", "*.float.onnx")
"""Files that are timed where a folder is given."""
REPEATS = 300
WARM_UP = 20
BURST, BURST_WARM_UP = 50, 10
"""Calls of one network back to back, and calls before them that are not counted; bursts of the files alternate."""
STARTS = 3
"""Fresh interpreters per file; the median of their times is reported."""
START_TIMEOUT_S = 120
NOISE_SEED = 0
NOISE_LEVEL = 0.1
"""Standard deviation of the waveform, 1 being full scale."""
TOP = 3
"""Labels in the decision at the end of the pipeline, as in `edgekd listen`."""
PROC_STATUS, RESIDENT = Path("/proc/self/status"), "VmRSS:"
EXTENSIONS = frozenset({"avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp", "i8mm"})
"""Extensions of instruction sets that decide the speed of int8."""
CHILD = (
    "import sys; from edgekd.evaluation.bench import first_logits; print(first_logits(sys.argv[1], sys.argv[2],"
    " int(sys.argv[3])))"
)


class StageTimes(msgspec.Struct, frozen=True):
    """Percentiles of one stage in milliseconds: wall clock, and processor time of the calling thread, which is a part
    where the engine has several threads."""

    p50: float
    p95: float
    cpu_p50: float
    cpu_p95: float


class Benchmark(msgspec.Struct, frozen=True):
    """`bench --json` of one file: fields may be added, never renamed.

    rss_mb: resident megabytes (10^6 bytes) of a fresh process after its first decision, null where the system does not
    give it. start_s: seconds from the start of such a process to its first logits. network_warm_ms: of the network back
    to back. of_float, of_float_warm: p50 of `network_ms` and `network_warm_ms` over that of the float twin in the same
    run, null without one.
    """

    model: str
    engine: str
    threads: int
    precision: str
    frontend_ms: StageTimes
    network_ms: StageTimes
    network_warm_ms: StageTimes
    pipeline_ms: StageTimes
    of_float: float | None
    of_float_warm: float | None
    rss_mb: float | None
    start_s: float
    repeats: int
    machine: str


def bench(
    models: Sequence[Path], *, engine: str | None = None, threads: int = 1, repeats: int = REPEATS
) -> list[Benchmark]:
    """Time model files against each other.

    Args:
        models: files with manifests; a folder stands for its exported files (`PATTERNS`).
        engine: a key of `engine.ENGINES`; None chooses by the file.
        threads: of the engine.
        repeats: number of turns; in each turn every file runs every stage once.

    Returns:
        One benchmark per file, in the order given.

    Raises:
        InputError: a file that cannot be opened, a folder without one, a number that is not positive.
        MissingExtraError: an engine is not installed.
    """
    if repeats < 1:
        raise InputError(f"--repeats is {repeats}; it must be at least 1")
    paths = [path for each in models for path in (_inside(each) if each.is_dir() else [each])]
    opened = [open_model(path, engine, threads) for path in paths]
    starts = [start(path, model.engine, threads) for path, model in zip(paths, opened, strict=True)]
    stages = [stages_of(model) for model in opened]
    times, warm = interleaved_times(stages, repeats), burst_times([each["network"] for each in stages], repeats)
    machine_name = machine()
    twins = {
        (model.manifest.name, model.engine): (each["network"].p50, burst.p50)
        for model, each, burst in zip(opened, times, warm, strict=True)
        if model.manifest.precision == "float"
    }
    results = []
    for path, model, each, burst, (start_s, rss_mb) in zip(paths, opened, times, warm, starts, strict=True):
        twin = None if model.manifest.precision == "float" else twins.get((model.manifest.name, model.engine))
        results.append(
            Benchmark(
                model=str(path),
                engine=model.engine,
                threads=threads,
                precision=model.manifest.precision,
                frontend_ms=each["frontend"],
                network_ms=each["network"],
                network_warm_ms=burst,
                pipeline_ms=each["pipeline"],
                of_float=None if twin is None else round(each["network"].p50 / twin[0], 3),
                of_float_warm=None if twin is None else round(burst.p50 / twin[1], 3),
                rss_mb=rss_mb,
                start_s=start_s,
                repeats=repeats,
                machine=machine_name,
            )
        )
    return results


def to_json(results: Sequence[Benchmark]) -> str:
    """One JSON document: an object for one file, a list for several."""
    document = results[0] if len(results) == 1 else list(results)
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def to_text(results: Sequence[Benchmark]) -> str:
    """A table of milliseconds, one row per file."""
    first = results[0]
    head = (
        f"{first.machine}; {counted(first.threads, 'thread')}, batch 1,"
        f" {counted(first.repeats, 'interleaved turn')}; milliseconds"
    )
    stages = [f"{stage} p50" for stage in ("network", "warm", "frontend", "pipeline")]
    header = ["", "engine", *(title for stage in stages for title in (stage, "p95", "cpu p50"))]
    return "\n".join(
        [
            head,
            *columns(
                [*header, "of float", "warm", "rss MB", "start s"],
                [[Path(result.model).name, result.engine, *_cells(result)] for result in results],
                left=2,
            ),
        ]
    )


def _cells(result: Benchmark) -> list[str]:
    times = [result.network_ms, result.network_warm_ms, result.frontend_ms, result.pipeline_ms]
    return [
        *(f"{value:.3f}" for each in times for value in (each.p50, each.p95, each.cpu_p50)),
        _shown(result.of_float, ".2f"),
        _shown(result.of_float_warm, ".2f"),
        _shown(result.rss_mb, ".1f"),
        f"{result.start_s:.2f}",
    ]


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def start(path: Path, engine: str, threads: int) -> tuple[float, float | None]:
    """Seconds from the start of a fresh process to its first logits, and its resident megabytes; medians of `STARTS`.

    Raises:
        InputError: the process fails or times out.
    """
    seconds, resident = [], []
    command = [sys.executable, "-P", "-c", CHILD, str(path), engine, str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # the same edgekd as here
    for _ in range(STARTS):
        began = time.monotonic()  # one clock for all processes
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=START_TIMEOUT_S, env=environment
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            reason = str(error.stderr or error).strip().rpartition("\n")[2]
            raise InputError(
                f"{path}: a fresh process cannot run this model ({reason}); open it with 'edgekd info'"
            ) from None
        found = json.loads(done.stdout)
        seconds.append(found["ready"] - began)
        if found["rss_mb"] is not None:
            resident.append(found["rss_mb"])
    return round(float(np.median(seconds)), 4), round(float(np.median(resident)), 1) if resident else None


def first_logits(path: str, engine: str, threads: int) -> str:
    """The work of the fresh process of `start`: classify one window. JSON with "ready", the `time.monotonic` of its
    logits, and "rss_mb", the resident megabytes after a run of all stages."""
    model = open_model(path, engine, threads)
    model.logits(log_mel(model.manifest.frontend, _noise(model.manifest))[None])
    ready = time.monotonic()
    for stage in stages_of(model).values():
        stage()
    return json.dumps({"ready": ready, "rss_mb": _resident_mb()})


def machine() -> str:
    """Name of the board or processor, and those of its `EXTENSIONS`."""
    fields: dict[str, str] = {}
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                fields[key.strip()] = value.strip()
    name = fields.get("model name") or fields.get("Model") or platform.machine()
    found = EXTENSIONS & {*fields.get("flags", "").split(), *fields.get("Features", "").split()}
    return f"{name} ({', '.join(sorted(found)) or 'no known extension'})"


def _inside(folder: Path) -> list[Path]:
    paths = [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]
    if not paths:
        raise InputError(
            f"{folder} holds no {' or '.join(PATTERNS)}; fill it with 'edgekd export RUN --int8 --out {folder}' and"
            " --float"
        )
    return paths


def _noise(manifest: Manifest) -> NDArray[np.float32]:
    """One window of seeded noise, float32 (time,)."""
    return np.float32(NOISE_LEVEL) * np.random.default_rng(NOISE_SEED).standard_normal(manifest.window, np.float32)


def stages_of(model: Model) -> dict[str, Callable[[], object]]:
    """Stage -> what is timed, for one file."""
    manifest, source, waveform = model.manifest, model.manifest.input, _noise(model.manifest)
    top = min(TOP, len(manifest.labels))
    features = log_mel(manifest.frontend, waveform)[None]  # (1, mel, frame)
    q: NDArray[np.generic] = features
    if source.dtype != FLOAT:
        q = rounding.quantize(features, source.scale, source.zero_point, source.dtype)

    def pipeline() -> object:
        logits = model.logits(log_mel(manifest.frontend, waveform)[None])[0]
        return decide(logits, manifest.labels, manifest.temperature, top, t=0.0, rms=NOISE_LEVEL)

    return {
        "frontend": lambda: log_mel(manifest.frontend, waveform),
        "network": lambda: model.run_quantized(q),
        "pipeline": pipeline,
    }


def interleaved_times(stages: Sequence[dict[str, Callable[[], object]]], repeats: int) -> list[dict[str, StageTimes]]:
    """Times of every stage of every file, run once a turn; the first `WARM_UP` turns are not counted."""
    taken: list[dict[str, list[tuple[float, float]]]] = [{name: [] for name in each} for each in stages]
    for turn in range(-WARM_UP, repeats):
        for each, kept in zip(stages, taken, strict=True):
            for name, work in each.items():
                pair = _timed(work)
                if turn >= 0:
                    kept[name].append(pair)
    return [{name: _times(pairs) for name, pairs in kept.items()} for kept in taken]


def burst_times(networks: Sequence[Callable[[], object]], repeats: int) -> list[StageTimes]:
    """Times of each network alone, back to back, in alternating bursts of `BURST` calls."""
    taken: list[list[tuple[float, float]]] = [[] for _ in networks]
    for done in range(0, repeats, BURST):
        for work, kept in zip(networks, taken, strict=True):
            for _ in range(BURST_WARM_UP):
                work()
            kept += [_timed(work) for _ in range(min(BURST, repeats - done))]
    return [_times(pairs) for pairs in taken]


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call: wall clock, processor time of this thread."""
    began, began_cpu = time.perf_counter(), time.thread_time()
    work()
    cpu = time.thread_time() - began_cpu
    return time.perf_counter() - began, cpu


def _times(pairs: Sequence[tuple[float, float]]) -> StageTimes:
    wall, cpu = 1e3 * np.array(pairs).T
    return StageTimes(*(round(float(np.percentile(values, share)), 4) for values in (wall, cpu) for share in (50, 95)))


def _resident_mb() -> float | None:
    """Resident megabytes of this process, None where the system does not give them."""
    if not PROC_STATUS.exists():
        return None
    fields = dict(line.split(maxsplit=1) for line in PROC_STATUS.read_text().splitlines() if line.startswith(RESIDENT))
    return 1024 * int(fields[RESIDENT].split()[0]) / 1e6
