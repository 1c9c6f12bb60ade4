"""The forms of DCASE task 1 submissions, 2022 to 2025: names of files, columns of the output, keys of the meta file,
budgets.

Sources: the organisers' submission pages, their validator of 2024
(github.com/toni-heittola/dcase2024_task1_submission_validator) and their inference package of 2025. The validator of
2024 asks for results of one system, the page of that year for results of each split; edgekd writes both. For 2022 no
validator was found; its form is that of 2023 without energy.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.metrics.scores import Floats, Integers, log_loss

SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
RECORDERS = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
"""Recorders of the development set. s4, s5 and s6 are only in its test part."""
TRAINED_RECORDERS = RECORDERS[:6]
SPLITS = ("5", "10", "25", "50", "100")
"""Percent of the training clips that each system of 2024 is trained on."""
GENERAL = "general"
"""Key of the only model; in 2025 of the model for recorders that have no model of their own."""
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9-]*_[A-Za-z0-9-]+_task1_[1-4]")
LABEL_FORM = "LASTNAME_INSTITUTE_task1_N with N from 1 to 4, for instance Last_Inst_task1_1"
MAX_ABBREVIATION = 10
EVALUATION_CLIPS = 135730
"""Clips of the evaluation sets of 2023 and 2024, 0.wav to 135729.wav."""
MAX_MACS, MAX_PARAMS, MAX_BYTES = 30_000_000, 128_000, 128_000
PROBABILITY_FORMAT = ".8f"
META_SUFFIX = ".meta.yaml"
PERCENT_DIGITS, LOSS_DIGITS = 3, 5

DESCRIPTION = (
    "input_sampling_rate",
    "acoustic_features",
    "embeddings",
    "data_augmentation",
    "machine_learning_method",
    "ensemble_method_subsystem_count",
    "decision_making",
    "external_data_usage",
    "complexity_management",
    "pipeline",
    "framework",
)
DESCRIPTION_2025 = (
    "input_sampling_rate",
    "acoustic_features",
    "data_augmentation",
    "machine_learning_method",
    "external_data_usage",
    "complexity_management",
    "pipeline",
    "framework",
    "device_information",
    "num_models_at_inference",
    "model_weight_sharing",
)
COMPLEXITY = ("total_model_size", "total_parameters", "total_parameters_non_zero", "memory_use", "macs")
ENERGY = ("training", "inference", "baseline_inference")


@dataclass(frozen=True)
class Form:
    """The requirements of one year.

    Attributes:
        year: of the challenge.
        target: name of the target with its budgets.
        limit: key of `complexity` with a budget besides macs, and the budget.
        description: keys of that block of `system`.
        complexity: keys of that block of `system`.
        keys: of the models of one submission.
        results: blocks of results.development_dataset that hold overall, class_wise and device_wise; "" for
            results.development_dataset itself.
        energy: whether energy is reported.
        package: whether code is submitted, by a link.
        clips: number of clips in the evaluation set, None where it is not known.
        conventions: counting rules; the first that has counted a file is reported.
    """

    year: int
    target: str
    limit: tuple[str, int]
    description: tuple[str, ...] = DESCRIPTION
    complexity: tuple[str, ...] = COMPLEXITY
    keys: tuple[str, ...] = (GENERAL,)
    results: tuple[str, ...] = ("",)
    energy: bool = True
    package: bool = False
    clips: int | None = EVALUATION_CLIPS
    conventions: tuple[str, ...] = ("nessi_tflite", "torchinfo", "exact")

    def output_names(self, label: str) -> dict[str, str]:
        """Key of a model -> name of its output. In 2025 the models of all recorders have one output together."""
        if self.keys == SPLITS:
            return {split: f"{label}.output.split_{split}.csv" for split in SPLITS}
        return {GENERAL: f"{label}.output.csv"}


BYTES = ("total_model_size", MAX_BYTES)
FORMS = {
    2022: Form(2022, "dcase2022", ("total_parameters", MAX_PARAMS), energy=False, clips=None),
    2023: Form(2023, "dcase2023", BYTES),
    2024: Form(2024, "dcase2023", BYTES, keys=SPLITS, results=("", *(f"split_{split}" for split in SPLITS))),
    2025: Form(
        2025,
        "dcase2025",
        BYTES,
        DESCRIPTION_2025,
        ("total_model_size", "total_parameters", "macs"),
        (GENERAL, *TRAINED_RECORDERS),
        ("device_specific", "general"),
        energy=False,
        package=True,
        clips=None,
        conventions=("torchinfo", "exact"),
    ),
}
"""Year -> form."""


def form_of(year: int) -> Form:
    """The form of a year.

    Raises:
        InputError: no form of this year is known.
    """
    if year not in FORMS:
        raise InputError(f"--year {year}: wanted {', '.join(map(str, FORMS))}")
    return FORMS[year]


def main_key(models: Iterable[str]) -> str:
    """The key of the model that the meta file describes: the general one, or that of the largest split."""
    keys = list(models)
    return GENERAL if GENERAL in keys else max(keys, key=int)


def check_label(label: str) -> str:
    """The label, unchanged.

    Raises:
        InputError: it does not have the form that the rules ask for.
    """
    if not LABEL.fullmatch(label):
        raise InputError(f"--label '{label}': wanted {LABEL_FORM}")
    return label


def package_name(label: str) -> str:
    """Name of the Python package of 2025: the label without its number, with underscores alone."""
    return label.rpartition("_")[0].replace("-", "_")


def module_name(label: str) -> str:
    """Name of a submission's module inside its package."""
    return label.replace("-", "_")


def output_table(names: Sequence[str], probabilities: Floats, labels: Sequence[str]) -> bytes:
    """The output of a system: tab-separated with a header; the columns of scenes are in alphabetical order.

    Args:
        names: of the files, each once.
        probabilities: (files, labels), each row a distribution.
        labels: the ten scenes, in the order of the columns of `probabilities`.
    """
    ordered = probabilities[:, [list(labels).index(scene) for scene in SCENES]]  # (files, scenes)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["filename", "scene_label", *SCENES])
    for name, row in zip(names, ordered, strict=True):
        writer.writerow([name, SCENES[int(row.argmax())], *(format(value, PROBABILITY_FORMAT) for value in row)])
    return text.getvalue().encode("utf-8", "surrogateescape")


def development_scores(
    probabilities: Floats, sounding: NDArray[np.bool_], truth: Integers, labels: Sequence[str], recorders: Sequence[str]
) -> dict[str, object]:
    """The blocks overall, class_wise and device_wise of a development result, accuracies in percent.

    The overall accuracy is the mean of the class-wise ones, as the rules ask. Log losses are means over clips. A scene
    or recorder without a clip that is not silent has None.

    Args:
        probabilities: (clips, labels).
        sounding: (clips,) which clips are not digital silence.
        truth: (clips,) index into `labels`.
        labels: names, in the order of the columns of `probabilities`.
        recorders: (clips,) names.
    """
    right = probabilities.argmax(axis=1) == truth

    def score(chosen: NDArray[np.bool_]) -> dict[str, float | None]:
        if not (chosen := chosen & sounding).any():
            return {"accuracy": None, "logloss": None}
        return {
            "accuracy": _percent(right[chosen].mean()),
            "logloss": round(log_loss(probabilities[chosen], truth[chosen]), LOSS_DIGITS),
        }

    class_wise = {scene: score(truth == list(labels).index(scene)) for scene in SCENES}
    known = [float(right[sounding & (truth == index)].mean()) for index in np.unique(truth[sounding])]
    overall = score(np.ones(len(truth), bool)) | ({"accuracy": _percent(np.mean(known))} if known else {})
    names = np.array(recorders, dtype=object)
    return {
        "overall": overall,
        "class_wise": class_wise,
        "device_wise": {name: score(names == name) for name in RECORDERS},
    }


def empty_scores() -> dict[str, object]:
    """The blocks of `development_scores` where nothing was measured."""
    empty = {"accuracy": None, "logloss": None}
    return {
        "overall": dict(empty),
        "class_wise": {scene: dict(empty) for scene in SCENES},
        "device_wise": {name: dict(empty) for name in RECORDERS},
    }


def _percent(share: np.floating | float) -> float:
    return round(100 * float(share), PERCENT_DIGITS)
