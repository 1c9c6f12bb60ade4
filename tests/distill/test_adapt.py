"""Networks of which the head alone is trained."""

import pytest
import torch

from edgekd.distill import init
from edgekd.distill.module import TrainingModule
from edgekd.distill.recipe import decode
from edgekd.distill.run import MODEL_FILE, load_saved
from edgekd.distill.training import Options, train
from tests.distill.conftest import recipe_dict

OPTIONS = Options(threads=1)


@pytest.fixture(scope="module")
def begun(store, tmp_path_factory):
    recipe = decode(recipe_dict("teacher", train={"epochs": 1}), "begun")
    return train(recipe, store, tmp_path_factory.mktemp("begun") / "run", options=OPTIONS)


def test_the_head_alone_trains_in_each_epoch_also_after_a_test(store, begun, make_recipe, tmp_path, monkeypatch):
    modes, changed = [], []
    step, optimisers = TrainingModule.training_step, TrainingModule.configure_optimizers

    def watched(self, *arguments):
        modes.append({(init.in_head(self.model, name), module.training) for name, module in self.model.named_modules() if name})
        return step(self, *arguments)

    def counted(self):
        found = optimisers(self)
        changed.append(sum(len(group["params"]) for group in found["optimizer"].param_groups))
        return found

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    monkeypatch.setattr(TrainingModule, "configure_optimizers", counted)
    recipe = make_recipe("teacher", init={"run": str(begun.path), "adapt": "head"}, train={"epochs": 2, "test_every": 1})
    run = train(recipe, store, tmp_path / "run", options=OPTIONS)
    assert all(mode == {(True, True), (False, False)} for mode in modes)
    model = run.float_model()
    assert changed == [sum(init.in_head(model, name) for name, _ in model.named_parameters())]
    before = load_saved(begun.path / MODEL_FILE)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != init.in_head(model, name), name
