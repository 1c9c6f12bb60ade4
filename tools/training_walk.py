"""Prints the files of edgekd that a training enters before its first step, in order, and what is built how often.

Usage: python tools/training_walk.py [--out FOLDER] [-- OPTION ...]

It makes a small synthetic store and a teacher of one epoch. Then it runs `edgekd distill` with that teacher in this
process and notes every function of edgekd that is called until the first training step. Options behind -- go to
`distill`. It serves to read a training from its beginning, and to count what is built twice. It prints a table and one
line of JSON.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

STEP = "training_step"
"""The method whose first call ends the walk."""
BUILT = (
    "build",
    "initial",
    "Objective.__init__",
    "TrainingView.__init__",
    "partition",
    "sides",
    "soft_labels",
    "model_config",
)
"""Functions whose calls are counted, by the end of their qualified names; a rename is followed here."""


class FirstStepError(Exception):
    """The walk is over."""


class Walk:
    """Files and functions of a package in the order in which they are entered."""

    def __init__(self, package: Path) -> None:
        self._package = str(package) + os.sep
        self._known: dict[CodeType, str | None] = {}
        self.files: dict[str, int] = {}
        self.calls: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """For `sys.setprofile`."""
        if event != "call":
            return
        code = frame.f_code
        name = self._known.get(code, "")
        if name == "":
            inside = code.co_filename.startswith(self._package) and not code.co_name.startswith("<")
            name = self._known[code] = code.co_filename.removeprefix(self._package) if inside else None
        if name is None:
            return
        if code.co_qualname.endswith(STEP):
            sys.setprofile(None)
            raise FirstStepError
        if code.co_flags & 2:  # a function, and not the body of a class
            self.files[name] = self.files.get(name, 0) + 1
            for built in BUILT:
                if code.co_qualname == built or code.co_qualname.endswith(f".{built}"):
                    self.calls[built] += 1


def walk(folder: Path, more: list[str]) -> Walk:
    """Run the three commands in `folder`, the last of them watched."""
    import edgekd
    from edgekd import cli

    store, teacher = str(folder / "store"), str(folder / "teacher")
    cli.run(["data", "synth", "--out", store, "--clips", "60", "--seconds", "1"])
    short = ["--set", "train.epochs=1", "--threads", "1"]
    cli.run(["teach", "synth-cp-resnet", "--data", store, "--out", teacher, *short])
    found = Walk(Path(edgekd.__path__[0]))
    command = [
        "distill",
        "synth-serfr24",
        "--data",
        store,
        "--teacher",
        teacher,
        "--out",
        str(folder / "student"),
        *short,
    ]
    sys.setprofile(found)
    try:
        cli.run([*command, *more])
    except FirstStepError:
        pass
    finally:
        sys.setprofile(None)
    return found


def main() -> None:
    """Walk and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("more", nargs="*", help="further options of `distill`, behind --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = walk(Path(folder), options.more)
    for number, (file, calls) in enumerate(found.files.items(), 1):
        print(f"{number:3}  {file:45} {calls:7,} calls")
    print("\nbuilt before the first step:")
    for name, count in found.calls.most_common():
        print(f"     {name:45} {count:7,} times")
    folders = Counter(file.rpartition("/")[0].split("/")[0] for file in found.files)
    print(json.dumps({"files": len(found.files), "folders": dict(folders.most_common()), "built": dict(found.calls)}))


if __name__ == "__main__":
    main()
