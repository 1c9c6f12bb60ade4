"""Does another machine compute the same logits? Replays kept cases there; needs only the base install and the engines.

    python tools/emulated_parity.py replay CASES MODEL...    CASES: the folder that emulated_cases.py wrote
    python tools/emulated_parity.py table RESULTS            RESULTS/SUITE/CPU/MODEL.verify, .parity: from `verify
    --json` and `replay`

`replay` runs windows one at a time, as a device does. Both print a table, then one JSON line; exit status 1 when logits
are more steps away than the engine may be, or another label is given for more than one window in a thousand.
`emulated_pi.sh` calls both.
"""

import sys
import time
import zipfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer

from edgekd.errors import EdgekdError, GateError, InputError
from edgekd.metrics.agreement import MAX_STEPS, agreement
from edgekd.modelfile.engine import Model, open_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

MIN_LABEL_AGREEMENT = 0.999
UINT8_SHIFT = 128
"""ONNX files hold int8 activations relabelled as uint8."""
VERIFY, PARITY = ".verify", ".parity"
"""Ends of the names of result files."""
NOTHING = "-"


class Parity(msgspec.Struct, frozen=True):
    """Replayed cases of a model file. against: what the kept logits come from. max_steps, differing, label_agreement:
    of the int8 logits (`Agreement`). cpu_s: processor seconds of the engine, under emulation those of the emulator."""

    model: str
    ok: bool
    engine: str
    windows: int
    against: str
    max_steps: float
    differing: float
    label_agreement: float
    cpu_s: float


class Verified(msgspec.Struct, frozen=True):
    """What is read of `verify --json`."""

    ok: bool
    features_max_error: float
    input_agreement: float
    engines: dict[str, dict[str, float]]


class Row(msgspec.Struct, frozen=True):
    """A model on a release and processor; null where it crashed, or where no parity run was asked for."""

    suite: str
    cpu: str
    model: str
    verify: Verified | None
    parity: Parity | None
    ok: bool


@app.command()
def replay(
    cases: Annotated[Path, typer.Argument(help="What emulated_cases.py wrote.")],
    models: Annotated[list[Path], typer.Argument(help="The same model files.")],
) -> None:
    """Run the kept inputs here and compare."""
    found = [_replay(cases / f"{path.name}.npz", path.name, open_model(path)) for path in models]
    _print_table(
        ["model", "engine", "windows", "max steps", "differing", "same label", "against"],
        [[each.model, each.engine, str(each.windows), *_figures(each), each.against] for each in found],
    )
    print(msgspec.json.encode(found).decode())
    failed = [f"{each.model} in {each.engine}" for each in found if not each.ok]
    if failed:
        raise GateError(f"other logits than those kept: {', '.join(failed)}")


@app.command()
def table(results: Annotated[Path, typer.Argument(help="Folder of results.")]) -> None:
    """Gather what emulated boards said."""
    rows = [_row(path) for path in sorted(results.glob(f"*/*/*{VERIFY}"))]
    if not rows:
        raise InputError(f"{results}: holds no SUITE/CPU/MODEL{VERIFY}; run emulated_pi.sh")
    _print_table(
        [
            "suite",
            "cpu",
            "engine",
            "model",
            "verify",
            "features off by",
            "windows",
            "max steps",
            "differing",
            "same label",
            "cpu s / 1000",
        ],
        [_cells(row) for row in rows],
    )
    errors = [row.verify.features_max_error for row in rows if row.verify]
    print(f"features: at most {max(errors, default=float('nan')):.2g} log units from those of the export")
    ok = all(row.ok for row in rows)
    print(msgspec.json.encode({"ok": ok, "features_max_error": max(errors, default=None), "rows": rows}).decode())
    if not ok:
        raise GateError("failed: " + "; ".join(f"{row.model} on {row.suite}, {row.cpu}" for row in rows if not row.ok))


def _replay(case: Path, name: str, model: Model) -> Parity:
    q, expected, against = _read(case, name)
    if model.input_quant.dtype == "uint8":
        q = (q.astype(np.int16) + UINT8_SHIFT).astype(np.uint8)
    began = time.process_time()
    got = (
        np.concatenate([model.run_quantized(window[None]) for window in q]).astype(np.int64)
        - model.manifest.output.zero_point
    )
    cpu_s = time.process_time() - began
    if got.shape != expected.shape:
        raise InputError(
            f"{case}: holds logits of shape {expected.shape}, {name} gives {got.shape}; make the cases again"
        )
    pair = agreement(expected, got)
    ok = pair.max_steps <= MAX_STEPS[model.engine] and pair.label_agreement >= MIN_LABEL_AGREEMENT
    return Parity(
        name, ok, model.engine, len(got), against, pair.max_steps, pair.differing, pair.label_agreement, round(cpu_s, 2)
    )


def _read(case: Path, name: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Kept input int8 (windows, mel, frame), logits in steps (windows, labels), and what they come from."""
    if not case.exists():
        raise InputError(f"{case.parent}: holds no cases of {name}; make them with emulated_cases.py")
    try:
        with case.open("rb") as file, np.load(file) as kept:
            return kept["input"], kept["steps"], str(kept["against"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{case}: cannot be read as cases ({error}); make them again") from None


def _row(verify: Path) -> Row:
    """Of the result files of a model on a release and processor."""
    name, cpu, suite = verify.name.removesuffix(VERIFY), verify.parent.name, verify.parent.parent.name
    verified = _last_line(verify, Verified)
    played = verify.with_name(name + PARITY)
    found = _last_line(played, list[Parity])
    parity = found[0] if found else None
    ok = verified is not None and verified.ok and (parity.ok if parity else not played.exists())
    return Row(suite, cpu, name, verified, parity, ok)


def _last_line(path: Path, kind: Any) -> Any:
    """The JSON at the end of a result; None of a process that crashed or did not run."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    try:
        return msgspec.json.decode(lines[-1], type=kind)
    except (IndexError, msgspec.DecodeError):
        return None


def _cells(row: Row) -> list[str]:
    engine = next(iter(row.verify.engines), NOTHING) if row.verify else NOTHING
    verdict = "crashed" if row.verify is None else "ok" if row.verify.ok else "differs"
    error = f"{row.verify.features_max_error:.1e}" if row.verify else NOTHING
    if row.parity is None:
        return [
            row.suite,
            row.cpu,
            engine,
            row.model,
            verdict,
            error,
            *[NOTHING if row.ok or verdict != "ok" else "crashed"] * 5,
        ]
    return [
        row.suite,
        row.cpu,
        engine,
        row.model,
        verdict,
        error,
        str(row.parity.windows),
        *_figures(row.parity),
        f"{1000 * row.parity.cpu_s / row.parity.windows:.1f}",
    ]


def _figures(parity: Parity) -> list[str]:
    return [f"{parity.max_steps:.0f}", f"{100 * parity.differing:.3f} %", f"{100 * parity.label_agreement:.2f} %"]


def _print_table(heads: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for line in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    try:
        app()
    except EdgekdError as error:
        print(f"emulated_parity: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
