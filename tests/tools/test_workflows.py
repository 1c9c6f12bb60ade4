"""The project's own workflows and its pre-commit hook: they parse, need few permissions, and run existing scripts."""

import os
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs(path: Path) -> dict[str, dict]:
    return yaml.safe_load(path.read_text())["jobs"]


def steps(path: Path) -> list[dict]:
    return [step for job in jobs(path).values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_except_the_job_that_attests(path):
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}
    writers = {name: job["permissions"] for name, job in jobs(path).items() if "permissions" in job}
    assert writers == (
        {"attest": {"contents": "read", "id-token": "write", "attestations": "write"}}
        if path.name == "release.yml"
        else {}
    )
    for name, job in jobs(path).items():
        assert job["timeout-minutes"] <= 45, name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_steps_run_existing_scripts(path):
    for step in steps(path):
        if "uses" in step and step["uses"].startswith("./"):
            action = yaml.safe_load((ROOT / step["uses"] / "action.yml").read_text())
            assert set(step.get("with", {})) <= set(action["inputs"])
        elif "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@(v\d+|[0-9a-f]{40})", step["uses"])
        else:
            assert "${{" not in step["run"]  # a value is a variable, never part of the code
            script = ROOT / step["run"].split()[0]
            if script.parent != ROOT:
                assert os.access(script, os.X_OK), script


def test_every_supported_python_is_tested():
    text = (ROOT / "pyproject.toml").read_text()
    low, high = map(int, re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text).groups())
    tested = jobs(ROOT / ".github/workflows/ci.yml")["everything"]["strategy"]["matrix"]["python"]
    assert tested == [f"3.{minor}" for minor in range(low, high)]


def test_nothing_is_attested_before_build_and_gate():
    release = jobs(ROOT / ".github/workflows/release.yml")
    assert set(release["attest"]["needs"]) == {"build", "gate"}
    # no code of ours beside the signing identity
    assert "run" not in {key for step in release["attest"]["steps"] for key in step}


def test_the_pre_commit_hook_takes_model_files():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert (hook["id"], hook["entry"], hook["language"]) == ("edgekd-check", "edgekd check", "python")
    assert hook["additional_dependencies"] == [".[check]"]
    assert hook["require_serial"] is True
    for name, taken in (("a/b c.tflite", True), ("m.onnx", True), ("m.tflite.txt", False), ("tflite", False)):
        assert bool(re.search(hook["files"], name)) is taken
