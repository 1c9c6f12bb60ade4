"""The packages that a device or a CI job needs can be imported without the training frameworks, and without any
optional package."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "check_isolation.py"


@pytest.mark.parametrize("arguments", [[], ["--base-only"]])
def test_the_part_without_torch_imports_with_frameworks_blocked(arguments):
    done = subprocess.run(
        [sys.executable, str(TOOL), "--no-timing", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("isolation ok")
