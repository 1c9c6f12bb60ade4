"""Energy of inference by codecarbon, for a DCASE submission: a student's and the official baseline's on the same
machine.

What is run is the network alone, one window at a time, on noise: of somebody's baseline file no front end is known.
codecarbon's offline tracker asks no server where the machine stands; kWh do not depend on it.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekd.dcase.meta import Energy
from edgekd.errors import InputError, MissingExtraError
from edgekd.modelfile.container import read_bytes
from edgekd.modelfile.engine import litert_interpreter, open_model, silent_stderr
from edgekd.modelfile.tflite_graph import refuse_malformed_graph

WINDOWS = 29680
"""Of the development-test set of TAU 2022 Mobile, which the rules measure the energy on."""
MEASURE_SECONDS = 1
"""Between two readings of the power: a run may take less than codecarbon's 15 s."""
COUNTRY_LETTERS = 3

Run = Callable[[], object]
"""One inference."""


class Tracker(Protocol):
    """What is needed of codecarbon's tracker."""

    final_emissions_data: Any

    def start(self) -> object:
        """Begin to measure."""
        ...

    def stop(self) -> object:
        """End it; the data are complete then."""
        ...


def require(country: str) -> None:
    """Find out whether energy can be measured, before anything slow is begun.

    Raises:
        InputError: no code of three letters. MissingExtraError: codecarbon is not installed.
    """
    if len(country) != COUNTRY_LETTERS or not country.isascii() or not country.isalpha():
        raise InputError(f"--energy '{country}': wanted the ISO code of a country, three letters, for instance FIN")
    if importlib.util.find_spec("codecarbon") is None:
        raise MissingExtraError("codecarbon", "energy")


def offline_tracker(country: str) -> Tracker:
    """A tracker of codecarbon that needs no network; country: as `require` lets pass."""
    from codecarbon import OfflineEmissionsTracker

    tracker: Tracker = OfflineEmissionsTracker(
        country_iso_code=country.upper(), measure_power_secs=MEASURE_SECONDS, save_to_file=False, log_level="error"
    )
    return tracker


def measure(model: Path, baseline: Path | None, track: Callable[[], Tracker], windows: int | None = None) -> Energy:
    """Energy of as many inferences of a model, and of the baseline where its file is given.

    Args:
        model: a file of edgekd. baseline: any .tflite file.
        track: gives a fresh tracker for each of them.
        windows: inferences; None takes `WINDOWS`.

    Raises:
        InputError: a file that cannot be run, or a tracker that tells no energy.
    """
    runs = (_model(model), None if baseline is None else _tflite(baseline))
    return Energy(*(None if run is None else _kwh(run, track(), windows or WINDOWS) for run in runs))


def _kwh(run: Run, tracker: Tracker, windows: int) -> float:
    run()  # what an engine does once is not measured
    tracker.start()
    try:
        for _ in range(windows):
            run()
    finally:
        tracker.stop()
    energy = getattr(tracker.final_emissions_data, "energy_consumed", None)
    if not isinstance(energy, int | float) or not energy > 0:
        raise InputError(
            f"codecarbon told no energy of {windows:,} inferences (found {energy!r}); it cannot read this machine's"
            " power"
        )
    return float(energy)


def _model(path: Path) -> Run:
    model = open_model(path)
    fe = model.manifest.frontend
    features = np.random.default_rng(0).standard_normal((1, fe.n_mels, fe.frames(model.manifest.window)), np.float32)
    return lambda: model.logits(features)


def _tflite(path: Path) -> Run:
    if path.suffix != ".tflite":
        raise InputError(f"--energy-baseline {path}: wanted the .tflite file of the official baseline")
    content = read_bytes(path)
    interpreter_type = litert_interpreter()
    try:
        refuse_malformed_graph(content, optional_inputs=True)
        with silent_stderr():
            interpreter = interpreter_type(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
        (source,) = interpreter.get_input_details()
        interpreter.set_tensor(
            source["index"], np.random.default_rng(0).integers(0, 100, source["shape"]).astype(source["dtype"])
        )
    except Exception as error:  # LiteRT raises whatever it meets
        raise InputError(f"--energy-baseline {path}: cannot be run ({' '.join(str(error).split())})") from None
    run: Run = interpreter.invoke
    return run
