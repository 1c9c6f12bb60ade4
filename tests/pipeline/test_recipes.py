"""Every student recipe that is shipped gives a file within the budget it is meant for; weights do not matter, so nothing is trained."""

import pytest

from edgekd import quant
from edgekd.complexity import gate, ledger
from edgekd.distill.recipe import load_recipe
from edgekd.distill.run import model_config
from edgekd.models import build
from edgekd.pipeline.export import EMITTERS
from edgekd.resources import names
from edgekd.target import load_target

LABELS = {"esc50": 50, "synth": 10, "tau22": 10}
RECIPES = names("recipes")


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_student_is_within_the_budget_in_both_formats(name, tmp_path):
    recipe = load_recipe(name)
    model = build(model_config(recipe), LABELS[name.split("-")[0]]).eval()
    frames = recipe.frontend.frames(round((recipe.view.seconds or 1.0) * recipe.frontend.sample_rate))
    graph = quant.lower(quant.to_qat(model).eval(), recipe.frontend, frames)
    for kind, emit in EMITTERS.items():
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(emit(graph))
        verdict = gate.judge(ledger.count(path), load_target("dcase2023"))
        assert verdict.ok, [(budget.name, budget.value) for budget in verdict.budgets]
