"""Gives mutated model files to everything that reads one, and reports what happened.

    python tools/fuzz_model_reader.py MODEL... [--mutations 100000] [--seed 0] [--keep DIR]

MODEL is any .tflite or .onnx file, with or without a manifest. Each mutation is read by `container.read_manifest`,
`read_graph`, `count_model`, `info`, `engine.open_model` (with one inference) and `verify`, in a worker process that is
forked from this one after all imports. A worker reads many mutations. When it dies or does not answer, that is
recorded, and a new worker continues with the next reader. A worker may use 512 MB: its address space is limited, its
resident memory is watched, and an error for lack of memory counts as too much memory.

Outcomes: ok; refused (an EdgekdError); and four failures: traceback (any other exception, or a warning), crashed (the
process died), hung, memory. Prints tables, then one JSON line; exit status 1 after a failure. `--keep` saves the files
that failed, and `--seed` with `--first` repeats a mutation. `--as-is` reads each file once, unchanged.

Longer than 400 lines because workers, mutations and outcomes only make sense together.
"""

import os

# a process with threads cannot be forked safely
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import collections
import json
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import ai_edge_litert.interpreter
import ai_edge_litert.schema_py_generated  # noqa: F401
import msgspec
import numpy as np
import onnx.shape_inference  # noqa: F401
import onnxruntime  # noqa: F401
import typer
from toolbox import run_tool

from edgekd.complexity.counts import count_model
from edgekd.errors import EdgekdError, InputError, nearest
from edgekd.modelfile import container
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.verify import verify
from edgekd.qgraph.read import read_graph
from edgekd.report.model_info import info
from edgekd.text import columns

MEGABYTE = 2**20
LIMIT_MB, BATCH = 512, 500
"""Megabytes of memory for a worker, and its mutations: so few that leaks do not matter for the last one."""
DONE_EARLY = 77
"""Exit status of a worker that asks for a new worker to continue."""
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Failed to allocate memory")
"""Texts of errors that are due to the memory limit: without it the engine would have used the memory."""
BAD = ("traceback", "crashed", "hung", "memory")
OUTCOMES = ("ok", "refused", *BAD)
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
HUGE_VARINT = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
ABSURD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31 - 1,
    2**53,
    2**63,
    -(2**63),
    1e308,
    -1e308,
    1e-308,
    "",
    "x" * 2**16,
    [],
    {},
    [[]],
)
DEPTH, BOMB_MB = 5000, 16

Rng = np.random.Generator


@dataclass(frozen=True)
class Source:
    """A file to mutate. content, manifest: its parts, where it has a manifest."""

    path: Path
    raw: bytes = b""
    content: bytes = b""
    manifest: bytes | None = None

    @property
    def suffix(self) -> str:
        """Suffix of the file, which names its format."""
        return self.path.suffix


def truncate(rng: Rng, raw: bytes, _: bytes) -> bytes:
    """Keep the beginning of a file, often nearly all of it."""
    size = (
        int(rng.integers(len(raw))) if rng.random() < 0.5 else len(raw) - int(rng.integers(1, min(len(raw), 4096) + 1))
    )
    return raw[:size]


def flip(rng: Rng, raw: bytes, _: bytes) -> bytes:
    """Flip a few bits."""
    data = bytearray(raw)
    for position in rng.integers(len(raw), size=rng.integers(1, 17)):
        data[position] ^= 1 << int(rng.integers(8))
    return bytes(data)


def overwrite(rng: Rng, raw: bytes, _: bytes) -> bytes:
    """Overwrite some bytes by random ones, or by one repeated byte."""
    start, size = int(rng.integers(len(raw))), int(rng.integers(1, 65))
    new = rng.bytes(size) if rng.random() < 0.5 else bytes([int(rng.integers(256))]) * size
    return raw[:start] + new + raw[start + size :]


def splice(rng: Rng, raw: bytes, other: bytes) -> bytes:
    """Copy a block of this or another file over, before, or in the place of a block."""
    donor = other if rng.random() < 0.5 else raw
    first, size = int(rng.integers(len(donor))), int(2 ** rng.uniform(2, 14))
    start, cut = int(rng.integers(len(raw))), int(2 ** rng.uniform(0, 14)) if rng.random() < 0.5 else size
    return raw[:start] + donor[first : first + size] + raw[start + cut :]


def number(rng: Rng, raw: bytes, _: bytes) -> bytes:
    """Set aligned 32-bit numbers, such as offsets and lengths of a flatbuffer, to extreme values or to backward
    offsets."""
    data = bytearray(raw)
    reach = len(raw) if rng.random() < 0.5 else min(len(raw), 2**14)  # tables are before the weights, or after them
    for position in 4 * rng.integers(max(1, reach // 4), size=rng.integers(1, 5)):
        back = -int(rng.integers(position + 1)) // 4 * 4
        values = int(rng.choice(EXTREMES)), back & 0xFFFFFFFF, int(rng.integers(len(raw)))
        value = values[int(rng.integers(len(values)))]
        data[position : position + 4] = value.to_bytes(4, "little")
    return bytes(data)


def varint(rng: Rng, raw: bytes, _: bytes) -> bytes:
    """Insert a huge number of protobuf."""
    start = int(rng.integers(len(raw)))
    return raw[:start] + HUGE_VARINT[int(rng.integers(len(HUGE_VARINT))) :] + raw[start + int(rng.integers(3)) :]


BYTES: dict[str, Callable[[Rng, bytes, bytes], bytes]] = {
    "truncate": truncate,
    "flip": flip,
    "overwrite": overwrite,
    "splice": splice,
    "number": number,
    "varint": varint,
}
"""Mutations of bytes: (generator, file, another file) -> bytes."""


def garbled_manifest(rng: Rng, source: Source) -> bytes:
    """Replace values of the manifest by absurd ones, or mutate its bytes; the digest is correct."""
    assert source.manifest is not None
    if rng.random() < 0.2:
        encoded = BYTES[str(rng.choice(list(BYTES)))](rng, source.manifest, source.manifest)
    elif rng.random() < 0.1:
        encoded = b'{"labels":' + b"[" * DEPTH + b"]" * DEPTH + b"}"
    else:
        document = json.loads(source.manifest)
        for _ in range(int(rng.integers(1, 4))):
            table, key = _random_entry(rng, document)
            table[key] = ABSURD[int(rng.integers(len(ABSURD)))]
        encoded = json.dumps(document).encode()
    return container.sealed(source.suffix, source.content, encoded)


def resealed(rng: Rng, source: Source) -> bytes:
    """Mutate the model and correct the digest, so that only the engine and its checks can refuse it."""
    assert source.manifest is not None
    kind = str(rng.choice(list(BYTES)))
    return container.sealed(source.suffix, BYTES[kind](rng, source.content, source.content), source.manifest)


def bomb(rng: Rng, source: Source) -> bytes:
    """Add metadata that unpack to many bytes, or thousands of entries."""
    if source.suffix == ".onnx":
        entry = container.metadata({container.MANIFEST_KEY: b"{" * int(rng.choice([0, 1, 2**16, 5 * MEGABYTE]))})
        return source.content + entry * (1 if len(entry) > MEGABYTE else 1000)
    with tempfile.TemporaryFile() as file:
        file.write(source.content)
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED) as archive:
            if rng.random() < 0.5:
                archive.writestr(container.MANIFEST_KEY, b" " * (BOMB_MB if archive.compression else 1) * MEGABYTE)
            else:
                for index in range(3000):
                    archive.writestr(zipfile.ZipInfo(str(index)), b"")
        file.seek(0)
        raw = bytearray(file.read())
    # a wrong size or offset in the directory
    for position in (raw.rfind(b"PK\x01\x02"), raw.rfind(b"PK\x05\x06")):
        if rng.random() < 0.5:
            start = position + 4 * int(rng.integers(1, 6))
            raw[start : start + 4] = int(rng.choice(EXTREMES)).to_bytes(4, "little")
    return bytes(raw)


STRUCTURED: dict[str, Callable[[Rng, Source], bytes]] = {
    "manifest": garbled_manifest,
    "resealed": resealed,
    "bomb": bomb,
}
"""Mutations that use the structure of the container: (generator, source) -> bytes."""
NEED_MANIFEST = ("manifest", "resealed")


def _random_entry(rng: Rng, document: Any) -> tuple[Any, Any]:
    """A random table or list of a JSON document, and a key in it."""
    entries = []
    waiting = [document]
    while waiting:
        table = waiting.pop()
        for key in table if isinstance(table, dict) else range(len(table)):
            entries.append((table, key))
            if isinstance(table[key], dict | list):
                waiting.append(table[key])
    return entries[int(rng.integers(len(entries)))]


@dataclass(frozen=True)
class Plan:
    """Determines every mutation. kinds: keys of `BYTES` and `STRUCTURED`; without any, mutation n is source n,
    unchanged."""

    sources: Sequence[Source]
    seed: int
    kinds: Sequence[str]


def mutation(plan: Plan, index: int) -> tuple[str, str, bytes]:
    """The kind of mutation number `index`, the suffix of the file, and its bytes."""
    if not plan.kinds:
        return "as it is", plan.sources[index].suffix, plan.sources[index].path.read_bytes()
    rng = np.random.default_rng([plan.seed, index])
    sources = plan.sources
    kind = plan.kinds[int(rng.integers(len(plan.kinds)))]
    if kind in NEED_MANIFEST:
        sources = [source for source in sources if source.manifest is not None]
    source = sources[int(rng.integers(len(sources)))]
    if kind in STRUCTURED:
        return kind, source.suffix, STRUCTURED[kind](rng, source)
    raw = source.raw
    for _ in range(1 if rng.random() < 0.7 else 2):
        raw = BYTES[kind](rng, raw, sources[int(rng.integers(len(sources)))].raw) or b"\0"
    return kind, source.suffix, raw


def _run(path: Path) -> None:
    """Open a model and classify a window of zeros."""
    model = open_model(path)
    manifest = model.manifest
    model.logits(np.zeros((1, manifest.frontend.n_mels, manifest.frontend.frames(manifest.window)), np.float32))


READERS: dict[str, Callable[[Path], object]] = {
    "read_manifest": container.read_manifest,
    "graph": read_graph,
    "count": count_model,
    "info": lambda path: info(path, False),
    "open": _run,
    "verify": verify,
}


@dataclass(frozen=True)
class Event:
    """The outcome of one reader for one mutation."""

    index: int
    reader: str
    outcome: str
    kind: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0
    detail: str = ""


def _work(plan: Plan, todo: Sequence[tuple[int, str]], folder: Path, out: int) -> None:
    """Run in a worker: read each mutation by each reader and write one JSON line on each."""
    sizes = _status("VmSize:"), _status("VmRSS:")
    limit = int((sizes[0] - sizes[1] + LIMIT_MB) * MEGABYTE)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    current = -1
    for index, reader in todo:
        if index != current:
            kind, suffix, raw = mutation(plan, index)
            path = folder / f"mutation{suffix}"
            path.write_bytes(raw)
            current = index
            del raw
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory
        began, outcome, detail = time.monotonic(), "ok", ""
        try:
            READERS[reader](path)
        except EdgekdError as error:
            outcome, detail = ("memory" if any(sign in str(error) for sign in OUT_OF_MEMORY) else "refused"), str(error)
        except MemoryError as error:
            outcome, detail = "memory", repr(error)
        except Exception as error:
            outcome, detail = "traceback", repr(error)
        peak = _status("VmHWM:")
        if peak > LIMIT_MB:
            outcome, detail = "memory", f"{peak:.0f} MB resident"
        line = json.dumps(
            [
                index,
                reader,
                outcome,
                kind,
                round(time.monotonic() - began, 4),
                round(peak, 1),
                "" if outcome in ("ok", "refused") else detail,
            ]
        )
        os.write(out, line.encode(errors="replace") + b"\n")
        if outcome == "memory":  # the next mutation would be charged for its leftovers
            os._exit(DONE_EARLY)


def _status(field: str) -> float:
    """A field of this process's status, in MiB."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def events(plan: Plan, indices: range, timeout_s: float) -> Iterator[Event]:
    """The events of all readers for all mutations, in order, also where workers die."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        for start in range(indices.start, indices.stop, BATCH):
            todo = [(index, reader) for index in range(start, min(start + BATCH, indices.stop)) for reader in READERS]
            while todo:
                for event in _one_worker(plan, todo, Path(name), timeout_s):
                    yield event
                    todo = todo[1:]


def _one_worker(plan: Plan, todo: Sequence[tuple[int, str]], folder: Path, timeout_s: float) -> Iterator[Event]:
    """Events of one worker until it is done, dies or is killed; the last event names the latter two."""
    incoming, outgoing = os.pipe()
    worker = os.fork()
    if worker == 0:
        status = 1
        try:
            os.close(incoming)
            _work(plan, todo, folder, outgoing)
            status = 0
        finally:
            os._exit(status)
    os.close(outgoing)
    done, pending, hung = 0, b"", False
    with suppress(ProcessLookupError):
        while True:
            ready, _, _ = select.select([incoming], [], [], timeout_s)
            chunk = os.read(incoming, 65536) if ready else b""
            if not chunk:
                hung = not ready
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                yield Event(*json.loads(line))
                done += 1
        if hung:
            os.kill(worker, signal.SIGKILL)
    os.close(incoming)
    _, status = os.waitpid(worker, 0)
    if done < len(todo):
        index, reader = todo[done]
        code = os.waitstatus_to_exitcode(status)
        if code == DONE_EARLY:
            return
        yield Event(
            index,
            reader,
            "hung" if hung else "crashed",
            mutation(plan, index)[0],
            detail=(
                f"silent for {timeout_s} s"
                if hung
                else signal.Signals(-code).name
                if code < 0
                else f"exit status {code}"
            ),
        )


def load(path: Path) -> Source:
    """Read a file and, where it has a manifest, its parts."""
    raw = container.read_bytes(path)
    file = container.split(path, raw)
    return (
        Source(path, raw, raw) if file is None else Source(path, raw, file.content, msgspec.json.encode(file.manifest))
    )


def main(
    models: Annotated[list[Path], typer.Argument(help="Files to mutate.")],
    mutations: Annotated[int, typer.Option(min=1, help="How many.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other mutations.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Number of the first mutation.")] = 0,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which a reader without an answer counts as hung.")
    ] = 20.0,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind of mutation; repeatable.")] = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="Read each file once, unchanged.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Folder for files that failed.")] = None,
) -> None:
    """Fuzz the readers of model files."""
    known = [*BYTES, *STRUCTURED]
    for name in {*(kind or ())} - {*known}:
        raise InputError(f"--kind: '{name}' is unknown{nearest(name, known)}")
    sources = [Source(path) if as_is else load(path) for path in models]
    sealed = any(source.manifest is not None for source in sources)
    kinds_used = [name for name in kind or known if sealed or name not in NEED_MANIFEST]
    if not kinds_used:
        raise InputError(f"--kind {kind}: needs a MODEL with a manifest; give one that 'edgekd export' wrote")
    plan = Plan(sources, seed, () if as_is else kinds_used)
    first, mutations = (0, len(sources)) if as_is else (first, mutations)
    counts = {reader: collections.Counter[str]() for reader in READERS}
    kinds, bad = collections.Counter[str](), list[Event]()
    slowest = largest = Event(0, "", "ok")
    began = time.monotonic()
    for event in events(plan, range(first, first + mutations), timeout):
        counts[event.reader][event.outcome] += 1
        kinds[event.kind] += event.reader == "count"
        slowest, largest = (
            max(slowest, event, key=lambda each: each.seconds),
            max(largest, event, key=lambda each: each.peak_mb),
        )
        if event.outcome in BAD:
            bad.append(event)
            if len(bad) <= 50:  # more lines would not help
                print(
                    f"{event.index} ({event.kind}): {event.reader} {event.outcome}: {event.detail}",
                    file=sys.stderr,
                    flush=True,
                )
            if keep is not None:
                _, suffix, raw = mutation(plan, event.index)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{event.index}-{event.kind}-{event.reader}-{event.outcome}{suffix}").write_bytes(raw)
    rows = ([reader, *(f"{found[outcome]:,}" for outcome in OUTCOMES)] for reader, found in counts.items())
    print("\n".join(columns(["", *OUTCOMES], rows)))
    print(", ".join(f"{kind} {number:,}" for kind, number in sorted(kinds.items())))
    print(
        f"slowest: {slowest.seconds:.2f} s, {slowest.reader} of {slowest.index}; most memory: {largest.peak_mb:.0f} MB"
        f" resident, {largest.reader} of {largest.index}"
    )
    print(
        json.dumps(
            {
                "mutations": mutations,
                "seed": seed,
                "first": first,
                "files": [path.name for path in models],
                "seconds": round(time.monotonic() - began, 1),
                "bad": len(bad),
                "slowest_s": slowest.seconds,
                "peak_mb": largest.peak_mb,
                "readers": counts,
                "kinds": kinds,
            }
        )
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    run_tool(main)
