"""Trainings that begin with published weights, which are named in the recipe and may be missing or damaged."""

from pathlib import Path

import pytest
import torch

from edgekd.data.weights import CACHE, FOLDER
from edgekd.errors import InputError
from edgekd.models import initial
from edgekd.models.cnn14 import Cnn14Config
from edgekd.models.yamnet import YamnetConfig
from edgekd.train import launch
from edgekd.train.recipe.recipe import load_recipe
from edgekd.train.run.folder import load_saved


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A cache folder without weights; no other folder is searched."""
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(launch.MARKER, "1")  # train in this process
    return tmp_path / "cache" / "edgekd" / "weights"


@pytest.mark.parametrize(
    ("command", "recipe", "options"),
    [
        ("distill", "esc50-best", []),
        ("teach", "esc50-yamnet-tuned", []),
        ("teach", "esc50-yamnet-crop", []),
        ("crossval", "esc50-best", ["--folds", "fold3,fold4"]),
        ("crossval", "esc50-serfr32", ["--folds", "fold3,fold4", "--teach", "esc50-yamnet-tuned"]),
    ],
)
def test_missing_or_damaged_weights_are_one_line_before_a_training(
    edgekd, nowhere, store_of, tmp_path, command, recipe, options
):
    arguments = (command, recipe, "--data", store_of(load_recipe(recipe)), "--out", tmp_path / "out", *options)
    status, out, err = edgekd(*arguments)
    assert (status, out) == (2, "")
    assert "weights 'yamnet': yamnet.tflite is not on this machine" in err.splitlines()[-1]
    nowhere.mkdir(parents=True)
    (nowhere / "yamnet.tflite").write_bytes(b"half of it")
    status, out, err = edgekd(*arguments)
    assert (status, out) == (2, "")
    assert f"edgekd: {nowhere / 'yamnet.tflite'}: damaged" in err.splitlines()[-1]
    assert not list(tmp_path.glob("out/**/*.log"))


class Code:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


READERS = {
    "cnn14": lambda path: initial(Cnn14Config(weights=path), 3),
    "yamnet": lambda path: initial(YamnetConfig(weights=path), 3),
    "run, checkpoint": lambda path: load_saved(Path(path)),
}


@pytest.mark.parametrize("read", READERS)
def test_code_in_a_file_of_weights_is_never_run(tmp_path, read):
    torch.save({"model": Code(tmp_path / "mark")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth"):
        READERS[read](str(tmp_path / "w.pth"))
    assert not (tmp_path / "mark").exists()
