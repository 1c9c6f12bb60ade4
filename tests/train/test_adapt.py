"""Networks of which the head alone is trained."""

import msgspec
import pytest
import torch
from helpers.trainings import recipe_dict

from edgekd.errors import InputError
from edgekd.train.loop import pretrained
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.training import Options, train
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import MODEL_FILE, load_saved

OPTIONS = Options(threads=1)


@pytest.fixture(scope="module")
def begun(store, tmp_path_factory):
    recipe = decode(recipe_dict("teacher", train={"epochs": 1}), "begun")
    return train(recipe, store, tmp_path_factory.mktemp("begun") / "run", options=OPTIONS)


def test_the_head_alone_trains_in_each_epoch_also_after_a_test(store, begun, make_recipe, tmp_path, monkeypatch):
    modes, changed = [], []
    step, optimisers = TrainingModule.training_step, TrainingModule.configure_optimizers

    def watched(self, *arguments):
        modes.append(
            {
                (pretrained.in_head(self.model, name), module.training)
                for name, module in self.model.named_modules()
                if name
            }
        )
        return step(self, *arguments)

    def counted(self):
        found = optimisers(self)
        changed.append(sum(len(group["params"]) for group in found["optimizer"].param_groups))
        return found

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    monkeypatch.setattr(TrainingModule, "configure_optimizers", counted)
    recipe = make_recipe(
        "teacher", init={"run": str(begun.path), "adapt": "head"}, train={"epochs": 2, "test_every": 1}
    )
    run = train(recipe, store, tmp_path / "run", options=OPTIONS)
    assert all(mode == {(True, True), (False, False)} for mode in modes)
    model = run.float_model()
    assert changed == [sum(pretrained.in_head(model, name) for name, _ in model.named_parameters())]
    before = load_saved(begun.path / MODEL_FILE)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != pretrained.in_head(model, name), name


def test_a_network_does_not_begin_with_what_knows_its_test_clips(store, begun, make_recipe, tmp_path):
    swapped = {"train": ["b"], "test": ["a"]}
    for name, init_run, message in (
        ("first", begun.path, r"init.run was trained on split 'a', which the teacher is tested on"),
        ("second", tmp_path / "between", r"what init.run began with was trained on split 'a'"),
    ):
        if name == "second":
            between = {"train": ["b"], "test": [], "held_out": [0, 2]}  # its own test clips are unknown to it
            recipe = make_recipe(
                "teacher", data=between, init={"run": str(begun.path)}, train={"epochs": 1, "batch_size": 2}
            )
            train(recipe, store, tmp_path / "between", options=OPTIONS)
        recipe = make_recipe("teacher", data=swapped, init={"run": str(init_run)})
        with pytest.raises(InputError, match=message):
            train(recipe, store, tmp_path / name, options=OPTIONS)
        assert not (tmp_path / name).exists()


def test_a_random_head_is_not_kept_and_nothing_is_not_trained(make_recipe):
    cnn14 = {"kind": "cnn14", "weights": "cnn14.pth"}
    with pytest.raises(InputError, match=r'keep a random head; set init\.adapt = "head"'):
        pretrained.check(make_recipe("teacher", teacher=cnn14, init={"adapt": "none"}))
    model = torch.nn.Sequential(torch.nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(InputError, match='"full" has nothing to train'):
        pretrained.check_trains(make_recipe("teacher"), model)


def test_labels_that_a_file_names_are_those_of_the_store(store, make_recipe, monkeypatch):
    alone = msgspec.structs.replace(
        make_recipe("teacher"), teacher={"kind": "black_box", "file": "x.onnx", "head": False}
    )
    for labels in (store.labels, None):
        monkeypatch.setattr(pretrained, "labels_of", lambda _, labels=labels: labels)
        pretrained.check_own_labels(alone, store)
    monkeypatch.setattr(pretrained, "labels_of", lambda _: store.labels[::-1])
    with pytest.raises(InputError, match=r"x\.onnx: its labels .* are not those of"):
        pretrained.check_own_labels(alone, store)
