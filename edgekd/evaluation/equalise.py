"""`edgekd equalise`: the gain of a microphone in each band of a model's log-mel, measured from its recordings."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from edgekd.data.audio.read import AudioFileError, loud_note
from edgekd.data.audio.streamed import StreamedFile
from edgekd.data.audio.tree import audio_files
from edgekd.data.audio.waveform import stream_windows
from edgekd.errors import InputError
from edgekd.evaluation.inference import Waveform
from edgekd.files import output_file
from edgekd.frontend import corners, log_mel
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.equaliser import BandMean, Equaliser, band_gains
from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import DecisionSettings
from edgekd.runtime.level import level_dbfs
from edgekd.text import counted, json_bytes

LEAST_WINDOWS = 10
"""With fewer windows the mean is of the sounds, not of the microphone."""
ENOUGH_WINDOWS = 120
"""On fold 4 of ESC-50 the mean clip accuracy of 15 microphones stays 4 points lower with 10 clips of 5 s, and not with
30 clips."""
SHOWN = 8
"""Largest number of bands in the text."""


@dataclass(frozen=True)
class EqualiseReport:
    """Result of `equalise`.

    Attributes:
        out: the file of `equaliser`.
        quiet: windows below the gate, which were left out.
        unreadable: one message per file, or other thing below the folder, that was left out.
        loud: each file with float samples above full scale, which were scaled down to it -> their peak.
    """

    out: Path
    equaliser: Equaliser
    quiet: int
    unreadable: tuple[str, ...]
    loud: dict[str, float] = field(default_factory=dict)

    def to_text(self) -> str:
        """A summary for people."""
        made = self.equaliser
        hz, bands = (
            corners(made.frontend)[1:-1],
            np.linspace(0, len(made.db) - 1, min(SHOWN, len(made.db))).round().astype(int),
        )
        lines = [
            f"{self.out}: from {counted(made.windows, 'window')} of sound ({made.seconds:.0f} s); the microphone adds",
            *(f"  {hz[band]:7.0f} Hz  {made.db[band]:+6.1f} dB" for band in bands),
        ]
        if made.windows < ENOUGH_WINDOWS:
            lines.append(
                f"better measure {ENOUGH_WINDOWS} windows or more, of many kinds of sound: so few depend on the sounds"
            )
        if self.quiet:
            lines.append(f"below the gate, left out: {counted(self.quiet, 'window')}")
        if self.loud:
            lines.append(loud_note(self.loud))
        if self.unreadable:
            lines += [
                f"left out ({len(self.unreadable)}):",
                *(f"  {message}" for message in self.unreadable),
            ]
        return "\n".join(lines)

    def to_json(self) -> bytes:
        """The document of `equalise --json`."""
        return msgspec.json.encode(
            {
                "out": str(self.out),
                "equaliser": self.equaliser,
                "quiet": self.quiet,
                "unreadable": self.unreadable,
                "loud": self.loud,
            }
        )


def equalise(
    model_path: Path, folder: Path, out: Path, *, gate_dbfs: float | None = None, force: bool = False
) -> EqualiseReport:
    """Measure a microphone with recordings of many kinds of sound, and write its equaliser. No labels are needed.

    Args:
        model_path: .tflite or .onnx whose manifest has the mean spectrum of its training clips.
        folder: recordings made with the microphone, with all subfolders; or one recording.
        out: the file to write.
        gate_dbfs: windows below this level are left out, as by `edgekd listen --gate`; None takes all windows with
            sound.
        force: replace a file that exists.

    Raises:
        InputError: no audio, none readable, too little sound; a model without a mean spectrum; a file that exists or
            can't be written.
        MissingExtraError: no decoder or no engine is installed.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder; give --out a file name, for instance {out / 'mic.json'}")
    if out.exists() and not force:
        raise InputError(f"{out} exists; replace it with --force or choose another --out")
    DecisionSettings(gate_dbfs=gate_dbfs)  # raises InputError for a level that is out of range
    tree = audio_files(folder)
    model = open_model(model_path)
    manifest = model.manifest
    band_gains(manifest, np.zeros(manifest.frontend.n_mels))  # refuses a model without a spectrum before the work
    mean, measured, quiet, unreadable = BandMean(manifest.frontend), 0, 0, []
    loud: dict[str, float] = {}
    for path in tree.files:
        recording = StreamedFile(path, manifest.frontend.sample_rate)
        of_file = BandMean(manifest.frontend)  # of its own, because damage may show at the end of a file
        try:
            added, below = _add_windows(manifest, recording.chunks(), of_file, gate_dbfs)
        except AudioFileError as error:
            unreadable.append(str(error))
            continue
        mean.add_mean(of_file)
        measured, quiet = measured + added, quiet + below
        if recording.peak is not None:
            loud[str(path)] = recording.peak
    if len(unreadable) == len(tree.files):
        raise InputError(
            f"{folder}: {counted(len(tree.files), 'audio file')}, none of them readable (first: {unreadable[0]})"
        )
    if measured < LEAST_WINDOWS:
        raise InputError(
            f"{folder}: {counted(measured, 'window')} of sound; an equaliser needs {LEAST_WINDOWS} or more, better "
            f"{ENOUGH_WINDOWS}, of many kinds of sound; record more{', or lower --gate' if quiet else ''}"
        )
    seconds = measured * manifest.window / manifest.frontend.sample_rate
    made = Equaliser(
        model=manifest.name,
        data_hash=manifest.provenance.data_hash,
        frontend=manifest.frontend,
        db=tuple(band_gains(manifest, mean.value()).round(2).tolist()),
        windows=measured,
        seconds=round(seconds, 3),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    with output_file(out, "--out") as unfinished:
        unfinished.write_bytes(json_bytes(made))
    return EqualiseReport(out, made, quiet, (*unreadable, *tree.left_out), loud)


def _add_windows(manifest: Manifest, chunks: Iterable[Waveform], mean: BandMean, gate: float | None) -> tuple[int, int]:
    """Add a recording's windows to the mean; how many were added, and how many are below the gate, dBFS."""
    added = quiet = 0
    for one in stream_windows(chunks, manifest.window, manifest.window):
        if not one.any():
            continue
        if gate is not None and level_dbfs(one) < gate:
            quiet += 1
            continue
        mean.add(log_mel(manifest.frontend, one))
        added += 1
    return added, quiet
