"""Runs `edgekd check` on the model files that a change touches; for the composite action in this folder, or by hand.

Usage: python -P tools/complexity-check/check_changed.py [--base main] [--target dcase2023] [--junit check.xml] ...

Without --base, or where it is not in this clone, every model file that git tracks is checked. With --tolerance each is
compared with its version at the base. Exit status: that of `edgekd check`; 0 where nothing changed. File names may
contain anything, also line breaks: git separates them by NUL, and no shell reads them.
"""

import argparse
import glob
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import quoteattr

SUFFIXES = (".tflite", ".onnx")
SUMMARY_BYTES = 900_000
"""GitHub refuses a job summary beyond 1 MiB."""
REGULAR_MODES = {b"100644", b"100755"}
LFS_POINTER = b"version https://git-lfs"
BAD_INPUT = 2
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


def git(*arguments: str, check: bool = True) -> bytes | None:
    """Output of a git command; None where it fails and `check` is false."""
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    if done.returncode == 0:
        return done.stdout
    if check:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        print(
            f"check_changed: git {arguments[0]}: {reason or 'failed'}; run this in a git checkout, or give --files",
            file=sys.stderr,
        )
        raise SystemExit(BAD_INPUT)
    return None


def commit_of(base: str) -> str | None:
    """The commit where this branch left the base; None without a base (a new branch is pushed from 0000...), or where
    that is unknown."""
    if not base.strip("0"):
        return None
    for name in (base, f"refs/remotes/origin/{base}"):
        found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
        if found is not None:
            commit = found.decode().strip()
            fork = git("merge-base", commit, "HEAD", check=False)
            return fork.decode().strip() if fork else commit
    print(
        "check_changed: the base is not in this clone, so every model is checked; fetch it, or clone with the complete"
        " history"
    )
    return None


def tracked_models(commit: str | None, patterns: Sequence[str]) -> list[str]:
    """Paths of the model files that changed since a commit, or of all for None, relative to the top of the checkout."""
    if commit is None:
        listed = git("ls-files", "-z", "--", *patterns)
    else:
        listed = git(
            "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--diff-filter=d", commit, "--", *patterns
        )
    paths = sorted({os.fsdecode(path) for path in (listed or b"").split(b"\0") if path})
    return [path for path in paths if path.endswith(SUFFIXES) and Path(path).is_file()]


def earlier_versions(commit: str, models: Sequence[str], folder: Path) -> None:
    """Write the versions of models at a commit into a folder, at their paths; new models are left out."""
    for model in models:
        listed = git("--literal-pathspecs", "ls-tree", "-z", commit, "--", model)
        mode, _, blob = (listed or b"").partition(b"\t")[0].partition(b" blob ")
        if mode not in REGULAR_MODES:
            continue
        raw = git("cat-file", "blob", blob.decode()) or b""
        if raw.startswith(LFS_POINTER):
            continue
        path = folder / model
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


def expanded(lines: str) -> list[str]:
    """The files that paths and globs name, one on each line; an existing path is not a glob."""
    found = []
    for line in filter(str.strip, lines.splitlines()):
        pattern = line if Path(line).exists() else line.strip()
        matches = [] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - may be absolute
        found += matches or [pattern]
    return list(dict.fromkeys(found))


@contextmanager
def no_workflow_commands() -> Iterator[None]:
    """Inside this block, GitHub ignores workflow commands such as `::error::`, which a file name may contain."""
    token = secrets.token_hex(16) if os.environ.get("GITHUB_ACTIONS") else None
    if token:
        print(f"::stop-commands::{token}", flush=True)
    try:
        yield
    finally:
        if token:
            sys.stderr.flush()
            print(f"::{token}::", flush=True)


def run_check(models: Sequence[str], options: argparse.Namespace, baseline: Path | None, work: Path) -> tuple[int, str]:
    """Run `edgekd check`, which writes its reports into `work` unless its input is bad; returns its exit status and its
    errors."""
    command = [sys.executable, "-P", "-m", "edgekd.cli", "check", f"--target={options.target}"]
    command += [
        f"--report={name}={work / name}" for name in ("markdown", "junit", *(["badge"] if options.badge else []))
    ]
    if baseline is not None:
        command += [f"--baseline={baseline}", f"--tolerance={options.tolerance}"]
    with no_workflow_commands():
        done = subprocess.run([*command, "--", *models], stderr=subprocess.PIPE, check=False)
        errors = done.stderr.decode(errors="backslashreplace")
        print(errors, end="", file=sys.stderr)
    return done.returncode, errors


def summarise(path: str, text: bytes) -> None:
    """Append to the job summary, cut to the size that GitHub accepts."""
    if len(text) > SUMMARY_BYTES:
        text = text[:SUMMARY_BYTES].rpartition(b"\n")[0] + b"\n\n... cut: the JUnit report and the log are complete\n"
    with Path(path).open("ab") as file:
        file.write(text + b"\n")


def no_models() -> tuple[bytes, bytes]:
    """Summary and JUnit report of a change without model files."""
    return b"edgekd check: no model file changed.\n", f'{XML}<testsuites name="edgekd check" tests="0" />\n'.encode()


def bad_input(errors: str) -> tuple[bytes, bytes]:
    """Summary and JUnit report of bad input, with the last line of the errors."""
    line = "".join(letter if letter.isprintable() else " " for letter in errors.strip().rpartition("\n")[2]) or "failed"
    xml = (
        f'{XML}<testsuites name="edgekd check" tests="1" errors="1">\n  <testsuite name="edgekd check" tests="1"'
        f' errors="1"><testcase name="input"><error message={quoteattr(line)}'
        " /></testcase></testsuite>\n</testsuites>\n"
    )
    return f"### edgekd check failed: bad input\n\n    {line}\n".encode(), xml.encode()


def write_report(content: bytes, path: str) -> None:
    """Write a report where a path is given."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)


def main() -> int:
    """Find models, check them, write reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="dcase2023", help="name of a shipped target, or the path of a .toml file")
    parser.add_argument("--models", default="*.tflite\n*.onnx", help="git pathspecs, one a line")
    parser.add_argument("--files", default="", help="instead of asking git: paths or globs, one a line")
    parser.add_argument(
        "--base", default="", help="commit or branch; of the models, those changed since it left are checked"
    )
    parser.add_argument("--tolerance", default="", help="growth over the version at the base that passes, like 2%%")
    parser.add_argument("--junit", default="", help="file of the JUnit report")
    parser.add_argument("--badge", default="", help="file of the badge")
    parser.add_argument("--summary", default="", help="file that the Markdown report is appended to")
    parser.add_argument("--output", default="", help="file that ok=... and checked=... are appended to")
    options = parser.parse_args()
    # made absolute before the working directory changes
    for name in ("junit", "badge", "summary", "output", "target"):
        given = getattr(options, name)
        if given and (name != "target" or len(Path(given).parts) > 1 or Path(given).suffix):  # a target may be a name
            setattr(options, name, str(Path(given).absolute()))
    commit = None
    if options.files.strip():
        models = expanded(options.files)
    else:
        os.chdir(os.fsdecode((git("rev-parse", "--show-toplevel") or b"").removesuffix(b"\n")))
        commit = commit_of(options.base)
        models = tracked_models(commit, list(filter(None, map(str.strip, options.models.splitlines()))))
    status = 0
    with tempfile.TemporaryDirectory(prefix="edgekd-check-") as folder:
        work, earlier = Path(folder), Path(folder) / "earlier"
        summary, junit = no_models()
        if models:
            if options.tolerance and commit:
                earlier.mkdir()
                earlier_versions(commit, models, earlier)
            status, errors = run_check(models, options, earlier if earlier.is_dir() else None, work)
            checked = (work / "junit").is_file()
            summary, junit = (
                ((work / "markdown").read_bytes(), (work / "junit").read_bytes()) if checked else bad_input(errors)
            )
        else:
            print("check_changed: no model file changed")
        if options.summary:
            summarise(options.summary, summary)
        write_report(junit, options.junit)
        if options.badge and (work / "badge").is_file():
            Path(options.badge).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / "badge", options.badge)
    if options.output:
        with Path(options.output).open("a", encoding="utf-8") as file:
            file.write(f"ok={'true' if status == 0 else 'false'}\nchecked={len(models)}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
