"""Teachers for tests that train students."""

import shutil

import pytest


@pytest.fixture(scope="session")
def trained_teachers(store, tmp_path_factory):
    """A folder with two teachers of six channels: "whole", and "parts", which scores two segments of each clip.

    A student of eight channels needs a projector to them.
    """
    from helpers.training_runs import teacher_recipe

    from edgekd.train.loop.training import Options, train

    folder = tmp_path_factory.mktemp("teachers")
    wide, quiet = {"widths": [6]}, Options(threads=1)
    train(teacher_recipe(teacher=wide), store, folder / "whole", options=quiet)
    train(teacher_recipe(teacher=wide, view={"segments": 2}), store, folder / "parts", options=quiet)
    return folder


@pytest.fixture
def teachers(trained_teachers, tmp_path):
    """A copy of the teachers that a test may change."""
    return shutil.copytree(trained_teachers, tmp_path / "teachers")
