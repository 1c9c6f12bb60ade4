"""Energy of inference for a DCASE submission, measured by codecarbon: of a student, and of the official baseline on the
same machine.

Only the network is run, one window at a time, on noise: the front end of a baseline file is not known. codecarbon's
offline tracker asks no server for the location of the machine; kWh do not depend on it.
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
"""Clips of the development-test set of TAU 2022 Mobile, for which the rules ask the energy."""
MEASURE_SECONDS = 1
"""Seconds between two readings of the power. A measurement may take less than codecarbon's default of 15 s."""
COUNTRY_LETTERS = 3

Inference = Callable[[], object]
"""Runs a network once."""


class Tracker(Protocol):
    """The part of codecarbon's tracker that is used here."""

    final_emissions_data: Any

    def start(self) -> object:
        """Start to measure."""
        ...

    def stop(self) -> object:
        """End the measurement; `final_emissions_data` is complete then."""
        ...


def require(country: str) -> None:
    """Check that energy can be measured, before anything slow starts.

    Raises:
        InputError: `country` is no code of three letters.
        MissingExtraError: codecarbon is not installed.
    """
    if len(country) != COUNTRY_LETTERS or not country.isascii() or not country.isalpha():
        raise InputError(f"--energy '{country}': wanted the ISO code of a country, three letters, for instance FIN")
    if importlib.util.find_spec("codecarbon") is None:
        raise MissingExtraError("codecarbon", "energy")


def offline_tracker(country: str) -> Tracker:
    """A tracker of codecarbon that needs no network. country: checked by `require`."""
    from codecarbon import OfflineEmissionsTracker

    tracker: Tracker = OfflineEmissionsTracker(
        country_iso_code=country.upper(), measure_power_secs=MEASURE_SECONDS, save_to_file=False, log_level="error"
    )
    return tracker


def measure(model: Path, baseline: Path | None, track: Callable[[], Tracker], windows: int | None = None) -> Energy:
    """Energy of a number of inferences of a model, and of the baseline where its file is given.

    Args:
        model: a file of edgekd.
        baseline: any .tflite file.
        track: makes a new tracker, one for each model.
        windows: number of inferences; None takes `WINDOWS`.

    Raises:
        InputError: a file that cannot be run, or a tracker without a reading.
    """
    runs = (_model(model), None if baseline is None else _tflite(baseline))
    return Energy(*(None if run is None else _kwh(run, track(), windows or WINDOWS) for run in runs))


def _kwh(run: Inference, tracker: Tracker, windows: int) -> float:
    run()  # what an engine does only once is not measured
    tracker.start()
    try:
        for _ in range(windows):
            run()
    finally:
        tracker.stop()
    energy = getattr(tracker.final_emissions_data, "energy_consumed", None)
    if not isinstance(energy, int | float) or not energy > 0:
        raise InputError(
            f"codecarbon measured no energy for {windows:,} inferences (found {energy!r}); it cannot read the power of"
            " this machine"
        )
    return float(energy)


def _model(path: Path) -> Inference:
    model = open_model(path)
    fe = model.manifest.frontend
    features = np.random.default_rng(0).standard_normal((1, fe.n_mels, fe.frames(model.manifest.window)), np.float32)
    return lambda: model.logits(features)


def _tflite(path: Path) -> Inference:
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
    except Exception as error:  # LiteRT raises errors of many types
        raise InputError(f"--energy-baseline {path}: cannot be run ({' '.join(str(error).split())})") from None
    run: Inference = interpreter.invoke
    return run
