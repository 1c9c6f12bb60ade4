"""Replays saved cases on another machine and compares the logits; needs only the base install and the engines.

    python tools/emulated_parity.py replay CASES MODEL...    CASES: the folder that emulated_cases.py wrote
    python tools/emulated_parity.py table RESULTS

RESULTS/SUITE/CPU/MODEL.verify and MODEL.parity are the outputs of `verify --json` and of `replay`, which runs one
window at a time, as a device does. Both commands print a table, then one JSON line; exit status 1 where logits differ
by more steps than the engine is allowed, or the label of more than one window in a thousand. `emulated_pi.sh` calls
both.
"""

import time
import zipfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from toolbox import NOTHING, run_tool

from edgekd.errors import GateError, InputError
from edgekd.metrics.agreement import MAX_STEPS, agreement
from edgekd.modelfile.engine import Model, open_model
from edgekd.text import columns

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

MIN_LABEL_AGREEMENT = 0.999
UINT8_SHIFT = 128
"""uint8 activations of ONNX files are int8 ones plus this."""
VERIFY, PARITY = ".verify", ".parity"
"""Suffixes of result files."""


class Parity(msgspec.Struct, frozen=True):
    """The comparison of one model file's cases.

    Attributes:
        against: origin of the saved logits.
        max_steps, differing, label_agreement: of the int8 logits, see `Agreement`.
        cpu_s: processor seconds of the engine; under emulation those of the emulator.
    """

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
    """The fields of `verify --json` that are used."""

    ok: bool
    features_max_error: float
    input_agreement: float
    engines: dict[str, dict[str, float]]


class Row(msgspec.Struct, frozen=True):
    """A model on a release and processor. verify, parity: None where it crashed or was not run."""

    suite: str
    cpu: str
    model: str
    verify: Verified | None
    parity: Parity | None
    ok: bool


@app.command()
def replay(
    cases: Annotated[Path, typer.Argument(help="The folder that emulated_cases.py wrote.")],
    models: Annotated[list[Path], typer.Argument(help="The same model files.")],
) -> None:
    """Run the saved inputs on this machine and compare the logits."""
    found = [_replay(cases / f"{path.name}.npz", path.name, open_model(path)) for path in models]
    header = ["model", "engine", "against", "windows", "max steps", "differing", "same label"]
    rows = [[each.model, each.engine, each.against, str(each.windows), *_figures(each)] for each in found]
    print("\n".join(columns(header, rows, left=3)))
    print(msgspec.json.encode(found).decode())
    failed = [f"{each.model} in {each.engine}" for each in found if not each.ok]
    if failed:
        raise GateError(f"other logits than those saved: {', '.join(failed)}")


@app.command()
def table(results: Annotated[Path, typer.Argument(help="Folder of results.")]) -> None:
    """Collect the results of emulated boards."""
    rows = [_row(path) for path in sorted(results.glob(f"*/*/*{VERIFY}"))]
    if not rows:
        raise InputError(f"{results}: holds no SUITE/CPU/MODEL{VERIFY}; run emulated_pi.sh")
    figures = ["features off by", "windows", "max steps", "differing", "same label", "cpu s / 1000"]
    print("\n".join(columns(["suite", "cpu", "engine", "model", "verify", *figures], map(_cells, rows), left=5)))
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
    """The saved input, int8 (windows, mel, frame), the logits in steps (windows, labels), and their origin."""
    if not case.exists():
        raise InputError(f"{case.parent}: holds no cases of {name}; make them with emulated_cases.py")
    try:
        with case.open("rb") as file, np.load(file) as saved:
            return saved["input"], saved["steps"], str(saved["against"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{case}: cannot be read as cases ({error}); make them again") from None


def _row(verify: Path) -> Row:
    """The row of a model on a release and processor, from its result files."""
    name, cpu, suite = verify.name.removesuffix(VERIFY), verify.parent.name, verify.parent.parent.name
    verified = _last_line(verify, Verified)
    replayed = verify.with_name(name + PARITY)
    found = _last_line(replayed, list[Parity])
    parity = found[0] if found else None
    ok = verified is not None and verified.ok and (parity.ok if parity else not replayed.exists())
    return Row(suite, cpu, name, verified, parity, ok)


def _last_line(path: Path, kind: Any) -> Any:
    """The JSON in the last line of a result file; None where the process crashed or did not run."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    try:
        return msgspec.json.decode(lines[-1], type=kind)
    except (IndexError, msgspec.DecodeError):
        return None


def _cells(row: Row) -> list[str]:
    engine = next(iter(row.verify.engines), NOTHING) if row.verify else NOTHING
    verdict = "crashed" if row.verify is None else "ok" if row.verify.ok else "differs"
    error = f"{row.verify.features_max_error:.1e}" if row.verify else NOTHING
    start = [row.suite, row.cpu, engine, row.model, verdict, error]
    if row.parity is None:
        return [*start, *[NOTHING if row.ok or verdict != "ok" else "crashed"] * 5]
    cpu_s = 1000 * row.parity.cpu_s / row.parity.windows
    return [*start, str(row.parity.windows), *_figures(row.parity), f"{cpu_s:.1f}"]


def _figures(parity: Parity) -> list[str]:
    return [f"{parity.max_steps:.0f}", f"{100 * parity.differing:.3f} %", f"{100 * parity.label_agreement:.2f} %"]


if __name__ == "__main__":
    run_tool(app)
