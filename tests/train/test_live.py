"""Live teachers, teacher views and segments: trainings resume to the same bits, and teachers never change. Past 400
lines for the many combinations that are refused."""

import logging
import shutil

import numpy as np
import pytest
import torch
from helpers.training_runs import (
    PowerCutError,
    assert_refused,
    equal_states,
    metrics_of,
    stop_in_epoch,
    teacher_recipe,
    weights_of,
)
from helpers.trainings import recipe_dict, write_store

from edgekd.errors import InputError
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.training import Options, train
from edgekd.train.loss.objective import Objective
from edgekd.train.prepare import prepared
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import MODEL_FILE, QAT_FILE, load_run
from edgekd.train.teachers import soft_labels
from edgekd.train.teachers.live import LiveTeacher

QUIET, RESUME = Options(threads=1), Options(threads=1, resume=True)
TAPS = [{"loss": "kd"}, {"loss": "embedding"}, {"loss": "centre", "weight": 0.01}]
TEXTURES = [
    {"loss": "kd"},
    {"loss": "structural", "student": "features.1", "teacher": "features.0"},
    {"loss": "statistical", "student": "features.1", "teacher": "features.0"},
    {"loss": "embedding", "distance": "cosine"},
]
WAYS = {
    "live": {"teaching": "live", "terms": TAPS},
    "same": {"teaching": "same", "terms": TEXTURES, "weights": "learned"},
    "repeat": {"teaching": "same", "repeat": 1},
    "views": {"teaching": "views", "views": 2},
    "segments": {"teaching": "clip"},
}
"""[distill] of a recipe, by the name of a test case. For "segments" the view of the teacher differs."""


def student(distill, **changes):
    return decode(
        recipe_dict(
            distill=distill,
            **{"train": {"epochs": 2, "test_every": 0, "ema_decay": 0.5}, "qat": {"epochs": 0}, **changes},
        ),
        "student",
    )


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_teaching_resumes_to_the_same_bits_and_leaves_the_teacher_alone(
    store, teachers, tmp_path, monkeypatch, way
):
    teacher, recipe = teachers / ("parts" if way == "segments" else "whole"), student(WAYS[way])
    before = weights_of(teacher)
    straight = train(recipe, store, tmp_path / "straight", [teacher], QUIET)
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1)
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "cut", [teacher], QUIET)
    resumed = train(recipe, store, tmp_path / "cut", [teacher], RESUME)
    assert equal_states(weights_of(straight.path), weights_of(resumed.path))
    assert metrics_of(straight.path) == metrics_of(resumed.path)
    assert resumed.info.metrics == straight.info.metrics
    assert equal_states(before, weights_of(teacher))
    for row in metrics_of(straight.path):
        weighted = [float(value) for name, value in row.items() if name.endswith("_weighted") and value]
        assert float(row["loss"]) == pytest.approx(sum(weighted), rel=1e-5)
        names = {loss.loss for loss in recipe.distill.terms} or {"kd"}
        assert {"label", *names} <= {name for name, value in row.items() if value}
        assert {f"{name}_weighted" for name in names} <= row.keys()


@pytest.mark.parametrize("way", ["live", "same"])
@pytest.mark.slow
def test_live_teachers_run_in_the_quantization_aware_phase_too(store, teachers, tmp_path, monkeypatch, way):
    qat = {"epochs": 2, "batch_size": 8, "freeze_epochs": 1, "calibration_clips": 8}
    recipe = student(WAYS[way], train={"epochs": 1}, qat={**qat, "float_weight": 0.5})
    straight = train(recipe, store, tmp_path / "straight", [teachers / "whole"], QUIET)
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1, "qat")
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "cut", [teachers / "whole"], QUIET)
    resumed = train(recipe, store, tmp_path / "cut", [teachers / "whole"], RESUME)
    assert metrics_of(straight.path) == metrics_of(resumed.path)
    [*_, row] = metrics_of(straight.path)
    assert (row["phase"], row["embedding"]) == ("qat", "")  # taps are of the float network
    assert row["kd"]
    assert row["float"]
    others = student(WAYS[way], train={"epochs": 1}, qat={**qat, "float_weight": 1.0})
    alone = train(others, store, tmp_path / "alone", [teachers / "whole"], QUIET)
    assert equal_states(weights_of(alone.path), weights_of(straight.path))
    assert not equal_states(*(torch.load(run.path / QAT_FILE, weights_only=True) for run in (alone, straight)))


def test_the_objective_s_parameters_train_and_are_in_the_checkpoint(store, teachers, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1)
        with pytest.raises(PowerCutError):
            train(student(WAYS["same"]), store, tmp_path / "s", [teachers / "whole"], QUIET)
    state = torch.load(tmp_path / "s" / "last.ckpt", weights_only=True)["state_dict"]
    learned = {name: value for name, value in state.items() if name.startswith("objective.logs.")}
    assert {name.rpartition(".")[2] for name in learned} == {"label", "kd", "structural", "statistical", "embedding"}
    assert all(value != 0 for value in learned.values())
    assert any(name.startswith("objective.terms.embedding.") for name in state)
    assert not any(name.startswith("live") for name in state)


@pytest.mark.parametrize("way", ["live", "same"])
def test_a_live_teacher_never_changes_while_it_teaches(store, teachers, tmp_path, monkeypatch, way):
    """Its network in memory, weights and normalisation statistics, and not only its file."""
    seen = []
    fitted = TrainingModule.on_fit_end

    def look(self):
        seen.extend((dict(teacher.network.state_dict()), teacher.network.training) for teacher in self.live)
        fitted(self)

    monkeypatch.setattr(TrainingModule, "on_fit_end", look)
    train(student(WAYS[way]), store, tmp_path / "s", [teachers / "whole"], QUIET)
    [(state, training)] = seen
    assert not training
    assert equal_states(state, weights_of(teachers / "whole"))


def test_one_teacher_trains_the_same_student_however_it_is_blended(store, teachers, tmp_path):
    runs = [
        train(
            student({"blend": blend, "teaching": "live", "terms": TAPS}),
            store,
            tmp_path / blend,
            [teachers / "whole"],
            QUIET,
        )
        for blend in ("mean_prob", "mean_logit", "sum_kl", "confidence")
    ]
    for run in runs[1:]:
        assert equal_states(weights_of(runs[0].path), weights_of(run.path))
        assert metrics_of(runs[0].path) == metrics_of(run.path)


def test_ways_of_teaching_teach_differently(store, teachers, tmp_path):
    found = [
        weights_of(train(student(distill), store, tmp_path / name, [teachers / teacher], QUIET).path)
        for name, teacher, distill in (
            ("clip", "whole", {}),
            ("views", "whole", WAYS["views"]),
            ("live", "whole", {"teaching": "live"}),
            ("same", "whole", {"teaching": "same"}),
            ("repeat", "whole", WAYS["repeat"]),
            ("parts", "parts", {}),
            ("alone", "whole", {"kd_weight": 0.0}),
        )
    ]
    for number, one in enumerate(found):
        assert not any(equal_states(one, other) for other in found[:number])


def test_teachers_run_once_on_each_item_that_repeats(store, teachers, tmp_path, monkeypatch):
    rows, steps, logits = [], [], []
    run, augment, make_targets = LiveTeacher.__call__, TrainingModule.augmented, Objective.targets

    def counted(self, x):
        rows.append(len(x))
        return run(self, x)

    def kept_waveforms(self, batch):
        if not steps:
            rows.clear()  # the checks before the first epoch ran the teacher too
        waveform, x = augment(self, batch)
        steps.append((self.current_epoch, batch["clip"][: len(waveform)].tolist(), waveform))
        return waveform, x

    def kept_logits(self, label, teacher_logits, *others):
        logits.append(teacher_logits[0])
        return make_targets(self, label, teacher_logits, *others)

    monkeypatch.setattr(LiveTeacher, "__call__", counted)
    monkeypatch.setattr(TrainingModule, "augmented", kept_waveforms)
    monkeypatch.setattr(Objective, "targets", kept_logits)
    recipe = student({"teaching": "same", "repeat": 2}, train={"epochs": 5, "test_every": 0}, augment={"mixup_p": 0.5})
    train(recipe, store, tmp_path / "s", [teachers / "whole"], QUIET)
    seen = {
        (epoch, item): (waveform, values)
        for (epoch, items, waveforms), batch_logits in zip(steps, logits, strict=True)
        for item, waveform, values in zip(items, waveforms, batch_logits, strict=True)
    }
    items = {item for _, item in seen}
    assert sum(rows) == 2 * len(items)
    for (epoch, item), (waveform, values) in seen.items():
        assert torch.equal(waveform, seen[epoch % 2, item][0])
        assert torch.equal(values, seen[epoch % 2, item][1])
    assert any(not torch.equal(seen[0, item][0], seen[1, item][0]) for item in items)


def test_repeats_need_logits_of_teachers_with_the_student_s_input(store, teachers, tmp_path):
    for distill, message in (
        ({"repeat": 2}, "distill.repeat = 2 needs teachers with the student's own input"),
        ({**WAYS["same"], "repeat": 2}, "distill.repeat = 2 keeps only the teachers' logits"),
    ):
        with pytest.raises(InputError, match=message):
            train(student(distill), store, tmp_path / "s", [teachers / "whole"], QUIET)


def test_views_are_computed_once_and_a_changed_teacher_is_refused(store, teachers, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "edgekd")
    teacher, recipe = teachers / "whole", student(WAYS["views"])
    first = train(recipe, store, tmp_path / "first", [teacher], QUIET)
    assert "2 views each" in caplog.text
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(soft_labels, "logits_of_view", None)  # nothing is left to compute
        second = train(recipe, store, tmp_path / "second", [teacher], QUIET)
    assert "computing" not in caplog.text
    assert equal_states(weights_of(first.path), weights_of(second.path))
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1)
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "cut", [teacher], QUIET)
    changed = weights_of(teacher)
    changed["classifier.dense.conv.bias"] += 1
    torch.save(changed, teacher / MODEL_FILE)
    with pytest.raises(InputError, match=r"another list of teachers .*--force"):
        train(recipe, store, tmp_path / "cut", [teacher], RESUME)


def test_an_interrupted_export_of_views_goes_on_within_a_training(store, teachers, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "edgekd")
    monkeypatch.setattr(soft_labels, "PART_CLIPS", 8)
    teacher, recipe = teachers / "whole", student(WAYS["views"])
    straight = train(recipe, store, tmp_path / "straight", [shutil.copytree(teacher, tmp_path / "copy")], QUIET)
    compute, left = soft_labels.logits_of_view, [5]

    def stopped(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return compute(*args)

    with monkeypatch.context() as patch:
        patch.setattr(soft_labels, "logits_of_view", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, store, tmp_path / "s", [teacher], QUIET)
    caplog.clear()
    started = (tmp_path / "s").exists()
    run = train(recipe, store, tmp_path / "s", [teacher], RESUME if started else QUIET)
    assert "parts are there already" in caplog.text
    assert equal_states(weights_of(straight.path), weights_of(run.path))


def test_crops_have_the_soft_labels_of_the_segment_in_each_teacher_s_own_input(store, teachers, tmp_path, monkeypatch):
    """Where a teacher's input has each clip twice, all crops lie in the first of two segments; where it has it once, in
    both."""
    train(
        teacher_recipe(teacher={"widths": [6]}, view={"segments": 2, "seconds": 3.0}),
        store,
        tmp_path / "twice",
        options=QUIET,
    )
    really = prepared.soft_labels

    def spoilt(run, *args):
        key, logits = really(run, *args)
        if spoil == run.path.name:
            logits = logits.copy()
            logits[:, 1] += np.arange(3, dtype=np.float16)
        return key, logits

    monkeypatch.setattr(prepared, "soft_labels", spoilt)
    found = []
    for spoil in ("", "twice", "parts"):
        taught_by = [teachers / "whole", teachers / "parts", tmp_path / "twice"]
        found.append(weights_of(train(student({}), store, tmp_path / f"s{spoil}", taught_by, QUIET).path))
    assert equal_states(found[0], found[1])
    assert not equal_states(found[0], found[2])


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"student": "feature.1"}, r"no module 'feature\.1'.*features"),
        ({"teacher": "classifer"}, r"no module 'classifer'.*classifier"),
        ({"project": False}, r"embedding of 'embedding' and 'embedding' of teacher 0: .*8.*6"),
        ({"teachers": [1]}, "names teacher 1, but there is one teacher, number 0"),
        ({"temperature": 2.0}, "temperature = 2.0 is no option of this loss"),
    ],
)
def test_a_wrong_tap_is_named_before_anything_is_written(store, teachers, tmp_path, term, message):
    assert_refused(
        message,
        student({"teaching": "live", "terms": [{"loss": "embedding", **term}]}),
        store,
        tmp_path / "s",
        [teachers / "whole"],
        QUIET,
        path=tmp_path / "s",
    )


@pytest.mark.parametrize("teaching", ["live", "same"])
def test_a_teacher_of_segments_cannot_run_live(store, teachers, tmp_path, teaching):
    assert_refused(
        f'view.segments = 2 .* distill.teaching "{teaching}"',
        student({"teaching": teaching}),
        store,
        tmp_path / "s",
        [teachers / "parts"],
        QUIET,
        path=tmp_path / "s",
    )


def test_a_bf16_teacher_has_the_logits_of_autocast(store, teachers):
    run = load_run(teachers / "whole")
    x = torch.randn(4, 1, run.frontend.n_mels, 30)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = run.float_model().eval()(x).float()
    assert torch.equal(LiveTeacher(run, store, store.indices(["a"]), 0, (), "bf16")(x)[0], expected)


def test_a_teacher_of_windows_teaches_by_them_or_by_the_student_s_input(store, tmp_path):
    train(teacher_recipe(view={"span": "crop", "seconds": 0.5, "segments": 4}), store, tmp_path / "t", options=QUIET)
    students = {
        way: train(student({"teaching": way}), store, tmp_path / way, [tmp_path / "t"], QUIET)
        for way in ("clip", "same")
    }
    assert not equal_states(weights_of(students["clip"].path), weights_of(students["same"].path))
    assert len(list((tmp_path / "t" / "softlabels").glob("*.npy"))) == 1
    assert_refused(
        'view.segments = 4 .* distill.teaching "views"',
        student({"teaching": "views"}),
        store,
        tmp_path / "s",
        [tmp_path / "t"],
        QUIET,
        path=tmp_path / "s",
    )


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (
            {"span": "pair", "segments": 2},
            'view.segments = 2 with view.span = "pair"; segments are of "crop", "clip" and "parent"',
        ),
        ({"span": "clip", "segments": 99}, "too few for 99 segments"),
    ],
)
def test_impossible_segments_are_refused_before_the_teacher_is_trained(store, tmp_path, view, message):
    assert_refused(message, teacher_recipe(view=view), store, tmp_path / "t", (), QUIET, path=tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"time_stretch": 1.2}}, "augment.time_stretch changes the student's log-mel"),
        ({"augment": {"mixup_domain": "log_mel"}}, 'augment.mixup_domain = "log_mel" changes'),
        ({"augment": {"mixstyle_p": 0.5}}, "augment.mixstyle_p changes"),
    ],
)
def test_augmentation_of_the_log_mel_is_refused_for_teachers_with_another_front_end(
    store, teachers, tmp_path, changes, message
):
    recipe = student({"teaching": "same"}, frontend={"n_mels": 12}, **changes)
    assert_refused(message, recipe, store, tmp_path / "s", [teachers / "whole"], QUIET, path=tmp_path / "s")
    assert train(student({"teaching": "same"}, **changes), store, tmp_path / "s", [teachers / "whole"], QUIET)


def test_an_input_too_short_for_a_teacher_is_refused(store, tmp_path):
    deep = {"widths": [6, 6, 6], "kernels": [[3, 3]] * 3, "groups": [1] * 3, "pools": [0, 1, 2]}
    train(teacher_recipe(teacher=deep), store, tmp_path / "t", options=QUIET)
    recipe = student({"teaching": "same"}, view={"seconds": 0.25})
    assert_refused(
        r"t: the teacher cannot compute 2000 samples, channels 1 .*view\.seconds.*\"live\"",
        recipe,
        store,
        tmp_path / "s",
        [tmp_path / "t"],
        QUIET,
        path=tmp_path / "s",
    )
    assert train(student({"teaching": "live"}, view={"seconds": 0.25}), store, tmp_path / "s", [tmp_path / "t"], QUIET)


def test_a_live_teacher_of_other_labels_is_refused(teachers, tmp_path):
    other = write_store(tmp_path / "other", tones={"high": 3000.0, "low": 300.0, "deep": 200.0})
    assert_refused(
        r"whole: the teacher's 3 labels are not the 3 of .*\(not in both: deep, mid\)",
        student({"teaching": "live"}),
        other,
        tmp_path / "s",
        [teachers / "whole"],
        QUIET,
        path=tmp_path / "s",
    )
