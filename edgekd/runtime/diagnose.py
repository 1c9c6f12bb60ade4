"""`edgekd doctor`: whether this machine, with its microphone and perhaps a model, is ready to listen."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec

from edgekd.errors import EdgekdError, GateError, InputError
from edgekd.modelfile.verify import verify
from edgekd.runtime.recording import record_source
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source_checks import Check, check_recording, to_text, worst
from edgekd.text import counted

ENGINES = {"ai-edge-litert": "litert", "tflite-runtime": "litert", "onnxruntime": "onnx-runtime"}
"""Package -> the extra that installs it or an equivalent."""
PACKAGES = ("edgekd", "numpy", *ENGINES, "sounddevice", "soundfile", "soxr")
ASK_PORTAUDIO = "import sounddevice; print(sounddevice.get_portaudio_version()[1])"
PORTAUDIO_S = 10.0
"""Longest wait for PortAudio, which may hang while it looks for devices, seconds."""


class SourceSummary(msgspec.Struct, frozen=True):
    """The recorded source. rate: Hz."""

    name: str
    rate: int
    channels: int
    seconds: float


class DoctorReport(msgspec.Struct, frozen=True):
    """The result of `edgekd doctor`.

    machine, system, python: of this machine. packages: name -> version, None where it is not installed. portaudio: its
    version, or None. source: the recorded source; None where no samples arrived, and `failure` says why. checks: of the
    recording, the engines and the model.
    """

    machine: str
    system: str
    python: str
    packages: dict[str, str | None]
    portaudio: str | None
    source: SourceSummary | None
    failure: str
    checks: list[Check]

    def to_json(self) -> bytes:
        """The document of `doctor --json`."""
        return msgspec.json.encode(
            {"status": "fail" if self.failure else worst(self.checks), **msgspec.structs.asdict(self)}
        )

    def to_text(self) -> str:
        """A summary for people."""
        installed = [f"{name} {version}" for name, version in self.packages.items() if version is not None]
        absent = [name for name, version in self.packages.items() if version is None]
        lines = [
            f"machine   {self.machine}, {self.system}, Python {self.python}",
            f"packages  {', '.join(installed)}",
            f"absent    {', '.join(absent) or 'none'}",
            f"PortAudio {self.portaudio or 'not found'}",
        ]
        if self.source is not None:
            channels = counted(self.source.channels, "channel")
            lines.append(
                f"recorded  {self.source.seconds:g} s of {self.source.name} at {self.source.rate} Hz, {channels}"
            )
        return "\n".join([*lines, "", to_text(self.checks)])

    def require(self) -> None:
        """Raise if the machine is not ready.

        Raises:
            InputError: no samples arrived.
            GateError: a check failed.
        """
        if self.failure:
            raise InputError(self.failure)
        failed = [check.name for check in self.checks if check.status == "fail"]
        if failed:
            raise GateError(f"failed: {', '.join(failed)}; follow the advice below each of them")


def examine(
    request: SourceRequest, model: Path | None = None, *, seconds: float = 2.0, wait_s: float = 5.0
) -> DoctorReport:
    """Examine the machine, record from the source, and check the recording. An error of the source is part of the
    report.

    Args:
        request: the source.
        model: a model file to open and verify.
        seconds: to record.
        wait_s: longest wait for samples.
    """
    packages = {name: _version(name) for name in PACKAGES}
    checks = [check_engines(packages), *([] if model is None else [check_model(model)])]
    source, failure = None, ""
    try:
        found = record_source(request, seconds, wait_s)
        checks = check_recording(found, seconds, request.channel) + checks
        source = SourceSummary(found.name, found.rate, found.samples.shape[1], round(found.seconds, 3))
    except EdgekdError as error:
        failure = str(error)
    return DoctorReport(
        platform.machine(),
        platform.platform(),
        platform.python_version(),
        packages,
        portaudio_version() if packages["sounddevice"] else None,
        source,
        failure,
        checks,
    )


def check_engines(packages: dict[str, str | None]) -> Check:
    """Whether an engine is installed. packages: name -> version."""
    installed = sum(packages.get(name) is not None for name in ENGINES)
    if not installed:
        return Check(
            "engines",
            "fail",
            0.0,
            "",
            "at least one",
            f"install one with: pip install 'edgekd[{ENGINES['ai-edge-litert']}]'",
        )
    return Check("engines", "ok", float(installed), "", "at least one")


def check_model(model: Path) -> Check:
    """Whether a model file opens, and computes here what it computed where it was exported."""
    limit = "opens and replays its golden vectors"
    try:
        report = verify(model)
        report.require()
    except EdgekdError as error:
        return Check("model", "fail", None, "", limit, str(error))
    return Check("model", "ok", float(report.vectors), "vectors", limit)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def portaudio_version() -> str | None:
    """The version of PortAudio, None where it is not found. A process of its own asks for it, because that one can be
    killed."""
    try:
        process = subprocess.run(
            [sys.executable, "-c", ASK_PORTAUDIO], capture_output=True, text=True, check=False, timeout=PORTAUDIO_S
        )
    except (subprocess.TimeoutExpired, OSError):
        return None
    return process.stdout.strip().removeprefix("PortAudio ") or None
