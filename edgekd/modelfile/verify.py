"""`edgekd verify`: compares what this machine computes with the golden vectors in the model file."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekd.errors import GateError
from edgekd.metrics.agreement import MAX_STEPS, Agreement, agreement
from edgekd.modelfile.engine import Model, open_model
from edgekd.modelfile.golden import replay
from edgekd.text import columns, counted, printable

MAX_FEATURES_ERROR = 1e-4
"""Largest difference between the features of two machines, in log units. Those of float32 transforms differ by less
than 2e-6."""
MIN_INPUT_AGREEMENT = 0.999
"""Share of quantised input elements that must be the same."""


@dataclass(frozen=True)
class VerifyReport:
    """Result of replaying the golden vectors on this machine.

    Attributes:
        model: the file. vectors: how many were replayed.
        features_max_error: largest difference of the log-mel, in log units.
        input_agreement: share 0..1 of quantised input elements that are the same.
        engines: name -> agreement of the computed with the kept logits, in steps of the output's scale.
    """

    model: str
    vectors: int
    features_max_error: float
    input_agreement: float
    engines: dict[str, Agreement]

    @property
    def failures(self) -> list[str]:
        """A phrase for each figure out of tolerance."""
        found = []
        if not self.features_max_error <= MAX_FEATURES_ERROR:
            found.append(
                f"the features are {self.features_max_error:.2g} log units away, more than {MAX_FEATURES_ERROR:g}"
            )
        if not self.input_agreement >= MIN_INPUT_AGREEMENT:
            found.append(
                f"{100 * self.input_agreement:.2f} % of the int8 input is the same, less than"
                f" {100 * MIN_INPUT_AGREEMENT:g} %"
            )
        found += [
            f"{name} is {counted(each.max_steps, 'step', form='.3g')} away, more than {MAX_STEPS[name]}"
            for name, each in self.engines.items()
            if not round(each.max_steps, 2) <= MAX_STEPS[name]
        ]
        return found

    def to_json(self) -> bytes:
        """The document of `verify --json`."""
        engines = {
            name: {"max_steps": each.max_steps, "label_agreement": each.label_agreement}
            for name, each in self.engines.items()
        }
        return msgspec.json.encode(
            {
                "model": self.model,
                "ok": not self.failures,
                "features_max_error": self.features_max_error,
                "engines": engines,
                "input_agreement": self.input_agreement,
                "vectors": self.vectors,
            }
        )

    def to_text(self) -> str:
        """A summary for people."""
        features = f"at most {self.features_max_error:.2g} log units away (limit {MAX_FEATURES_ERROR:g})"
        same_input = f"{100 * self.input_agreement:.3f} % the same (limit {100 * MIN_INPUT_AGREEMENT:g} %)"
        logits = [
            (
                name,
                f"at most {counted(each.max_steps, 'step', form='.3g')} away (limit {MAX_STEPS[name]}), same label in"
                f" {100 * each.label_agreement:.1f} %",
            )
            for name, each in self.engines.items()
        ]
        name = printable(self.model)
        return "\n".join(
            [
                f"{name}: {counted(self.vectors, 'golden waveform')}",
                *columns((), [("features", features), ("int8 input", same_input), *logits], left=2, indent="  "),
                f"{name}: {'differs' if self.failures else 'ok'}",
            ]
        )

    def require(self) -> None:
        """Raise where something is out of tolerance.

        Raises:
            GateError: naming each such figure.
        """
        if self.failures:
            raise GateError(f"{self.model}: {'; '.join(self.failures)}; do not trust this model on this machine")


def verify(path: Path, engine: str | None = None) -> VerifyReport:
    """Replay the golden vectors of a model file.

    Args:
        path: .tflite or .onnx with a manifest.
        engine: "litert" or "onnxruntime"; None takes the one that opens the file.

    Raises:
        InputError: a file that cannot be read, is damaged or has no golden vectors; an engine that does not open it.
        MissingExtraError: the engine is not installed.
    """
    return verify_model(open_model(path, engine), str(path))


def verify_model(model: Model, where: str) -> VerifyReport:
    """As `verify`, for an opened model. where: name of the file, for the report and for errors."""
    result = replay(model.manifest, model.logits, where)
    return VerifyReport(
        where,
        len(result.expected),
        result.features_max_error,
        result.input_agreement,
        {model.engine: agreement(result.expected, result.logits)},
    )
