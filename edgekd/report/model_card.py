"""The model card of an exported file: Markdown below the metadata for Hugging Face's hub.

The metadata keys are those of the hub's documentation (hub-docs, modelcard.md): license, license_name where that is
"other", library_name, pipeline_tag, tags, datasets, metrics and model-index. All content comes from the manifest and
the counts; scores have the names that they have in the run.
"""

import re
from collections.abc import Sequence
from typing import Any

from edgekd.modelfile.manifest import CrossValidation, Estimate, Manifest
from edgekd.text import markdown_table
from edgekd.yaml_text import yaml_text

HUB_LICENCES = frozenset(
    {
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "odbl",
        "pddl",
        "unlicense",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "unknown",
    }
)
"""Identifiers that the hub accepts in `license`."""
SAME_LICENCE = {"cc0": "cc0-1.0", "apache-2": "apache-2.0", "bsd-3": "bsd-3-clause", "creative-commons-zero": "cc0-1.0"}
OTHER = "other"
LIBRARY, TASK, TASK_NAME = "edgekd", "audio-classification", "Acoustic scene classification"
ACCURACY = "accuracy"
TEACHERS, FLOAT = "teachers_", "float_"
"""Prefixes of the scores of the teachers and, for an int8 file, of the float network: such scores are in the card, but
not in the metadata."""
MAX_NAME = 96
"""Largest length of a licence's name in the metadata; a longer text is cut there, and complete in the card."""
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#~!])")

CountRow = tuple[str, int, int, int]
"""Convention, MACs of one window, parameters, their bytes."""
BudgetRow = tuple[str, str, str, str]
"""Budget, value, limit, verdict."""


def hub_licence(licence: str) -> dict[str, str]:
    """The metadata of a licence as people write it: `CC BY-NC 3.0` becomes `{"license": "cc-by-nc-3.0"}`; a licence
    that the hub does not know becomes `other` with a `license_name`."""
    name = re.sub(r"[^a-z0-9.]+", "-", licence.casefold()).strip("-.")
    name = SAME_LICENCE.get(name, name)
    if name in HUB_LICENCES:
        return {"license": name}
    return {"license": OTHER, "license_name": name[:MAX_NAME].strip("-.") or "unknown"}


def plain(text: str) -> str:
    """The text on one line, escaped for Markdown outside tables; `markdown_table` escapes what tables need."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """The text in a code span; backticks in it are allowed."""
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"


def metadata(manifest: Manifest, formats: Sequence[str]) -> dict[str, Any]:
    """The metadata of a card. formats: of the files, e.g. ("tflite", "onnx")."""
    source = manifest.provenance
    others = (TEACHERS, FLOAT) if manifest.precision == "int8" else (TEACHERS,)
    accuracies = {
        name: value for name, value in source.scores.items() if ACCURACY in name and not name.startswith(others)
    }
    if manifest.crossval is not None:
        accuracies |= {
            "crossval_clip_accuracy": manifest.crossval.clips.mean,
            "crossval_window_accuracy": manifest.crossval.windows.mean,
        }
    tags = ["acoustic-scene-classification", "edge", manifest.student, manifest.precision, *formats]
    tags += ["knowledge-distillation"] if source.teachers else []
    tags += ["synthetic-data"] if source.synthetic else []
    document: dict[str, Any] = {
        **hub_licence(source.data_licence),
        "library_name": LIBRARY,
        "pipeline_tag": TASK,
        "tags": list(dict.fromkeys(tags)),
        "datasets": [source.data],
    }
    if accuracies:
        document["metrics"] = [ACCURACY]
        document["model-index"] = [
            {
                "name": manifest.name,
                "results": [
                    {
                        "task": {"type": TASK, "name": TASK_NAME},
                        "dataset": {"type": source.data, "name": source.data},
                        "metrics": [
                            {"type": ACCURACY, "name": name, "value": value} for name, value in accuracies.items()
                        ],
                    }
                ],
            }
        ]
    return document


def card(
    manifest: Manifest, files: Sequence[str], counts: Sequence[CountRow], budgets: Sequence[BudgetRow], target: str
) -> str:
    """The text of a card.

    Args:
        manifest: of the files.
        files: their names, one or more.
        counts: of the first file, by convention.
        budgets: verdicts on the first file.
        target: name of the target whose budgets they are.

    Raises:
        MissingExtraError: PyYAML is not installed.
    """
    formats = [name.rpartition(".")[2] for name in files]
    sections = [
        f"# {plain(manifest.name)}",
        _lead(manifest),
        "## How to run",
        _usage(files),
        "## Input and output",
        _table(("", ""), _interface(manifest)),
        "## Cost",
        _cost(counts, budgets, target),
        "## Scores",
        _scores(manifest),
        "## Training",
        _table(("", ""), _training(manifest)),
        "## Limits",
        _limits(manifest),
        "## Labels",
        ", ".join(code(label) for label in manifest.labels),
    ]
    return f"---\n{yaml_text(metadata(manifest, formats))}---\n\n" + "\n\n".join(sections) + "\n"


def _lead(manifest: Manifest) -> str:
    seconds = manifest.window / manifest.frontend.sample_rate
    made = " It was trained on sounds that a program made, not on recordings." if manifest.provenance.synthetic else ""
    return (
        f"A {plain(manifest.student)} in {manifest.precision} that classifies windows of {seconds:g} s into"
        f" {len(manifest.labels)} labels, on a CPU.{made} Labels, front end and quantisation are inside the file."
    )


def _usage(files: Sequence[str]) -> str:
    name = files[0]
    quoted = name if re.fullmatch(r"[\w.+-]+", name) else "'" + name.replace("'", "'\\''") + "'"
    extra = "litert" if name.endswith(".tflite") else "onnx-runtime"
    return (
        f"```sh\npip install 'edgekd[{extra},mic]'\nedgekd verify {quoted}\nedgekd predict {quoted} recordings --csv"
        f" labels.csv\nedgekd listen --model {quoted}\n```\n\nFiles: {', '.join(code(each) for each in files)}."
    )


def _interface(manifest: Manifest) -> list[tuple[str, str]]:
    fe = manifest.frontend
    golden = manifest.golden
    return [
        ("window", f"{manifest.window:,} samples at {fe.sample_rate:,} Hz"),
        (
            "features",
            (
                f"{fe.n_mels} x {fe.frames(manifest.window)} log-mel ({fe.mel_scale}), FFT {fe.n_fft}, window"
                f" {fe.win_length}, hop {fe.hop_length}, {fe.f_min:g} to {fe.top_hz:g} Hz"
            ),
        ),
        (
            "input, output",
            (
                f"{manifest.input.dtype}, {manifest.output.dtype}; probabilities are the softmax of the logits divided"
                f" by {manifest.temperature:g}"
            ),
        ),
        ("golden vectors", f"{len(golden.vectors)} waveforms, which 'edgekd verify' replays" if golden else "none"),
    ]


def _cost(counts: Sequence[CountRow], budgets: Sequence[BudgetRow], target: str) -> str:
    counted = [(name, f"{macs:,}", f"{params:,}", f"{size:,}") for name, macs, params, size in counts]
    parts = ["Counters disagree; each is shown by its own rules." if counted else "Not counted."]
    if counted:
        parts.append(_table(("counted by", "MACs a window", "parameters", "bytes"), counted))
    if budgets:
        parts += [f"Budgets of the target {code(target)}:", _table(("budget", "value", "limit", "verdict"), budgets)]
    return "\n\n".join(parts)


def crossval_text(found: CrossValidation) -> str:
    """A cross-validation on one line: accuracies with their intervals, folds and seeds."""
    folds, seeds = ", ".join(found.folds), ", ".join(map(str, found.seeds))
    return (
        f"{estimate_text(found.clips)} of clips and {estimate_text(found.windows)} of windows correct on"
        f" {len(found.folds)} folds of {found.data} ({folds}), seeds {seeds}"
    )


def estimate_text(found: Estimate) -> str:
    """A mean with its interval, as in `84.1 % (82.9 to 85.3)`."""
    return f"{100 * found.mean:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _scores(manifest: Manifest) -> str:
    scores = manifest.provenance.scores
    rows = [(name, f"{value:.4f}") for name, value in scores.items()]
    text = (
        _table(("score at the end of training", "value"), rows)
        if rows
        else "The file carries none; 'edgekd evaluate' measures them."
    )
    if manifest.crossval is not None:
        network = "int8-aware" if manifest.crossval.network == "qat" else "float"
        text = (
            f"Cross-validated: {plain(crossval_text(manifest.crossval))}, by {network} networks of this recipe that"
            " were trained on the other folds; this file holds a further one. In brackets the 95 % interval of a"
            f" bootstrap over test recordings and seeds.\n\n{text}"
        )
    fit = manifest.calibration
    if fit is None:
        return f"{text}\n\nIts probabilities are not calibrated."
    return (
        f"{text}\n\nCalibrated on {fit.windows:,} windows of {plain(fit.data)} ({plain(', '.join(fit.splits))}):"
        f" expected calibration error {fit.error_before:.4f} before, {fit.error_after:.4f} after; log loss"
        f" {fit.loss_before:.3f} before, {fit.loss_after:.3f} after."
    )


def _training(manifest: Manifest) -> list[tuple[str, str]]:
    source = manifest.provenance
    return [
        ("data", f"{source.data} ({source.data_hash})"),
        ("licence of the data", source.data_licence),
        ("recipe", f"{source.recipe} ({source.recipe_hash})"),
        ("teachers", ", ".join(source.teachers) or "none"),
        ("made by", f"edgekd {source.edgekd_version} at {source.created}"),
    ]


def _limits(manifest: Manifest) -> str:
    source = manifest.provenance
    lines = [
        (
            "It always predicts one of its labels, also where none of them fits; 'edgekd listen --unknown' hides"
            " uncertain predictions."
        ),
        (
            f"Its scores are on {plain(source.data)} alone: expect lower ones with other microphones, rooms and places;"
            " 'edgekd evaluate' measures them."
        ),
        f"The licence of its training data ({plain(source.data_licence)}) may restrict the use of the weights.",
        "Windows of digital silence are not classified. Do not use it where safety depends on its predictions.",
    ]
    if source.synthetic:
        lines.insert(
            0,
            "Its training data were made by a program: it shows that the tools work, and is of no use on real sounds.",
        )
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(header, [[plain(cell) for cell in row] for row in rows], left=len(header))
