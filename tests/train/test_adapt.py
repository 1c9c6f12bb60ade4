"""Initial weights from another run: what is loaded, what trains, and what is refused."""

import logging
from pathlib import Path

import msgspec
import pytest
import torch
from helpers.training_runs import (
    PowerCutError,
    assert_refused,
    equal_states,
    stop_in_epoch,
    teacher_recipe,
    weights_of,
)
from helpers.trainings import recipe_dict, write_store

from edgekd.errors import InputError
from edgekd.models.base import in_head
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.training import Options, train
from edgekd.train.prepare import pretrained
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import METRICS_FILE, MODEL_FILE, load_run, load_saved, model_config

QUIET, RESUME = Options(threads=1), Options(threads=1, resume=True)


def student(distill, **changes):
    return decode(
        recipe_dict(distill=distill, train={"epochs": 2, "test_every": 0}, qat={"epochs": 0}, **changes), "student"
    )


@pytest.fixture(scope="module")
def initial_run(store, tmp_path_factory):
    recipe = decode(recipe_dict("teacher", train={"epochs": 1}), "initial run")
    return train(recipe, store, tmp_path_factory.mktemp("initial") / "run", options=QUIET)


def test_the_head_alone_trains_in_each_epoch_also_after_a_test(store, initial_run, make_recipe, tmp_path, monkeypatch):
    modes, changed = [], []
    step, optimisers = TrainingModule.training_step, TrainingModule.configure_optimizers

    def watched(self, *arguments):
        modes.append(
            {(in_head(self.model, name), module.training) for name, module in self.model.named_modules() if name}
        )
        return step(self, *arguments)

    def counted(self):
        found = optimisers(self)
        changed.append(sum(len(group["params"]) for group in found["optimizer"].param_groups))
        return found

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    monkeypatch.setattr(TrainingModule, "configure_optimizers", counted)
    recipe = make_recipe(
        "teacher", init={"run": str(initial_run.path), "adapt": "head"}, train={"epochs": 2, "test_every": 1}
    )
    run = train(recipe, store, tmp_path / "run", options=QUIET)
    assert all(mode == {(True, True), (False, False)} for mode in modes)
    model = run.float_model()
    assert changed == [sum(in_head(model, name) for name, _ in model.named_parameters())]
    before = load_saved(initial_run.path / MODEL_FILE)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != in_head(model, name), name


def test_initial_weights_that_have_seen_the_test_clips_are_refused(store, initial_run, make_recipe, tmp_path):
    swapped = {"train": ["b"], "test": ["a"]}
    for name, path, message in (
        ("first", initial_run.path, r"init.run was trained on split 'a', which the teacher is tested on"),
        ("second", tmp_path / "between", r"the run that init.run began with was trained on split 'a'"),
    ):
        if name == "second":
            between = {"train": ["b"], "test": [], "held_out": [0, 2]}  # its own test clips are unknown to it
            recipe = make_recipe(
                "teacher", data=between, init={"run": str(initial_run.path)}, train={"epochs": 1, "batch_size": 2}
            )
            train(recipe, store, tmp_path / "between", options=QUIET)
        recipe = make_recipe("teacher", data=swapped, init={"run": str(path)})
        with pytest.raises(InputError, match=message):
            train(recipe, store, tmp_path / name, options=QUIET)
        assert not (tmp_path / name).exists()


def test_a_random_head_that_stays_random_and_a_training_without_parameters_are_refused(make_recipe):
    cnn14 = {"kind": "cnn14", "weights": "cnn14.pth"}
    with pytest.raises(InputError, match=r'init\.adapt = "head"'):
        pretrained.check_init(make_recipe("teacher", teacher=cnn14, init={"adapt": "none"}))
    model = torch.nn.Sequential(torch.nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(InputError, match='"full" has nothing to train'):
        pretrained.check_trainable(make_recipe("teacher"), model)


def test_labels_of_a_black_box_must_be_those_of_the_store(store, make_recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("x.onnx").touch()
    alone = msgspec.structs.replace(
        make_recipe("teacher"), teacher={"kind": "black_box", "file": "x.onnx", "head": False}
    )
    for labels in (store.labels, None):
        monkeypatch.setattr(pretrained, "labels_of", lambda _, labels=labels: labels)
        pretrained.check_black_box_labels(store, model_config(alone))
    monkeypatch.setattr(pretrained, "labels_of", lambda _: store.labels[::-1])
    with pytest.raises(InputError, match=r"x\.onnx: its labels .* are not those of"):
        pretrained.check_black_box_labels(store, model_config(alone))


def test_a_training_begins_with_the_weights_of_a_run(store, teachers, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "edgekd")
    initial, fit = [], TrainingModule.on_fit_start

    def look(self):
        initial.append({name: value.clone() for name, value in self.model.state_dict().items()})
        fit(self)

    monkeypatch.setattr(TrainingModule, "on_fit_start", look)
    table = {"init": {"run": str(teachers / "whole")}, "teacher": {"widths": [6]}}
    run = train(teacher_recipe(**table), store, tmp_path / "again", options=QUIET)
    assert equal_states(initial[0], weights_of(teachers / "whole"))
    assert run.info.init == load_run(teachers / "whole").weights_hash
    assert not equal_states(weights_of(run.path), initial[0])
    labels = write_store(tmp_path / "labels", tones={"deep": 200.0, "high": 3000.0, "low": 600.0, "mid": 1000.0})
    train(teacher_recipe(**table), labels, tmp_path / "more", options=QUIET)
    old = weights_of(teachers / "whole")
    assert all(torch.equal(initial[1][name], old[name]) for name in old if not name.startswith("classifier"))
    assert initial[1]["classifier.dense.conv.weight"].shape[0] == 4
    assert "new are classifier.dense.conv.weight, classifier.dense.conv.bias" in caplog.text
    same = student({"teaching": "live"}, init={"run": "teacher"}, student={"widths": [6]})
    train(same, store, tmp_path / "s", [teachers / "whole"], QUIET)
    assert equal_states(initial[2], old)


def test_adapting_the_head_leaves_the_backbone_as_it_was(store, teachers, tmp_path):
    old = weights_of(teachers / "whole")
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
    new = weights_of(run.path)
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
    assert equal_states(weights_of(run.path), weights_of(teachers / "whole"))
    assert run.info.metrics == load_run(teachers / "whole").info.metrics
    assert not (run.path / METRICS_FILE).exists()
    assert train(student({}), store, tmp_path / "s", [run.path], QUIET).info.status == "finished"


def test_the_initial_run_may_be_moved_but_not_changed(store, teachers, tmp_path, monkeypatch):
    first = teacher_recipe(init={"run": str(teachers / "whole")}, teacher={"widths": [6]}, train={"epochs": 2})
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1)
        with pytest.raises(PowerCutError):
            train(first, store, tmp_path / "t", options=QUIET)
    moved = str((teachers / "whole").rename(tmp_path / "moved"))
    again = teacher_recipe(init={"run": moved}, teacher={"widths": [6]}, train={"epochs": 2})
    assert again.hash == first.hash
    other = teacher_recipe(init={"run": str(teachers / "parts")}, teacher={"widths": [6]}, train={"epochs": 2})
    torch.save(
        {name: value + 1 for name, value in weights_of(teachers / "parts").items()}, teachers / "parts" / MODEL_FILE
    )
    with pytest.raises(InputError, match="begun with another initial run"):
        train(other, store, tmp_path / "t", options=RESUME)
    assert train(again, store, tmp_path / "t", options=RESUME).recipe.init.run == moved


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
def test_unfit_initial_weights_are_refused(store, teachers, tmp_path, init, network, message):
    raw = recipe_dict("teacher")
    raw["init"] = {key: str(teachers / "whole") if value == "WHOLE" else value for key, value in init.items()}
    if network:
        raw["teacher"] = network
    assert_refused(message, decode(raw, "teacher"), store, tmp_path / "t", (), QUIET, path=tmp_path / "t")


def test_initial_weights_of_a_network_without_a_head_are_refused(store, teachers, tmp_path):
    raw = recipe_dict("teacher")
    raw["teacher"]["head"] = False
    raw["init"] = {"run": str(teachers / "whole"), "adapt": "full"}
    assert_refused("head", decode(raw, "teacher"), store, tmp_path / "t", (), QUIET, path=tmp_path / "t")


def test_adapting_the_head_of_a_student_is_refused(store, teachers, tmp_path):
    assert_refused(
        '"head" is for teachers',
        student({}, init={"run": "teacher", "adapt": "head"}),
        store,
        tmp_path / "s",
        [teachers / "whole"],
        QUIET,
        path=tmp_path / "s",
    )
