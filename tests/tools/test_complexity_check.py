"""The composite action: its steps, run by hand as a runner would, on scratch repositories with small models."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from qgraph import toy

from edgekd.qgraph import onnx, tflite

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "tools" / "complexity-check"
GIT_ENV = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_COMMITTER_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.invalid",
    "GIT_COMMITTER_EMAIL": "a@example.invalid",
}
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
HOSTILE_BRANCH = "$(touch${IFS}pwned);`touch${IFS}pwned`'\"&"
HOSTILE_NAME = "new\n::error::model $(touch pwned) `x`|.tflite"


@pytest.fixture(scope="module")
def action() -> dict:
    return yaml.safe_load((ACTION / "action.yml").read_text())


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    graph = toy.every_op()
    return {
        "small": tflite.emit(graph),
        "small.onnx": onnx.emit(graph),
        "large": tflite.emit(toy.serfr_like()),
        "grown": tflite.emit(toy.every_op(labels=40)),
    }


class Checkout:
    """A scratch repository, and a runner's folders and variables around it."""

    def __init__(self, folder: Path) -> None:
        self.path, self.runner = folder / "repository", folder / "runner"
        self.path.mkdir(parents=True)
        self.environment = {**os.environ, **GIT_ENV, "PYTHONPATH": str(ROOT)}
        self.git("init", "-q", "-b", "main")
        self.put("README.md", b"a repository\n")
        self.commit()
        python = self.runner / "edgekd-check/bin/python"  # what the install step makes
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def put(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a change")
        return self.git("rev-parse", "HEAD")

    def check(self, action: dict, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Run the check step of action.yml as a runner does: its variables filled in, its `run` text by bash."""
        step = next(step for step in action["runs"]["steps"] if step.get("id") == "check")
        values = {
            "github.action_path": str(ACTION),
            **{f"inputs.{name}": each["default"] for name, each in action["inputs"].items()},
        }
        values |= {f"inputs.{name}": value for name, value in inputs.items()}
        variables = {name: filled(text, values) for name, text in step["env"].items()}
        for name in ("summary", "output"):
            (self.runner / name).write_text("")
        environment = {
            **self.environment,
            **variables,
            "RUNNER_TEMP": str(self.runner),
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(self.runner / "summary"),
            "GITHUB_OUTPUT": str(self.runner / "output"),
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        return subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, check=False)

    @property
    def summary(self) -> str:
        return (self.runner / "summary").read_text()

    @property
    def outputs(self) -> dict[str, str]:
        return dict(line.split("=") for line in (self.runner / "output").read_text().splitlines())

    def junit(self, name: str = "edgekd-check.xml") -> ET.Element:
        return ET.parse(self.path / name).getroot()


def filled(text: str, values: dict[str, str]) -> str:
    """`${{ a || b }}` replaced by the first value that is not empty."""

    def value(match: re.Match[str]) -> str:
        return next(filter(None, (values.get(key.strip(), "") for key in match[1].split("||"))), "")

    return re.sub(r"\$\{\{(.*?)\}\}", value, text)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


TIGHT = b'name = "tight"\ndescription = "d"\nsource = "s"\n[budgets]\nmacs = 1_000_000\n'


def test_a_model_over_budget_fails_and_one_within_passes(checkout, action, models):
    checkout.put("tight.toml", TIGHT)
    base = checkout.commit()
    checkout.put("models/good.tflite", models["small"])
    checkout.commit()
    within = checkout.check(action, base=base, target="tight.toml")
    assert within.returncode == 0, within.stderr
    assert checkout.outputs == {"ok": "true", "checked": "1"}
    assert "### ✅ `models/good.tflite`" in checkout.summary
    assert checkout.junit().get("failures") == "0"
    checkout.put("models/bad.tflite", models["large"])
    checkout.commit()
    over = checkout.check(action, base=base, target="tight.toml", badge="out/badge.svg")
    assert over.returncode == 1
    assert checkout.outputs == {"ok": "false", "checked": "2"}
    assert "❌ | `models/bad.tflite`" in checkout.summary
    assert "✅ | `models/good.tflite`" in checkout.summary
    assert checkout.junit().get("failures") == "1"
    assert "1 of 2 fail" in (checkout.path / "out/badge.svg").read_text()
    assert "1 of 2 models fail tight: models/bad.tflite (macs" in over.stderr


def test_only_what_changed_since_the_fork_is_checked(checkout, action, models):
    checkout.put("old.tflite", models["large"])
    checkout.put("gone.tflite", models["large"])
    checkout.put("tight.toml", TIGHT)
    checkout.commit()
    checkout.git("switch", "-q", "-c", "feature")
    checkout.put("new.onnx", models["small.onnx"])
    checkout.put("notes.txt", b"no model")
    (checkout.path / "gone.tflite").unlink()
    checkout.commit()
    checkout.git("switch", "-q", "main")
    checkout.put("elsewhere.tflite", models["large"])  # a change on the base, not on this branch
    checkout.commit()
    checkout.git("switch", "-q", "feature")
    assert checkout.check(action, base="main", target="tight.toml").returncode == 0
    assert checkout.outputs["checked"] == "1"
    assert checkout.check(action, base="main", models="*.tflite", target="tight.toml").returncode == 0
    assert checkout.outputs["checked"] == "0"
    assert "no model file changed" in checkout.summary
    assert checkout.junit().get("tests") == "0"


@pytest.mark.parametrize("base", ["", "0" * 40, "no-such-branch", "--output=pwned", "e" * 40])
def test_without_a_base_every_model_is_checked(checkout, action, models, base):
    checkout.put("a.tflite", models["small"])
    checkout.put("sub/b.onnx", models["small.onnx"])
    checkout.commit()
    done = checkout.check(action, base=base)
    assert done.returncode == 0, done.stderr
    assert checkout.outputs == {"ok": "true", "checked": "2"}
    assert not list(checkout.path.glob("pwned"))


def test_names_of_files_and_branches_are_never_read_as_code(checkout, action, models):
    checkout.git("branch", HOSTILE_BRANCH)
    checkout.put(HOSTILE_NAME, models["small"])
    checkout.put("-option.tflite", models["small"])
    checkout.put("with space/m.tflite", models["small"])
    checkout.commit()
    done = checkout.check(action, base=HOSTILE_BRANCH)
    assert done.returncode == 0, done.stderr
    assert checkout.outputs == {"ok": "true", "checked": "3"}
    assert not list(checkout.path.rglob("pwned"))
    lines = done.stdout.splitlines()
    commands = [line for line in lines if line.startswith("::")]
    assert commands[0].startswith("::stop-commands::")
    assert commands[1:] == [f"::{commands[0].removeprefix('::stop-commands::')}::"]
    assert not any(line.startswith("::") for line in [*checkout.summary.splitlines(), *done.stderr.splitlines()])
    assert "with space/m.tflite" in checkout.summary


def test_growth_over_the_version_at_the_base_fails_beyond_the_tolerance(checkout, action, models):
    checkout.put("m.tflite", models["small"])
    checkout.put("sub/m.tflite", models["grown"])
    base = checkout.commit()
    checkout.put("m.tflite", models["grown"])
    checkout.put("sub/m.tflite", models["grown"] + b"\0")
    checkout.put("sub/new.tflite", models["large"])
    checkout.commit()
    assert checkout.check(action, base=base, target="pi-5").returncode == 0
    assert "Compared with" not in checkout.summary
    done = checkout.check(action, base=base, target="pi-5", tolerance="2%")
    assert done.returncode == 1
    assert "1 of 3 models fail pi-5: m.tflite (params" in done.stderr
    assert checkout.summary.count("Compared with") == 2
    assert checkout.check(action, base=base, target="pi-5", tolerance="100%").returncode == 0


def test_files_that_a_build_made_are_found_by_globs(checkout, action, models):
    checkout.put(".gitignore", b"build/\n")
    checkout.put("build/a b.tflite", models["small"])
    checkout.put("build/deep/c.onnx", models["small.onnx"])
    checkout.put("tight.toml", TIGHT)
    checkout.commit()
    done = checkout.check(action, files="build/a b.tflite\nbuild/**/*.onnx\n", target="tight.toml", junit="out/j.xml")
    assert done.returncode == 0, done.stderr
    assert checkout.outputs["checked"] == "2"
    assert len(checkout.junit("out/j.xml")) == 2


@pytest.mark.parametrize(
    ("content", "inputs", "words"),
    [
        (b"no model", {}, "not a .tflite model"),
        (b"no model", {"target": "dcase20"}, "is no name in targets"),
        (b"no model", {"files": "nothing/*.tflite"}, "cannot be read"),
    ],
)
def test_bad_input_is_reported_in_the_summary_and_in_junit(checkout, action, content, inputs, words):
    checkout.put("m.tflite", content)
    checkout.commit()
    done = checkout.check(action, **inputs)
    assert done.returncode == 2
    assert words in done.stderr
    assert words in checkout.summary
    assert words in checkout.junit().find("testsuite/testcase/error").get("message")
    assert checkout.outputs["ok"] == "false"


def test_outside_a_repository_one_line_names_the_remedy(checkout, action, tmp_path):
    checkout.path = tmp_path
    checkout.environment["GIT_CEILING_DIRECTORIES"] = str(tmp_path.parent)
    done = checkout.check(action)
    assert done.returncode == 2
    assert "run this in a git checkout, or give --files" in done.stderr


def test_a_summary_too_long_for_github_is_cut(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import check_changed as c; c.SUMMARY_BYTES = 100; "
        "c.summarise(sys.argv[2], 'line \u2705\\n'.encode() * 50)"
    )
    subprocess.run([sys.executable, "-c", code, ACTION, tmp_path / "summary"], check=True)
    text = (tmp_path / "summary").read_text()
    assert len(text) < 200
    assert text.endswith("... cut: the JUnit report and the log are complete\n\n")


def test_the_action_is_a_composite_of_known_steps(action):
    assert action["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "outputs", "runs"} <= set(action)
    for step in action["runs"]["steps"]:
        assert set(step) <= {"name", "id", "uses", "with", "run", "shell", "env"}
        assert ("uses" in step) != ("run" in step)
        if "run" in step:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"]  # a value is a variable, never part of the code
    used = set(re.findall(r"inputs\.([\w-]+)", (ACTION / "action.yml").read_text()))
    assert used == set(action["inputs"])


def test_the_install_step_brings_the_check_extra_of_its_own_checkout(action, tmp_path):
    """Uses an interpreter that only records its arguments."""
    calls = tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$@" >> "$CALLS"\nif [ "$3" = venv ]; then mkdir -p "$4/bin" && cp "$0" "$4/bin/python"; fi\n'
    )
    python.chmod(0o755)
    step = next(step for step in action["runs"]["steps"] if "install.sh" in step.get("run", ""))
    environment = {
        **os.environ,
        "CALLS": str(calls),
        "ACTION_PATH": str(ACTION),
        "CHECK_PYTHON": str(python),
        "CHECK_REQUIREMENT": "",
        "RUNNER_TEMP": str(tmp_path / "with space"),
    }
    subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], env=environment, check=True, capture_output=True)
    recorded = calls.read_text()
    assert f"-m venv {tmp_path}/with space/edgekd-check" in recorded
    assert f"-m pip install --quiet --disable-pip-version-check {ROOT}[check]\n" in recorded
    assert all(line.startswith("-I ") for line in recorded.splitlines())
