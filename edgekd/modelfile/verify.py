"""`edgekd verify`: does this machine compute what the machine computed that exported the model?"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekd.errors import GateError
from edgekd.metrics.agreement import MAX_STEPS, Agreement, agreement
from edgekd.modelfile.engine import Model, open_model
from edgekd.modelfile.golden import replay
from edgekd.text import counted

MAX_FEATURES_ERROR = 1e-4
"""Log units between the features of two machines; float32 transforms of golden waveforms differ by less than 2e-6."""
MIN_INPUT_AGREEMENT = 0.999
"""Share of quantised input elements that must be the same."""


@dataclass(frozen=True)
class VerifyReport:
    """What came of the golden vectors on this machine.

    Attributes:
        model: the file. vectors: how many were replayed.
        features_max_error: of the log-mel, in log units.
        input_agreement: share 0..1 of quantised input elements that are the same.
        engines: name -> logits of the kept input against the kept logits, in steps of the output's scale.
    """

    model: str
    vectors: int
    features_max_error: float
    input_agreement: float
    engines: dict[str, Agreement]

    @property
    def failures(self) -> list[str]:
        """What is out of tolerance, one phrase each."""
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
        lines = [
            f"{self.model}: {counted(self.vectors, 'golden waveform')}",
            f"  {'features':14} at most {self.features_max_error:.2g} log units away (limit {MAX_FEATURES_ERROR:g})",
            f"  {'int8 input':14} {100 * self.input_agreement:.3f} % the same (limit {100 * MIN_INPUT_AGREEMENT:g} %)",
        ]
        lines += [
            f"  {name:14} at most {counted(each.max_steps, 'step', form='.3g')} away (limit {MAX_STEPS[name]}), same"
            f" label in {100 * each.label_agreement:.1f} %"
            for name, each in self.engines.items()
        ]
        return "\n".join([*lines, f"{self.model}: {'differs' if self.failures else 'ok'}"])

    def require(self) -> None:
        """Judge.

        Raises:
            GateError: something is out of tolerance.
        """
        if self.failures:
            raise GateError(f"{self.model}: {'; '.join(self.failures)}; do not trust this model on this machine")


def verify(path: Path, engine: str | None = None) -> VerifyReport:
    """Replay the golden vectors of a model file.

    Args:
        path: .tflite or .onnx with a manifest.
        engine: "litert" or "onnxruntime"; None takes the one that opens the file.

    Raises:
        InputError: a file that can't be read, is damaged or has no golden vectors; an engine that doesn't open it.
        MissingExtraError: the engine is not installed.
    """
    return verify_model(open_model(path, engine), str(path))


def verify_model(model: Model, where: str) -> VerifyReport:
    """As `verify`, of an opened model."""
    found = replay(model.manifest, model.logits, where)
    return VerifyReport(
        where,
        len(found.expected),
        found.features_max_error,
        found.input_agreement,
        {model.engine: agreement(found.expected, found.logits)},
    )
