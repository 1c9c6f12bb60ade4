"""`edgekd submission`: the files of a DCASE task 1 submission from exported models."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.complexity import gate
from edgekd.complexity.counts import ModelCounts, count_model
from edgekd.complexity.target import load_target
from edgekd.dcase import energy as power
from edgekd.dcase.check import SubmissionReport, check_entry, check_package
from edgekd.dcase.check_meta import yaml_reader
from edgekd.dcase.check_outputs import Findings, entries
from edgekd.dcase.forms import GENERAL, META_SUFFIX, SCENES, SPLITS, Form, check_label, form_of, main_key, output_table
from edgekd.dcase.meta import TEMPLATE, Energy, System, meta, meta_text
from edgekd.dcase.outputs import EvaluationSet, development, judge, open_evaluation
from edgekd.errors import InputError
from edgekd.modelfile.engine import Model, open_model
from edgekd.resources import read_toml
from edgekd.text import counted

TASK = "task1"
DEVELOPMENT_SPLIT = "evaluate"
"""Of a store of TAU 2022 Mobile: what the rules call development-test."""


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        models: files, or KEY=FILE with a split of 2024 or a recorder of 2025.
        year, label: of the submission. system: the TOML file that people filled in. out: folder of everything.
        data, splits: store of the development set, and its test splits. evaluation: folder or store of the evaluation
            set.
        energy: ISO code of the country, None measures nothing. energy_baseline: .tflite file of the official baseline.
        force: replace files that are there.
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


def one_task(models: bool, init: Path | None, check: Path | None) -> None:
    """Refuse a command line that asks for several things, or for none.

    Raises:
        InputError: as said.
    """
    if sum((models, init is not None, check is not None)) != 1:
        raise InputError(
            "give one of: MODEL... to write a submission, --check FOLDER to judge one, --init FILE for the form to"
            " fill in"
        )


def write_template(path: Path, *, force: bool = False) -> Path:
    """Write the TOML file that `Order.system` names, to be filled in; its place.

    Raises:
        InputError: a file in the way, or a place that cannot be written.
    """
    if path.exists() and not force:
        raise InputError(f"--init {path}: exists; replace it with --force, or choose another place")
    try:
        path.write_text(TEMPLATE, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--init {path}: cannot be written ({error.strerror}); choose another place") from None
    return path


def build(order: Order) -> SubmissionReport:
    """Write a submission, then judge it as `submission_check.check` does.

    Raises:
        InputError: options that are missing or contradict each other, models that do not fit the form, or files in the
            way.
        MissingExtraError: a counter, a decoder, PyYAML or, where it is asked for, codecarbon is not installed.
    """
    form, label, system, out = _begun(order)
    paths = parse_models(order.models, form)
    models = {key: open_model(path) for key, path in paths.items()}
    for key, model in models.items():
        if set(model.manifest.labels) != set(SCENES):
            raise InputError(
                f"{paths[key]}: its labels are {', '.join(model.manifest.labels)}; a submission needs the ten scenes "
                f"{', '.join(SCENES)}"
            )
    model_counts = {key: count_model(path) for key, path in paths.items()}
    notes: list[str] = []
    complexity = complexity_of(model_counts, form, notes)
    files = _package(label, paths, complexity, notes) if form.package else {}
    clips = None if order.evaluation is None else open_evaluation(order.evaluation)
    if clips is not None:
        files |= {
            f"{TASK}/{label}/{name}": table for name, table in _outputs(clips, models, form, label, notes).items()
        }
        if form.clips is not None and len(clips.names) != form.clips:
            notes.append(
                f"{order.evaluation} has {len(clips.names):,} files and the evaluation set of {form.year}"
                f" {form.clips:,}: the output is of these alone, and --check without --evaluation will miss the others"
            )
    results = development(paths, form, order.data, order.splits)
    if order.data is None:
        notes.append("no --data: the results on the development set are empty")
    used = _energy(order, paths, notes)
    document = meta(
        form, label, system, {key: model.manifest for key, model in models.items()}, complexity, results, used
    )
    files[f"{TASK}/{label}/{label}{META_SUFFIX}"] = meta_text(document, notes).encode("utf-8", "backslashreplace")
    written = _write(out, files)
    findings = Findings()
    for entry in entries(out / TASK / label):
        check_entry(entry, form, None if clips is None else clips.names, findings)
    if form.package:
        check_package(out, label, findings)
    for key, counts in model_counts.items():
        for failure in gate.check_counts(counts, load_target(form.target)).failures():
            findings.add(paths[key].name, key, f"fails {form.target}", failure, "export a smaller student")
    return SubmissionReport(out, written, tuple(notes), tuple(findings.lines()))


def parse_models(texts: Sequence[str], form: Form) -> dict[str, Path]:
    """Key of the form -> file, in the form's order.

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


def complexity_of(model_counts: Mapping[str, ModelCounts], form: Form, notes: list[str]) -> dict[str, int]:
    """The block of the most complex model, by the year's counters; notes tell which."""

    def macs_by(counted: ModelCounts) -> str:
        return next(name for name in form.conventions if counted.conventions.get(name) is not None)

    def macs(counted: ModelCounts) -> int:
        count = counted.conventions[macs_by(counted)]
        return 0 if count is None else count.macs

    most = max(model_counts.values(), key=macs)
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


def _begun(order: Order) -> tuple[Form, str, System, Path]:
    """The form, the label, what people told, and the place, all checked.

    Raises:
        InputError: see `build`.
    """
    if order.year is None or order.label is None or order.system is None or order.out is None:
        raise InputError(
            "--year, --label, --system and --out are needed besides the models; 'edgekd submission --init system.toml'"
            " writes the form for --system"
        )
    form, label = form_of(order.year), check_label(order.label)
    system = read_toml(order.system, System)
    system.check(str(order.system), form)
    if order.energy_baseline is not None and order.energy is None:
        raise InputError("--energy-baseline without --energy COUNTRY, which measures both; give it")
    if order.energy is not None and not form.energy:
        raise InputError(f"--energy: the form of {form.year} has no energy; leave it out")
    if order.energy is not None:
        power.require(order.energy)
    yaml_reader()  # which judges what is written in the end
    home = order.out / TASK / label
    if home.exists() and not order.force:
        raise InputError(f"{home} exists; replace its files with --force, or choose another --out or --label")
    return form, label, system, order.out


def _outputs(
    clips: EvaluationSet, models: Mapping[str, Model], form: Form, label: str, notes: list[str]
) -> dict[str, bytes]:
    """File name -> output of each split, or of all models together."""
    tables = {}
    groups = {key: {key: model} for key, model in models.items()} if form.keys == SPLITS else {GENERAL: models}
    for key, group in groups.items():
        probabilities, silent = judge(clips, group)
        tables[form.output_names(label)[key]] = output_table(
            clips.names, probabilities, next(iter(group.values())).manifest.labels
        )
    if silent:
        notes.append(
            f"{counted(silent, 'clip is', 'clips are')} digital silence: all scenes have the same probability, and the "
            "label is the first"
        )
    if form.package and len(models) > 1 and not any(clips.recorders):
        notes.append("the evaluation set tells no recorders: the general model judged all of it")
    return tables


def _energy(order: Order, paths: Mapping[str, Path], notes: list[str]) -> Energy:
    """Measured, where that is asked for."""
    if order.energy is None:
        return Energy()
    country = order.energy
    used = power.measure(paths[main_key(paths)], order.energy_baseline, lambda: power.offline_tracker(country))
    told = (
        "the normalised one is empty without --energy-baseline FILE"
        if used.normalised is None
        else (f"{used.normalised:.3f} of the baseline's on this machine")
    )
    notes.append(f"energy of {power.WINDOWS:,} inferences of the network: {told}")
    return used


def _package(label: str, paths: Mapping[str, Path], complexity: dict[str, int], notes: list[str]) -> dict[str, bytes]:
    """Files of the inference package; its own counts replace those of the files."""
    from edgekd.dcase import package as packaging

    files = packaging.package(label, paths)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), files)
        counted = packaging.complexity(next(Path(folder).rglob(packaging.INDEX)))
    largest = max(counted.values(), key=lambda each: (each["MACs"], each["Params"]))
    complexity |= {"macs": largest["MACs"], "total_model_size": largest["Params"], "total_parameters": largest["count"]}
    notes[:] = [
        "complexity as the organisers' script counts the inference package: MACs by torchinfo, with biases "
        "and average pools that are written as convolutions; bytes of parameters as stored"
    ]
    return {f"{packaging.FOLDER}/{name}": content for name, content in files.items()}


def _write(out: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write files below a folder; their places.

    Raises:
        InputError: a place that cannot be written.
    """
    try:
        for name, content in files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    return tuple(out / name for name in files)
