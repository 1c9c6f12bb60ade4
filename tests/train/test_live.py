"""Teachers that listen while a student trains, views and segments: training goes on to the same bits, and teachers stay
as they are."""

import csv
import logging
import shutil

import numpy as np
import pytest
import torch
from helpers.trainings import recipe_dict, write_store

from edgekd.errors import InputError
from edgekd.train.loop import training
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.training import Options, train
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import METRICS_FILE, MODEL_FILE, QAT_FILE, load_run
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
"""What [distill] has in a recipe, by the name of a test's case; of "segments" it is the teacher's view that matters."""


class PowerCutError(Exception):
    pass


def cut(monkeypatch, epoch, phase="float"):
    """Make a training stop when an epoch begins."""
    begin = TrainingModule.on_train_epoch_start

    def stop(self):
        if (self.phase_name, self.current_epoch) == (phase, epoch):
            raise PowerCutError
        begin(self)

    monkeypatch.setattr(TrainingModule, "on_train_epoch_start", stop)


def student(distill, **changes):
    return decode(
        recipe_dict(
            distill=distill,
            **{"train": {"epochs": 2, "test_every": 0, "ema_decay": 0.5}, "qat": {"epochs": 0}, **changes},
        ),
        "student",
    )


def teacher_recipe(**changes):
    return decode(recipe_dict("teacher", **{"train": {"epochs": 1, "test_every": 0}, **changes}), "teacher")


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    """A teacher of six channels, which a student of eight has to be projected to, and one that judges two segments of
    each clip."""
    folder = tmp_path_factory.mktemp("teachers")
    wide = {"widths": [6]}
    train(teacher_recipe(teacher=wide), store, folder / "whole", options=QUIET)
    train(teacher_recipe(teacher=wide, view={"segments": 2}), store, folder / "parts", options=QUIET)
    return folder


@pytest.fixture
def teachers(made, tmp_path):
    shutil.copytree(made, tmp_path / "teachers")
    return tmp_path / "teachers"


def weights(path):
    return torch.load(path / MODEL_FILE, weights_only=True)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows_of(path):
    return list(csv.DictReader((path / METRICS_FILE).read_text().splitlines()))


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_teaching_resumes_to_the_same_bits_and_leaves_the_teacher_alone(
    store, teachers, tmp_path, monkeypatch, way
):
    teacher, recipe = teachers / ("parts" if way == "segments" else "whole"), student(WAYS[way])
    before = weights(teacher)
    straight = train(recipe, store, tmp_path / "straight", [teacher], QUIET)
    with monkeypatch.context() as patch:
        cut(patch, 1)
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "cut", [teacher], QUIET)
    resumed = train(recipe, store, tmp_path / "cut", [teacher], RESUME)
    assert equal(weights(straight.path), weights(resumed.path))
    assert rows_of(straight.path) == rows_of(resumed.path)
    assert resumed.info.metrics == straight.info.metrics
    assert equal(before, weights(teacher))
    for row in rows_of(straight.path):
        weighted = [float(value) for name, value in row.items() if name.endswith("_weighted") and value]
        assert float(row["loss"]) == pytest.approx(sum(weighted), rel=1e-5)
        names = {loss.loss for loss in recipe.distill.terms} or {"kd"}
        assert {"label", *names} <= {name for name, value in row.items() if value}
        assert {f"{name}_weighted" for name in names} <= row.keys()


@pytest.mark.parametrize("way", ["live", "same"])
def test_teachers_listen_in_the_quantization_aware_phase_too(store, teachers, tmp_path, monkeypatch, way):
    qat = {"epochs": 2, "batch_size": 8, "freeze_epochs": 1, "calibration_clips": 8}
    recipe = student(WAYS[way], train={"epochs": 1}, qat={**qat, "float_weight": 0.5})
    straight = train(recipe, store, tmp_path / "straight", [teachers / "whole"], QUIET)
    with monkeypatch.context() as patch:
        cut(patch, 1, "qat")
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "cut", [teachers / "whole"], QUIET)
    resumed = train(recipe, store, tmp_path / "cut", [teachers / "whole"], RESUME)
    assert rows_of(straight.path) == rows_of(resumed.path)
    [*_, row] = rows_of(straight.path)
    assert (row["phase"], row["embedding"]) == ("qat", "")  # taps are of the float network
    assert row["kd"]
    assert row["float"]
    others = student(WAYS[way], train={"epochs": 1}, qat={**qat, "float_weight": 1.0})
    alone = train(others, store, tmp_path / "alone", [teachers / "whole"], QUIET)
    assert equal(weights(alone.path), weights(straight.path))
    assert not equal(*(torch.load(run.path / QAT_FILE, weights_only=True) for run in (alone, straight)))


def test_what_learns_beside_the_network_is_in_the_checkpoint_and_learns(store, teachers, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut(patch, 1)
        with pytest.raises(PowerCutError):
            train(student(WAYS["same"]), store, tmp_path / "s", [teachers / "whole"], QUIET)
    state = torch.load(tmp_path / "s" / "last.ckpt", weights_only=True)["state_dict"]
    learned = {name: value for name, value in state.items() if name.startswith("objective.logs.")}
    assert {name.rpartition(".")[2] for name in learned} == {"label", "kd", "structural", "statistical", "embedding"}
    assert all(value != 0 for value in learned.values())
    assert any(name.startswith("objective.terms.embedding.") for name in state)
    assert not any(name.startswith("live") for name in state)


@pytest.mark.parametrize("way", ["live", "same"])
def test_a_teacher_that_listens_never_changes_while_it_teaches(store, teachers, tmp_path, monkeypatch, way):
    """Its network, as it is in memory, and not only what is on disk: weights and the statistics of its
    normalisation."""
    seen = []
    fitted = TrainingModule.on_fit_end

    def look(self):
        seen.extend((dict(teacher.network.state_dict()), teacher.network.training) for teacher in self.live)
        fitted(self)

    monkeypatch.setattr(TrainingModule, "on_fit_end", look)
    train(student(WAYS[way]), store, tmp_path / "s", [teachers / "whole"], QUIET)
    [(state, training)] = seen
    assert not training
    assert equal(state, weights(teachers / "whole"))


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
        assert equal(weights(runs[0].path), weights(run.path))
        assert rows_of(runs[0].path) == rows_of(run.path)


def test_ways_of_teaching_teach_differently(store, teachers, tmp_path):
    found = [
        weights(train(student(distill), store, tmp_path / name, [teachers / teacher], QUIET).path)
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
        assert not any(equal(one, other) for other in found[:number])


def test_teachers_listen_to_what_is_repeated_once(store, teachers, tmp_path, monkeypatch):
    counts, heard = [], {}
    listen, step = TrainingModule._listening, TrainingModule._taught

    def counted(self, number, teacher, batch, waveform, x):
        counts.append(len(x))
        return listen(self, number, teacher, batch, waveform, x)

    def kept(self, batch, waveform, x):
        said, taps = step(self, batch, waveform, x)
        for item, sound, logits in zip(batch["clip"][: len(batch["partner"])].tolist(), waveform, said[0], strict=True):
            heard.setdefault((self.current_epoch, item), (sound.clone(), logits))
        return said, taps

    monkeypatch.setattr(TrainingModule, "_listening", counted)
    monkeypatch.setattr(TrainingModule, "_taught", kept)
    recipe = student({"teaching": "same", "repeat": 2}, train={"epochs": 5, "test_every": 0}, augment={"mixup_p": 0.5})
    train(recipe, store, tmp_path / "s", [teachers / "whole"], QUIET)
    items = {item for _, item in heard}
    assert sum(counts) == 2 * len(items)
    for (epoch, item), (sound, logits) in heard.items():
        assert torch.equal(sound, heard[epoch % 2, item][0])
        assert torch.equal(logits, heard[epoch % 2, item][1])
    assert any(not torch.equal(heard[0, item][0], heard[1, item][0]) for item in items)


def test_repeats_are_for_logits_of_teachers_that_hear_the_same(store, teachers, tmp_path):
    for distill, message in (
        ({"repeat": 2}, "distill.repeat = 2 is for teachers that hear what the student hears"),
        ({**WAYS["same"], "repeat": 2}, "distill.repeat = 2 remembers the teachers' logits only"),
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
        patch.setattr(soft_labels, "_of_view", None)  # nothing is left to compute
        second = train(recipe, store, tmp_path / "second", [teacher], QUIET)
    assert "computing" not in caplog.text
    assert equal(weights(first.path), weights(second.path))
    with monkeypatch.context() as patch:
        cut(patch, 1)
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "cut", [teacher], QUIET)
    changed = weights(teacher)
    changed["classifier.dense.conv.bias"] += 1
    torch.save(changed, teacher / MODEL_FILE)
    with pytest.raises(
        InputError, match=r"begun with another list of teachers \(.*resume with the same, or begin anew with --force"
    ):
        train(recipe, store, tmp_path / "cut", [teacher], RESUME)


def test_an_interrupted_export_of_views_goes_on_within_a_training(store, teachers, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "edgekd")
    monkeypatch.setattr(soft_labels, "PART_CLIPS", 8)
    teacher, recipe = teachers / "whole", student(WAYS["views"])
    straight = train(recipe, store, tmp_path / "straight", [shutil.copytree(teacher, tmp_path / "copy")], QUIET)
    compute, left = soft_labels._of_view, [5]

    def stopped(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return compute(*args)

    with monkeypatch.context() as patch:
        patch.setattr(soft_labels, "_of_view", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, store, tmp_path / "s", [teacher], QUIET)
    caplog.clear()
    begun = (tmp_path / "s").exists()
    run = train(recipe, store, tmp_path / "s", [teacher], RESUME if begun else QUIET)
    assert "parts are there already" in caplog.text
    assert equal(weights(straight.path), weights(run.path))


def test_each_teacher_judges_the_part_of_what_it_hears_itself(store, teachers, tmp_path, monkeypatch):
    """Of a teacher that hears each clip twice in a row, crops lie in the first of two parts; of one that hears it once,
    in both."""
    train(
        teacher_recipe(teacher={"widths": [6]}, view={"segments": 2, "seconds": 3.0}),
        store,
        tmp_path / "twice",
        options=QUIET,
    )
    really = training.soft_labels

    def spoilt(run, *args):
        key, logits = really(run, *args)
        if spoil == run.path.name:
            logits = logits.copy()
            logits[:, 1] += np.arange(3, dtype=np.float16)
        return key, logits

    monkeypatch.setattr(training, "soft_labels", spoilt)
    found = []
    for spoil in ("", "twice", "parts"):
        taught_by = [teachers / "whole", teachers / "parts", tmp_path / "twice"]
        found.append(weights(train(student({}), store, tmp_path / f"s{spoil}", taught_by, QUIET).path))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


def test_a_run_begins_with_the_weights_of_another_and_says_what_is_new(store, teachers, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "edgekd")
    begun, fit = [], TrainingModule.on_fit_start

    def look(self):
        begun.append({name: value.clone() for name, value in self.model.state_dict().items()})
        fit(self)

    monkeypatch.setattr(TrainingModule, "on_fit_start", look)
    table = {"init": {"run": str(teachers / "whole")}, "teacher": {"widths": [6]}}
    run = train(teacher_recipe(**table), store, tmp_path / "again", options=QUIET)
    assert equal(begun[0], weights(teachers / "whole"))
    assert run.info.init == load_run(teachers / "whole").weights_hash
    assert not equal(weights(run.path), begun[0])
    labels = write_store(tmp_path / "labels", tones={"deep": 200.0, "high": 3000.0, "low": 600.0, "mid": 1000.0})
    train(teacher_recipe(**table), labels, tmp_path / "more", options=QUIET)
    old = weights(teachers / "whole")
    assert all(torch.equal(begun[1][name], old[name]) for name in old if not name.startswith("classifier"))
    assert begun[1]["classifier.dense.conv.weight"].shape[0] == 4
    assert "new are classifier.dense.conv.weight, classifier.dense.conv.bias" in caplog.text
    same = student({"teaching": "live"}, init={"run": "teacher"}, student={"widths": [6]})
    train(same, store, tmp_path / "s", [teachers / "whole"], QUIET)
    assert equal(begun[2], old)


def test_adapting_the_head_leaves_the_backbone_as_it_was(store, teachers, tmp_path):
    old = weights(teachers / "whole")
    run = train(
        teacher_recipe(
            init={"run": str(teachers / "whole"), "adapt": "head"},
            teacher={"widths": [6], "dropout": 0.3},
            train={"ema_decay": 0.5},
        ),
        store,
        tmp_path / "head",
        options=QUIET,
    )
    new = weights(run.path)
    assert {name for name in new if not torch.equal(new[name], old[name])} == {
        "classifier.dense.conv.weight",
        "classifier.dense.conv.bias",
    }


def test_adapting_nothing_trains_nothing(store, teachers, tmp_path):
    run = train(
        teacher_recipe(init={"run": str(teachers / "whole"), "adapt": "none"}, teacher={"widths": [6]}),
        store,
        tmp_path / "none",
        options=QUIET,
    )
    assert equal(weights(run.path), weights(teachers / "whole"))
    assert run.info.metrics == load_run(teachers / "whole").info.metrics
    assert not (run.path / METRICS_FILE).exists()
    assert train(student({}), store, tmp_path / "s", [run.path], QUIET).info.status == "finished"


def test_a_run_to_begin_with_may_be_moved_but_not_changed(store, teachers, tmp_path, monkeypatch):
    first = teacher_recipe(init={"run": str(teachers / "whole")}, teacher={"widths": [6]}, train={"epochs": 2})
    with monkeypatch.context() as patch:
        cut(patch, 1)
        with pytest.raises(PowerCutError):
            train(first, store, tmp_path / "t", options=QUIET)
    moved = str((teachers / "whole").rename(tmp_path / "moved"))
    again = teacher_recipe(init={"run": moved}, teacher={"widths": [6]}, train={"epochs": 2})
    assert again.hash == first.hash
    other = teacher_recipe(init={"run": str(teachers / "parts")}, teacher={"widths": [6]}, train={"epochs": 2})
    torch.save(
        {name: value + 1 for name, value in weights(teachers / "parts").items()}, teachers / "parts" / MODEL_FILE
    )
    with pytest.raises(InputError, match="begun with another initial run"):
        train(other, store, tmp_path / "t", options=RESUME)
    assert train(again, store, tmp_path / "t", options=RESUME).recipe.init.run == moved


def refused(message, *args, path):
    with pytest.raises(InputError, match=message) as caught:
        train(*args)
    assert "\n" not in str(caught.value)
    assert not path.exists()  # nothing is written


@pytest.mark.parametrize(
    ("init", "network", "message"),
    [
        ({"adapt": "head"}, {}, 'adapt = "head" would keep random weights; name a run in init.run'),
        ({"adapt": "none"}, {}, 'adapt = "none" would keep random weights'),
        (
            {"run": "WHOLE"},
            {"kind": "mobilenet_v2", "width": 0.1, "stages": 2},
            r"whole is a cp_resnet, but \[teacher\] of tones-teacher is a mobilenet_v2",
        ),
        ({"run": "no/such/run"}, {}, "no/such/run does not exist"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(store, teachers, tmp_path, init, network, message):
    raw = recipe_dict("teacher")
    raw["init"] = {key: str(teachers / "whole") if value == "WHOLE" else value for key, value in init.items()}
    if network:
        raw["teacher"] = network
    refused(message, decode(raw, "teacher"), store, tmp_path / "t", (), QUIET, path=tmp_path / "t")


def test_a_student_is_adapted_as_a_whole(store, teachers, tmp_path):
    refused(
        '"head" is for teachers',
        student({}, init={"run": "teacher", "adapt": "head"}),
        store,
        tmp_path / "s",
        [teachers / "whole"],
        QUIET,
        path=tmp_path / "s",
    )


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"student": "feature.1"}, r"no module 'feature\.1'.*features"),
        ({"teacher": "classifer"}, r"no module 'classifer'.*classifier"),
        ({"project": False}, r"embedding of 'embedding' and 'embedding' of teacher 0: .*8.*6"),
        ({"teachers": [1]}, "names teacher 1, but there is one teacher, number 0"),
        ({"temperature": 2.0}, "temperature = 2.0 is not for this loss"),
    ],
)
def test_a_tap_that_is_wrong_is_named_before_anything_is_written(store, teachers, tmp_path, term, message):
    refused(
        message,
        student({"teaching": "live", "terms": [{"loss": "embedding", **term}]}),
        store,
        tmp_path / "s",
        [teachers / "whole"],
        QUIET,
        path=tmp_path / "s",
    )


@pytest.mark.parametrize("teaching", ["live", "same"])
def test_a_teacher_of_segments_cannot_listen_live(store, teachers, tmp_path, teaching):
    refused(
        f'view.segments = 2 judges parts of sounds, but with distill.teaching "{teaching}" it would judge wholes',
        student({"teaching": teaching}),
        store,
        tmp_path / "s",
        [teachers / "parts"],
        QUIET,
        path=tmp_path / "s",
    )


def test_a_bf16_teacher_says_what_it_says_under_autocast(store, teachers):
    run = load_run(teachers / "whole")
    x = torch.randn(4, 1, run.frontend.n_mels, 30)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = run.float_model().eval()(x).float()
    assert torch.equal(LiveTeacher(run, store, store.indices(["a"]), 0, (), "bf16")(x)[0], expected)


def test_a_teacher_of_windows_teaches_by_them_or_by_what_the_student_hears(store, tmp_path):
    train(teacher_recipe(view={"span": "crop", "seconds": 0.5, "segments": 4}), store, tmp_path / "t", options=QUIET)
    students = {
        way: train(student({"teaching": way}), store, tmp_path / way, [tmp_path / "t"], QUIET)
        for way in ("clip", "same")
    }
    assert not equal(weights(students["clip"].path), weights(students["same"].path))
    assert len(list((tmp_path / "t" / "softlabels").glob("*.npy"))) == 1
    refused(
        'view.segments = 4 judges its windows as they are, which distill.teaching "views" would change',
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
def test_segments_that_cannot_be_are_refused_before_the_teacher_is_trained(store, tmp_path, view, message):
    refused(message, teacher_recipe(view=view), store, tmp_path / "t", (), QUIET, path=tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"time_stretch": 1.2}}, "augment.time_stretch changes the student's log-mel"),
        ({"augment": {"mixup_domain": "log_mel"}}, 'augment.mixup_domain = "log_mel" changes'),
        ({"augment": {"mixstyle_p": 0.5}}, "augment.mixstyle_p changes"),
    ],
)
def test_the_same_sound_for_another_front_end_is_not_changed_on_the_log_mel(
    store, teachers, tmp_path, changes, message
):
    recipe = student({"teaching": "same"}, frontend={"n_mels": 12}, **changes)
    refused(message, recipe, store, tmp_path / "s", [teachers / "whole"], QUIET, path=tmp_path / "s")
    assert train(student({"teaching": "same"}, **changes), store, tmp_path / "s", [teachers / "whole"], QUIET)


def test_a_sound_that_is_too_short_for_a_teacher_is_told(store, tmp_path):
    deep = {"widths": [6, 6, 6], "kernels": [[3, 3]] * 3, "groups": [1] * 3, "pools": [0, 1, 2]}
    train(teacher_recipe(teacher=deep), store, tmp_path / "t", options=QUIET)
    recipe = student({"teaching": "same"}, view={"seconds": 0.25})
    refused(
        r"t: the teacher cannot hear 2000 samples, channels 1 .*view\.seconds.*\"live\"",
        recipe,
        store,
        tmp_path / "s",
        [tmp_path / "t"],
        QUIET,
        path=tmp_path / "s",
    )
    assert train(student({"teaching": "live"}, view={"seconds": 0.25}), store, tmp_path / "s", [tmp_path / "t"], QUIET)


def test_a_teacher_of_other_labels_does_not_listen(teachers, tmp_path):
    other = write_store(tmp_path / "other", tones={"high": 3000.0, "low": 300.0, "deep": 200.0})
    refused(
        r"whole: the teacher's 3 labels are not the 3 of .*\(not in both: deep, mid\)",
        student({"teaching": "live"}),
        other,
        tmp_path / "s",
        [teachers / "whole"],
        QUIET,
        path=tmp_path / "s",
    )
