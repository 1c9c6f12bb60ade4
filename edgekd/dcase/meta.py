"""The meta file of a DCASE task 1 submission: from manifests, counts, results, and a TOML file that the submitter fills
in."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgekd.dcase.forms import MAX_ABBREVIATION, RECORDERS, Form, main_key
from edgekd.errors import InputError
from edgekd.modelfile.manifest import Manifest
from edgekd.text import printable
from edgekd.yaml_text import yaml_text

TEMPLATE = """# Values that 'edgekd submission --system' needs from you. The rest comes from files, counts and scores.
name = "Distilled int8 student"        # for the tables of results
abbreviation = "edgekd"                # at most 10 characters
source_code = ""                       # address of the training code, if it is public
inference_code = ""                    # 2025, required: address of the inference package

[[authors]]                            # in the order of the report; exactly one is corresponding
lastname = "Last"
firstname = "First"
email = "first.last@inst.example"
corresponding = true

[authors.affiliation]
abbreviation = "INST"
institute = "Institute"
department = ""
location = "City, Country"

[description]                          # replaces values from the model files; the keys of the year's form
data_augmentation = ""                 # e.g. "freq-mixstyle, time rolling"
external_data_usage = ""               # e.g. "pre-trained model"

[energy]                               # 2023 and 2024, kWh; inference is measured by --energy
# training = 0.5

# [[external_datasets]]                # one for each, pre-trained models too
# name = "PaSST"
# url = "https://github.com/kkoutini/PaSST"
# total_audio_length = 5000            # minutes
"""


class Affiliation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The affiliation of an author."""

    institute: str
    abbreviation: str = ""
    department: str = ""
    location: str = ""


class Author(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One author. corresponding: true for exactly one author, who answers questions."""

    lastname: str
    firstname: str
    email: str
    affiliation: Affiliation
    corresponding: bool = False


class ExternalDataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data or weights besides the development set. total_audio_length: minutes."""

    name: str
    url: str
    total_audio_length: float | None = None


class TrainingEnergy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """training: kWh of the whole training, None where it was not measured."""

    training: float | None = None


class SystemDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values of a system that the submitter gives. description: key of the form -> text that replaces the value
    from the model files."""

    name: str
    abbreviation: str
    authors: tuple[Author, ...]
    source_code: str = ""
    inference_code: str = ""
    description: dict[str, str | int] = {}
    energy: TrainingEnergy = TrainingEnergy()
    external_datasets: tuple[ExternalDataset, ...] = ()

    def check(self, where: str, form: Form) -> None:
        """Check the values against the form. where: the file's name, for errors.

        Raises:
            InputError: a value that the organisers would refuse; the error names key and value.
        """
        corresponding = sum(author.corresponding for author in self.authors)
        if corresponding != 1:
            raise InputError(
                f"{where}: {corresponding} of {len(self.authors)} authors are corresponding; mark exactly one"
            )
        if not 1 <= len(self.abbreviation) <= MAX_ABBREVIATION:
            raise InputError(
                f"{where}: abbreviation '{self.abbreviation}' has {len(self.abbreviation)} characters; give 1 to "
                f"{MAX_ABBREVIATION}"
            )
        unknown = [key for key in self.description if key not in form.description]
        if unknown:
            raise InputError(
                f"{where}: [description] '{unknown[0]}' is not in the form of {form.year} (it has "
                f"{', '.join(form.description)})"
            )


class Energy(msgspec.Struct, frozen=True):
    """kWh of predicting the development-test set, or as many windows. baseline_inference: of the official baseline on
    the same machine."""

    inference: float | None = None
    baseline_inference: float | None = None

    @property
    def normalised(self) -> float | None:
        """Energy of inference divided by that of the baseline; None where one is missing."""
        return (
            self.inference / self.baseline_inference if self.inference is not None and self.baseline_inference else None
        )


def meta(
    form: Form,
    label: str,
    system: SystemDescription,
    models: Mapping[str, Manifest],
    complexity: Mapping[str, int],
    results: Mapping[str, Mapping[str, Any]],
    energy: Energy,
) -> dict[str, Any]:
    """The document of a meta file.

    Args:
        form: of the year.
        label: of the submission.
        system: the submitter's values.
        models: by the form's keys.
        complexity: of the most complex model, by `form.complexity`.
        results: block of the form's `results` -> overall, class_wise, device_wise.
        energy: as measured.
    """
    main = models[main_key(models)]
    described = _description(main, models, form) | {
        key: value for key, value in system.description.items() if value != ""
    }
    block: dict[str, Any] = {}
    if form.package:
        block["inference_code"] = system.inference_code or None
    block["source_code"] = system.source_code or None
    block["description"] = {key: described.get(key) for key in form.description}
    block["complexity"] = {key: complexity[key] for key in form.complexity}
    if form.energy:
        block["energy_consumption"] = {"training": system.energy.training, **msgspec.structs.asdict(energy)}
    block["external_datasets"] = [msgspec.structs.asdict(each) for each in system.external_datasets] or None
    development: dict[str, Any] = {}
    for name, result in results.items():
        development |= result if not name else {name: result}
    submission = {
        "label": label,
        "name": system.name,
        "abbreviation": system.abbreviation,
        "authors": [msgspec.to_builtins(author) for author in system.authors],
    }
    return {"submission": submission, "system": block, "results": {"development_dataset": development}}


def meta_text(document: Mapping[str, Any], notes: Sequence[str]) -> str:
    """A meta file, with notes as comments at its head."""
    return "".join(f"# {printable(note)}\n" for note in notes) + yaml_text(document)


def _description(main: Manifest, models: Mapping[str, Manifest], form: Form) -> dict[str, str | int | None]:
    """The description of a system by its manifests."""
    taught = bool(main.provenance.teachers)
    int8 = main.precision == "int8"
    own = sorted(set(models) & set(RECORDERS))
    stages = [
        *(["train teachers", "train student with knowledge distillation"] if taught else ["train student"]),
        *(["quantization-aware training"] if int8 else []),
        *(["device-specific fine-tuning"] if own else []),
    ]
    managed = [
        *(["knowledge distillation"] if taught else []),
        *(["weight quantization"] if int8 else []),
        "network design",
    ]
    return {
        "input_sampling_rate": f"{main.frontend.sample_rate / 1000:g}kHz",
        "acoustic_features": "log-mel energies",
        "machine_learning_method": main.student,
        "ensemble_method_subsystem_count": 1,
        "decision_making": "maximum likelihood",
        "complexity_management": ", ".join(managed),
        "pipeline": ", ".join(stages),
        "framework": "pytorch",
        "device_information": "per-device fine-tuning" if own else None,
        "num_models_at_inference": len(models) if form.package else None,
        "model_weight_sharing": "fully device-specific" if own else "fully shared",
    }
