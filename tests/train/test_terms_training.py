"""Terms in a training: learned weights train with the network, and each term has its columns in metrics.csv."""

import csv

import torch

from edgekd.models import build
from edgekd.models.logmel import LogMel
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.training import Options, train
from edgekd.train.loss.objective import Objective
from edgekd.train.prepare.prepared import LabelTable, Teaching
from edgekd.train.run.folder import METRICS_FILE, model_config, resolved


def test_an_optimizer_step_moves_learned_weights_and_they_are_in_the_state(store, make_recipe):
    losses = [{"loss": name} for name in ("kd", "cdf", "dist", "dkd", "cross_entropy")]
    recipe = resolved(make_recipe(distill={"terms": losses, "weights": "learned"}))
    fe, clips = recipe.frontend, store.indices(["a"])
    view = TrainingView(store, clips, recipe, 5, fe.n_mels, fe.frames(8000), 0)
    teachers = torch.randn(
        2, 1, len(store.label_index), 1, len(store.labels), generator=torch.Generator().manual_seed(0)
    )
    module = TrainingModule(
        build(model_config(recipe), len(store.labels)),
        LogMel(fe),
        view,
        Teaching(
            Objective(recipe.distill, len(store.labels), 0.0, 2),
            (),
            LabelTable(torch.from_numpy(store.label_index), teachers),
        ),
        recipe,
        recipe.train,
    )
    batch = module.transfer_batch_to_device(next(iter(module.train_dataloader())), torch.device("cpu"), 0)
    optimizer = module.configure_optimizers()["optimizer"]
    module.training_step(batch, 0).backward()
    optimizer.step()
    learned = {name: value for name, value in module.state_dict().items() if name.startswith("objective.logs.")}
    assert len(learned) == 6
    assert all(value != 0 for value in learned.values())


def test_each_term_has_its_columns_in_the_metrics_of_both_phases(store, make_recipe, tmp_path):
    train(make_recipe("teacher", train={"epochs": 1}), store, tmp_path / "teacher", options=Options(threads=1))
    recipe = make_recipe(
        distill={
            "terms": [{"loss": "dist"}, {"loss": "dkd"}, {"loss": "dkd", "standardise": True}],
            "weights": "learned",
        },
        train={"epochs": 1},
        qat={"epochs": 1, "freeze_epochs": 0, "float_weight": 0.5},
    )
    train(recipe, store, tmp_path / "student", [tmp_path / "teacher"], Options(threads=1))
    rows = list(csv.DictReader((tmp_path / "student" / METRICS_FILE).read_text().splitlines()))
    assert [row["phase"] for row in rows] == ["float", "qat"]
    for row in rows:
        assert all(row[name] for name in ("label", "dist", "dkd", "dkd2"))
        total = sum(float(value) for name, value in row.items() if name.endswith("_weighted") and value)
        assert abs(total - float(row["loss"])) < 1e-5
