"""`edgekd submission`: writes the files of a DCASE task 1 submission from exported models."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.complexity import gate
from edgekd.complexity.counts import ModelCounts, count_model
from edgekd.complexity.target import load_target
from edgekd.dcase import energy as power
from edgekd.dcase.check import SubmissionReport, check_package, check_submission
from edgekd.dcase.check_outputs import FindingList, find_submissions
from edgekd.dcase.forms import GENERAL, META_SUFFIX, SCENES, SPLITS, Form, check_label, form_of, main_key, output_table
from edgekd.dcase.meta import TEMPLATE, Energy, SystemDescription, meta, meta_text
from edgekd.dcase.outputs import EvaluationSet, development, open_evaluation, predict_set
from edgekd.errors import InputError
from edgekd.files import atomic_write, output_file
from edgekd.modelfile.engine import Model, open_model
from edgekd.resources import read_toml
from edgekd.text import counted
from edgekd.yaml_text import pyyaml

TASK = "task1"
DEVELOPMENT_SPLIT = "evaluate"
"""Split of a TAU 2022 Mobile store that the rules call development-test."""


@dataclass(frozen=True)
class SubmissionOptions:
    """The options of `edgekd submission` with models.

    Attributes:
        models: files, or KEY=FILE with a split of 2024 or a recorder of 2025.
        year: of the challenge.
        label: of the submission.
        system: the TOML file that the submitter has filled in.
        out: folder of all files.
        data: store of the development set; None leaves the results empty.
        splits: test splits of that store.
        evaluation: folder or store of the evaluation set; None writes no output.
        energy: ISO code of the country; None measures no energy.
        energy_baseline: .tflite file of the official baseline, measured too.
        force: replace existing files.
    """

    models: tuple[str, ...]
    year: int | None
    label: str | None
    system: Path | None
    out: Path | None
    data: Path | None = None
    splits: tuple[str, ...] = (DEVELOPMENT_SPLIT,)
    evaluation: Path | None = None
    energy: str | None = None
    energy_baseline: Path | None = None
    force: bool = False


def check_one_task(models: bool, init: Path | None, check: Path | None) -> None:
    """Raise where a command line asks for several tasks, or for none.

    Raises:
        InputError: not exactly one of models, `init` and `check` is given.
    """
    if sum((models, init is not None, check is not None)) != 1:
        raise InputError(
            "give one of: MODEL... to write a submission, --check FOLDER to check one, --init FILE for the form to"
            " fill in"
        )


def write_template(path: Path, *, force: bool = False) -> Path:
    """Write the TOML file that the submitter fills in, `SubmissionOptions.system`, and return its path.

    Raises:
        InputError: the file exists, or cannot be written.
    """
    if path.exists() and not force:
        raise InputError(f"--init {path}: exists; replace it with --force, or choose another path")
    with output_file(path, "--init") as part:
        part.write_text(TEMPLATE, encoding="utf-8")
    return path


def write_submission(options: SubmissionOptions) -> SubmissionReport:
    """Write a submission, then check it as `check.check_submissions` does.

    Raises:
        InputError: options that are missing or contradict each other, models that do not fit the form, or existing
            files.
        MissingExtraError: a counter, a decoder, PyYAML or, where it is asked for, codecarbon is not installed.
    """
    form, label, system, out = _checked_options(options)
    paths = parse_models(options.models, form)
    models = {key: open_model(path) for key, path in paths.items()}
    for key, model in models.items():
        if set(model.manifest.labels) != set(SCENES):
            raise InputError(
                f"{paths[key]}: its labels are {', '.join(model.manifest.labels)}; a submission needs the ten scenes "
                f"{', '.join(SCENES)}"
            )
    ledgers = {key: count_model(path) for key, path in paths.items()}
    notes: list[str] = []
    complexity = complexity_of(ledgers, form, notes)
    files = _package(label, paths, complexity, notes) if form.package else {}
    clips = None if options.evaluation is None else open_evaluation(options.evaluation)
    if clips is not None:
        files |= {
            f"{TASK}/{label}/{name}": table for name, table in _outputs(clips, models, form, label, notes).items()
        }
        if form.clips is not None and len(clips.names) != form.clips:
            notes.append(
                f"{options.evaluation} has {len(clips.names):,} files and the evaluation set of {form.year}"
                f" {form.clips:,}: the output is of these alone, and --check without --evaluation will miss the others"
            )
    results = development(paths, form, options.data, options.splits)
    if options.data is None:
        notes.append("no --data: the results on the development set are empty")
    used = _energy(options, paths, notes)
    document = meta(
        form, label, system, {key: model.manifest for key, model in models.items()}, complexity, results, used
    )
    files[f"{TASK}/{label}/{label}{META_SUFFIX}"] = meta_text(document, notes).encode("utf-8", "backslashreplace")
    written = _write(out, files)
    findings = FindingList()
    for submission in find_submissions(out / TASK / label):
        check_submission(submission, form, None if clips is None else clips.names, findings)
    if form.package:
        check_package(out, label, findings)
    for key, counts in ledgers.items():
        for failure in gate.check_counts(counts, load_target(form.target)).failures():
            findings.add(paths[key].name, key, f"fails {form.target}", failure, "export a smaller student")
    return SubmissionReport(out, written, tuple(notes), tuple(findings.lines()))


def parse_models(texts: Sequence[str], form: Form) -> dict[str, Path]:
    """Key of the form -> file, in the form's order. texts: FILE or KEY=FILE.

    Raises:
        InputError: a key that is missing, unknown or named twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        key, equals, file = text.partition("=")
        if not (equals and key in form.keys):
            if equals and not Path(text).exists():
                raise InputError(f"{text}: '{key}' is none of {', '.join(form.keys)} in {form.year}")
            key, file = GENERAL, text
        if key not in form.keys:
            raise InputError(
                f"{text}: {form.year} asks for a model of each split; give them as {SPLITS[0]}=FILE ..."
                f" {SPLITS[-1]}=FILE"
            )
        if key in found:
            raise InputError(f"{text}: the second model for '{key}'; give one")
        found[key] = Path(file)
    missing = [key for key in (SPLITS if form.keys == SPLITS else (GENERAL,)) if key not in found]
    if missing:
        raise InputError(
            f"no model for {', '.join(missing)}; {form.year} asks for "
            + ("one of each split, 5=FILE ... 100=FILE" if form.keys == SPLITS else "a general one")
        )
    return {key: found[key] for key in form.keys if key in found}


def complexity_of(ledgers: Mapping[str, ModelCounts], form: Form, notes: list[str]) -> dict[str, int]:
    """The complexity block of the most complex model, by the year's counting rules; a note names model and rules."""

    def macs_by(counted: ModelCounts) -> str:
        return next(name for name in form.conventions if counted.conventions.get(name) is not None)

    def macs(counted: ModelCounts) -> int:
        count = counted.conventions[macs_by(counted)]
        return 0 if count is None else count.macs

    most = max(ledgers.values(), key=macs)
    stored_by = (
        "nessi_tflite" if "nessi_tflite" in form.conventions and most.conventions.get("nessi_tflite") else "exact"
    )
    stored = most.conventions[stored_by]
    assert stored is not None  # the exact count is always there
    notes.append(f"complexity of {Path(most.model).name}: macs by {macs_by(most)}, parameters and bytes by {stored_by}")
    return {
        "total_model_size": stored.param_bytes,
        "total_parameters": stored.params,
        "memory_use": stored.param_bytes,
        "total_parameters_non_zero": min(most.nonzero_params, stored.params),
        "macs": macs(most),
    }


def _checked_options(options: SubmissionOptions) -> tuple[Form, str, SystemDescription, Path]:
    """The form, the label, the submitter's values, and the folder of all files.

    Raises:
        InputError: see `write_submission`.
    """
    if options.year is None or options.label is None or options.system is None or options.out is None:
        raise InputError(
            "--year, --label, --system and --out are needed besides the models; 'edgekd submission --init system.toml'"
            " writes the form for --system"
        )
    form, label = form_of(options.year), check_label(options.label)
    system = read_toml(options.system, SystemDescription)
    system.check(str(options.system), form)
    if options.energy_baseline is not None and options.energy is None:
        raise InputError("--energy-baseline without --energy COUNTRY, which measures both; give it")
    if options.energy is not None and not form.energy:
        raise InputError(f"--energy: the form of {form.year} has no energy; leave it out")
    if options.energy is not None:
        power.require(options.energy)
    pyyaml()  # needed for the check at the end
    folder = options.out / TASK / label
    if folder.exists() and not options.force:
        raise InputError(f"{folder} exists; replace its files with --force, or choose another --out or --label")
    return form, label, system, options.out


def _outputs(
    clips: EvaluationSet, models: Mapping[str, Model], form: Form, label: str, notes: list[str]
) -> dict[str, bytes]:
    """File name -> output of one split, or of the models of all recorders together."""
    tables = {}
    groups = {key: {key: model} for key, model in models.items()} if form.keys == SPLITS else {GENERAL: models}
    for key, group in groups.items():
        probabilities, silent = predict_set(clips, group)
        tables[form.output_names(label)[key]] = output_table(
            clips.names, probabilities, next(iter(group.values())).manifest.labels
        )
    if silent:
        notes.append(
            f"{counted(silent, 'clip is', 'clips are')} digital silence: all scenes have the same probability, and the "
            "label is the first"
        )
    if form.package and len(models) > 1 and not any(clips.recorders):
        notes.append("the evaluation set names no recorders: the general model predicted all of it")
    return tables


def _energy(options: SubmissionOptions, paths: Mapping[str, Path], notes: list[str]) -> Energy:
    """The measured energy; empty where none is asked for."""
    if options.energy is None:
        return Energy()
    country = options.energy
    used = power.measure(paths[main_key(paths)], options.energy_baseline, lambda: power.offline_tracker(country))
    result = (
        "the normalised one is empty without --energy-baseline FILE"
        if used.normalised is None
        else (f"{used.normalised:.3f} of the baseline's on this machine")
    )
    notes.append(f"energy of {power.WINDOWS:,} inferences of the network: {result}")
    return used


def _package(label: str, paths: Mapping[str, Path], complexity: dict[str, int], notes: list[str]) -> dict[str, bytes]:
    """Files of the inference package. Its counts replace those of the model files in `complexity` and `notes`."""
    from edgekd.dcase import package as packaging
    from edgekd.dcase.inference_module import INDEX

    files = packaging.package(label, paths)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), files)
        counts = packaging.complexity(next(Path(folder).rglob(INDEX)))
    largest = max(counts.values(), key=lambda each: (each["MACs"], each["Params"]))
    complexity |= {"macs": largest["MACs"], "total_model_size": largest["Params"], "total_parameters": largest["count"]}
    notes[:] = [
        "complexity as the organisers' script counts the inference package: MACs by torchinfo, with biases "
        "and average pools that are written as convolutions; bytes of parameters as stored"
    ]
    return {f"{packaging.FOLDER}/{name}": content for name, content in files.items()}


def _write(out: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write files below a folder, and return their paths.

    Raises:
        InputError: a file cannot be written.
    """
    try:
        for name, content in files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, content)
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    return tuple(out / name for name in files)
