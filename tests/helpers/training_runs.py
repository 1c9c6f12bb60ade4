"""Helpers of tests that run trainings: stop one in an epoch, and read what it left."""

import csv

import pytest
import torch
from helpers.trainings import recipe_dict

from edgekd.errors import InputError
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.training import train
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import METRICS_FILE, MODEL_FILE


class PowerCutError(Exception):
    """Stands for anything that ends a training at once."""


def stop_in_epoch(monkeypatch, epoch, phase="float", error=PowerCutError):
    """Make trainings raise an error when an epoch begins."""
    begin = TrainingModule.on_train_epoch_start

    def stop(self):
        if (self.phase_name, self.current_epoch) == (phase, epoch):
            raise error
        begin(self)

    monkeypatch.setattr(TrainingModule, "on_train_epoch_start", stop)


def weights_of(run_folder):
    """State dict of a run's float network."""
    return torch.load(run_folder / MODEL_FILE, weights_only=True)


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics_of(run_folder):
    """Rows of metrics.csv."""
    return list(csv.DictReader((run_folder / METRICS_FILE).read_text().splitlines()))


def assert_refused(message, *training, path):
    """A training is refused in one line, before anything is written at `path`."""
    with pytest.raises(InputError, match=message) as caught:
        train(*training)
    assert "\n" not in str(caught.value)
    assert not path.exists()


def teacher_recipe(**changes):
    """A teacher of one epoch."""
    return decode(recipe_dict("teacher", **{"train": {"epochs": 1, "test_every": 0}, **changes}), "teacher")
