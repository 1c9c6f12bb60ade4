"""Every shipped recipe is trained for a few steps with all its stages, by the function of its command, and every
student that is made for export gives a file within its budget."""

import csv
import math
from collections.abc import Callable

import pytest
from helpers.shipped_recipes import missing, reached

from edgekd import quant
from edgekd.complexity import gate
from edgekd.complexity.counts import count_model
from edgekd.complexity.target import load_target
from edgekd.experiments.smoke import few_steps, narrowed
from edgekd.export.export import EMITTERS
from edgekd.modelfile import engine, guard_onnx, guard_tflite
from edgekd.models import build
from edgekd.resources import names
from edgekd.train.distill import distill
from edgekd.train.loop.training import Options
from edgekd.train.recipe.recipe import Recipe, load_recipe
from edgekd.train.run.folder import (
    METRICS_FILE,
    PAIRS_FILE,
    SVM_FILE,
    SYSTEMS_FOLDER,
    TEACHERS_FOLDER,
    load_run,
    model_config,
    resolved,
)
from edgekd.train.teach import teach

RECIPES, TEACHERS = names("recipes"), names("teachers")
RECIPES.sort(key=lambda name: (not name.startswith("esc50"), name))
"""Those of the smallest data set first: their toys are the fastest."""
EXPORTED = [name for name in RECIPES if load_recipe(name).qat.epochs]


def first_of_each(recipes: list[str], *ways: Callable[[Recipe], object]) -> set[str]:
    """The recipes that are the first in some way."""
    found, seen = set(), set()
    for name in recipes:
        new = {(number, way(load_recipe(name))) for number, way in enumerate(ways)} - seen
        if new:
            found.add(name)
            seen |= new
    return found


QUANTISED = first_of_each(
    EXPORTED, lambda recipe: (recipe.model["kind"], recipe.distill.teaching, recipe.distill.terms)
)
"""One recipe for each architecture and way of teaching. Only of these the quantization-aware phase, which takes most
time, is trained too."""
QUICK = first_of_each(
    RECIPES,
    lambda recipe: recipe.model["kind"],
    lambda recipe: (recipe.distill.teaching, recipe.distill.terms),
    lambda recipe: (bool(recipe.teachers), bool(recipe.specialists), bool(recipe.backend)),
)
"""Each architecture, each way of teaching and each list of stages is in one of these. The others have other data,
teachers and numbers; slow tests train them too."""
LABELS = {"esc50": 50}
"""By the first part of a recipe's name; the others have ten."""
HOSTILE = {
    "tflite": lambda content: guard_tflite.refuse_wrong_shapes(content, engine.MAX_READ),
    "onnx": lambda content: guard_onnx.refuse_costly_graph(content, engine.MAX_ONNX_ELEMENTS, engine.MAX_READ),
}
BUDGET = "dcase2023"


@pytest.mark.parametrize("name", EXPORTED)
def test_a_shipped_student_is_within_the_budget_in_both_formats(name, tmp_path):
    recipe = load_recipe(name)
    model = build(model_config(recipe), LABELS.get(name.split("-")[0], 10)).eval()
    frames = recipe.frontend.frames(round((recipe.view.seconds or 1.0) * recipe.frontend.sample_rate))
    graph = quant.lower(quant.to_qat(model).eval(), recipe.frontend, frames)
    for kind, emit in EMITTERS.items():
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(emit(graph))
        for content in (path.read_bytes(), emit(graph, float_twin=True)):
            HOSTILE[kind](content)  # must not take it for one
        verdict = gate.check_counts(count_model(path), load_target(BUDGET))
        assert verdict.ok, [(budget.name, budget.value) for budget in verdict.budgets]


def short(name: str) -> list[str]:
    """Settings of a few steps, with a quantization-aware phase where it is to be tried."""
    return few_steps(load_recipe(name), qat=name in QUANTISED)


def check(run, name):
    """The results are finite, and the run has the networks and methods of the shipped recipe."""
    shipped = resolved(load_recipe(name))
    assert run.recipe.model == {**shipped.model, **narrowed(load_recipe(name))}
    assert run.recipe.distill == shipped.distill
    assert run.recipe.augment == shipped.augment
    assert (run.recipe.view.span, run.recipe.init.adapt) == (shipped.view.span, shipped.init.adapt)
    metrics = (run.path / METRICS_FILE).read_text().splitlines()
    rows = list(csv.DictReader(metrics))
    assert [row["phase"] for row in rows] == ["float", "qat"][
        : 1 + (run.recipe.role == "student" and run.recipe.qat.epochs > 0)
    ]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    for loss in run.recipe.distill.terms if run.info.teachers else ():
        assert loss.loss in rows[0]


@pytest.fixture(scope="session")
def taught():
    """Teachers that are trained already, by `[[teachers]]` of recipes that have nothing else; others may learn from
    them too."""
    return {}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RECIPES]
)
def test_a_shipped_recipe_trains_with_all_its_stages(name, store_of, taught, tmp_path):
    if wanted := missing(name):
        pytest.skip(f"{wanted} is missing; see teachers/README.md")
    recipe = load_recipe(name)
    plain = bool(recipe.teachers) and recipe.specialists is None and recipe.backend is None
    given = taught.get(recipe.teachers, []) if plain else []
    run = distill(name, store_of(recipe), tmp_path / "run", given, short(name), Options(threads=1, accelerator="cpu"))
    check(run, name)
    if given:
        assert len(run.info.teachers) == len(given)
        return
    made = {path.name: load_run(path) for path in (run.path / TEACHERS_FOLDER).glob("*")} if recipe.teachers else {}
    for each in recipe.teachers:
        check(made[each.name or each.recipe], each.recipe)
    if plain:
        taught[recipe.teachers] = [made[each.name or each.recipe].path for each in recipe.teachers if each.teaches]
    specialists = [load_run(path) for path in (run.path / TEACHERS_FOLDER).glob("specialist-*")]
    assert bool(specialists) == bool(recipe.specialists) == (run.path / PAIRS_FILE).is_file()
    for specialist in specialists:
        check(specialist, recipe.specialists.recipe)
    assert len(run.info.teachers) == sum(each.teaches for each in recipe.teachers) + len(specialists)
    assert (run.path / SVM_FILE).is_file() == (recipe.backend is not None)
    for each in recipe.backend.systems if recipe.backend else ():
        system = load_run(run.path / SYSTEMS_FOLDER / (each.name or each.recipe))
        check(system, each.recipe)
        assert len(system.info.teachers) == len(load_recipe(each.recipe).teachers)


@pytest.mark.parametrize("name", sorted(set(TEACHERS) - set().union(*(reached(name) for name in RECIPES))))
def test_a_shipped_teacher_that_no_recipe_trains_is_trained(name, store_of, tmp_path):
    if wanted := missing(name):
        pytest.skip(f"{wanted} is missing; see teachers/README.md")
    run = teach(name, store_of(load_recipe(name)), tmp_path / "run", short(name), Options(threads=1, accelerator="cpu"))
    check(run, name)
