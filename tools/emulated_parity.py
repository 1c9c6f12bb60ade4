"""Does another machine compute the same logits? Cases made on one machine, replayed on another; only the base install and the engines.

    python tools/emulated_parity.py make MODEL... --out CASES.npz [--windows 500] [--data STORE --split fold4 --hop 0.5]
    python tools/emulated_parity.py replay CASES.npz MODEL...

`make` keeps the quantised input of windows, of golden waveforms or of a store, and the logits that this machine's engines give for it.
`replay` runs the same input on the machine at hand, prints a table, then one JSON line; exit status 1 when an engine is more steps away
than it may be, or gives another label for more than one window in a thousand. `emulated_pi.sh` calls both.
"""

import sys
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from edgekd import rounding
from edgekd.data.store import ClipStore, windows
from edgekd.engine import FLOAT, Model, open_model
from edgekd.errors import EdgekdError, GateError, InputError
from edgekd.evaluate.agreement import MAX_STEPS, agreement
from edgekd.evaluate.inference import hop_samples
from edgekd.frontend import log_mel
from edgekd.golden import waveform

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

FIRST_SEED = 1000
"""Of golden waveforms; those that travel in model files have smaller ones."""
MIN_LABEL_AGREEMENT = 0.999
BATCH = 64


@app.command()
def make(
    models: Annotated[list[Path], typer.Argument(help="int8 model files; their names must differ.")],
    out: Annotated[Path, typer.Option(help="The file of cases to write.")],
    count: Annotated[int, typer.Option("--windows", min=1, help="Windows per model, or as many as the store has.")] = 500,
    data: Annotated[Path | None, typer.Option(help="A clip store; golden waveforms by default.")] = None,
    split: Annotated[str | None, typer.Option(help="Of the store; all clips by default.")] = None,
    hop: Annotated[float, typer.Option(help="Seconds between windows of a clip.")] = 0.5,
) -> None:
    """Keep inputs and this machine's logits."""
    cases = {}
    for path in models:
        model = open_model(path)
        if model.input_quant.dtype == FLOAT:
            raise InputError(f"{path}: a float model; give int8 ones")
        found = _golden(model) if data is None else _stored(model, ClipStore.open(data), split, hop)
        waveforms, inputs, source = islice(found, count), [], model.input_quant
        while batch := list(islice(waveforms, BATCH)):
            features = log_mel(model.manifest.frontend, np.stack(batch))
            inputs.append(rounding.quantize(features, source.scale, source.zero_point, source.dtype))
        if not inputs:
            raise InputError(f"{data}: holds no window of {path}'s length in split {split}")
        q = np.concatenate(inputs)  # (windows, mel, frame)
        cases[f"{path.name}/input"], cases[f"{path.name}/logits"] = q, model.run_quantized(q)
    np.savez(out, **cases)
    print(f"{out}: {len(models)} models, {len(q)} windows each")


@app.command()
def replay(
    cases: Annotated[Path, typer.Argument(help="What 'make' wrote.")],
    models: Annotated[list[Path], typer.Argument(help="The same model files.")],
) -> None:
    """Run the kept inputs here and compare."""
    found, failures = {}, []
    for path in models:
        model = open_model(path)
        q, expected = _read(cases, path.name)
        got = model.run_quantized(q)
        pair = agreement(expected.astype(np.int64), got.astype(np.int64))
        found[path.name] = {"engine": model.engine, "windows": len(got), **msgspec.to_builtins(pair)}
        if pair.max_steps > MAX_STEPS[model.engine] or pair.label_agreement < MIN_LABEL_AGREEMENT:
            failures.append(f"{path.name} in {model.engine}")
    width = max(map(len, found))
    print(f"{'':{width}}  {'engine':<12}{'windows':>8}{'max steps':>11}{'differing':>12}{'same label':>12}")
    for name, row in found.items():
        print(f"{name:{width}}  {row['engine']:<12}{row['windows']:>8}{row['max_steps']:>11.0f}{100 * row['differing']:>10.3f} %"
              f"{100 * row['label_agreement']:>10.2f} %")
    print(msgspec.json.encode(found).decode())
    if failures:
        raise GateError(f"other logits than where the cases were made: {', '.join(failures)}")


def _read(cases: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kept input (windows, mel, frame) and logits (windows, labels) of a model file."""
    try:
        with np.load(cases) as kept:
            return kept[f"{name}/input"], kept[f"{name}/logits"]
    except KeyError:
        raise InputError(f"{cases}: holds no cases of {name}; make them again") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{cases}: cannot be read as cases ({error}); make them again") from None


def _golden(model: Model) -> Iterator[np.ndarray]:
    """Waveforms that need no data, float32 (window,), without end."""
    seed = FIRST_SEED
    while True:
        yield waveform(seed, model.manifest.window)
        seed += 1


def _stored(model: Model, store: ClipStore, split: str | None, hop: float) -> Iterator[np.ndarray]:
    """Windows of a store's clips, float32 (window,)."""
    window, rate = model.manifest.window, model.manifest.frontend.sample_rate
    if store.sample_rate != rate:
        raise InputError(f"{store.path}: {store.sample_rate} Hz, but the model hears {rate} Hz; prepare the store at that rate")
    step = hop_samples(model.manifest, hop)
    for clip in store.indices([split]) if split else range(len(store.clips)):
        for start in windows(int(store.lengths[clip]), window, step):
            yield store.window(int(clip), start, window)


if __name__ == "__main__":
    try:
        app()
    except EdgekdError as error:
        print(f"emulated_parity: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
