"""Precision of the float phase: what "auto" stands for, and that only the network's own products are affected."""

import pytest
import torch
from torch import nn

from edgekd.errors import InputError
from edgekd.train.loop import device
from edgekd.train.loop.device import compile_in_place, native_bf16, with_precision
from edgekd.train.loop.training import Options, train


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ({"avx512f", "avx512_bf16"}, True),
        ({"amx_bf16"}, True),
        ({"avx2", "avx512_vnni"}, False),
        (set(), False),
    ],
)
def test_a_processor_multiplies_bf16_where_its_flags_say_so(monkeypatch, make_recipe, flags, native):
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    assert native_bf16("cpu") is native
    chosen = with_precision(make_recipe(train={"precision": "auto"}), "cpu").train.precision
    assert chosen == ("bf16" if native else "float32")


def test_a_named_precision_stays(monkeypatch, make_recipe):
    monkeypatch.setattr(device, "cpu_flags", frozenset)
    assert with_precision(make_recipe(train={"precision": "bf16"}), "cpu").train.precision == "bf16"


def test_a_bf16_run_has_other_float32_weights_and_records_its_precision(store, make_recipe, tmp_path):
    runs = {}
    for name in ("float32", "bf16"):
        recipe = make_recipe(train={"precision": name, "epochs": 1}, qat={"epochs": 1})
        runs[name] = train(recipe, store, tmp_path / name, options=Options(threads=1))
    states = {name: run.float_model().state_dict() for name, run in runs.items()}
    assert all(value.dtype != torch.bfloat16 for value in states["bf16"].values())
    assert any(not torch.equal(value, states["float32"][key]) for key, value in states["bf16"].items())
    assert runs["bf16"].recipe.train.precision == "bf16"


def test_the_run_records_what_auto_stood_for(store, make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "cpu_flags", frozenset)
    recipe = make_recipe(train={"precision": "auto", "epochs": 1}, qat={"epochs": 0})
    assert train(recipe, store, tmp_path / "run", options=Options(threads=1)).recipe.train.precision == "float32"


def test_compiling_leaves_names_values_and_mode_alone(monkeypatch):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    monkeypatch.setattr(network, "compile", lambda **_: None)
    compile_in_place(network, torch.ones(1, 1, 4, 4))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_machine_without_a_compiler_is_an_error(monkeypatch):
    class Broken(nn.Module):
        def forward(self, _):
            raise RuntimeError("no C++ compiler\nand much more")

    network = Broken()
    monkeypatch.setattr(network, "compile", lambda **_: None)
    with pytest.raises(InputError, match=r"--compile: .* \(no C\+\+ compiler\)"):
        compile_in_place(network, torch.ones(1))
