"""Kills trainings, soft-label exports, `data prepare` and sweeps at random times, resumes them, and compares the
results with those of an undisturbed run.

    python tools/kill_resume.py --times 50
    python tools/kill_resume.py --kind training --times 200 --seed 7 --folder /tmp/kills

Each kind runs once undisturbed. Then it is started, its processes are killed (SIGKILL) after a random time, at most the
duration of the undisturbed run, and it is started again as a user would, until it finishes or was killed often enough;
then a new run follows. The results of every run must equal those of the undisturbed one byte for byte: weights,
metrics.csv, run.json without its times, soft labels, the files of a store, results.csv. One thread; a small synthetic
store. Prints a table, then one JSON line; exit status 1 where anything differs, and the folder is then kept.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from toolbox import EDGEKD, children, cores

from edgekd.text import columns
from edgekd.train.launch import ALLOCATOR, MARKER, SPINNING

ENVIRONMENT = {**ALLOCATOR, **SPINNING, MARKER: "1"}
"""Variables without which the commands would restart themselves."""
CLIPS = 60
ONE_THREAD = ("--threads", "1", "--accelerator", "cpu")


def settings(*pairs: str) -> tuple[str, ...]:
    """Options that set each of these."""
    return tuple(part for pair in pairs for part in ("--set", pair))


TRAIN = settings("train.batch_size=8", "train.warmup_epochs=1", "train.test_every=2")
TEACHER = ("synth-cp-resnet", *TRAIN, *settings("train.epochs=1", "view.seconds=1.0", "augment.roll=0.5"), *ONE_THREAD)
QUICK = (*TRAIN, *settings("student.width=8", "qat.batch_size=8", "qat.freeze_epochs=1", "qat.calibration_clips=32"))
STUDENT = ("synth-serfr24", *QUICK, *settings("train.epochs=6", "qat.epochs=4"), *ONE_THREAD)
SWEPT = ("synth-serfr24", *QUICK, *settings("train.epochs=2", "qat.epochs=1"), "--threads", "1")
WAVS, WAV_RATE = 1200, 44100
TIMES = ("created", "seconds")
"""Fields of run.json that differ between runs."""
END_S = 5.0
"""Longest time in which killed processes must end."""

Results = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """A kind of command to kill. Every function takes the output folder.

    Attributes:
        command: arguments of edgekd.
        results: the files to compare.
        stage: how far the command is.
        finished: whether there is nothing to resume.
        resumable: whether --resume continues it; else the same command does.
        setup: prepares the folder before the command.
    """

    command: Callable[[Path], list[str]]
    results: Callable[[Path], Results]
    stage: Callable[[Path], str]
    finished: Callable[[Path], bool]
    resumable: Callable[[Path], bool] = lambda _: False
    setup: Callable[[Path], None] = lambda _: None


@dataclass
class Tally:
    """Counts of one kind. fell: stage -> kills at that stage."""

    seconds: float
    kills: int = 0
    resumes: int = 0
    runs: int = 0
    fell: Counter[str] = field(default_factory=Counter)
    differ: list[str] = field(default_factory=list)


def without_times(raw: bytes) -> bytes:
    """run.json without the fields of `TIMES`."""
    return json.dumps(
        {key: value for key, value in json.loads(raw).items() if key not in TIMES}, sort_keys=True
    ).encode()


def run_results(run: Path) -> Results:
    """Results of a training."""
    found = {name: (run / name).read_bytes() for name in ("metrics.csv", "recipe.json", "model.pt", "qat.pt")}
    return {**found, "run.json": without_times((run / "run.json").read_bytes())}


def run_stage(run: Path) -> str:
    """Stage of a training."""
    if not (run / "run.json").is_file():
        return "start"
    if json.loads((run / "run.json").read_bytes())["status"] == "finished":
        return "finished"
    if not (run / "metrics.csv").is_file():
        return "before the first checkpoint"
    phase, epoch = (run / "metrics.csv").read_text().splitlines()[-1].split(",")[:2]
    return f"{phase} phase" if epoch else phase


def prepare_stage(store: Path) -> str:
    """Stage of a `data prepare`."""
    journals = list(store.parent.glob(f".{store.name}.partial-*/journal"))
    if (store / "store.json").is_file():
        return "finished"
    return "decoding" if journals and journals[0].stat().st_size else "start"


def sweep_stage(sweep: Path) -> str:
    """Stage of a sweep: its finished runs."""
    finished = sum(json.loads(file.read_bytes()).get("status") == "finished" for file in sweep.rglob("run.json"))
    return f"{finished} runs done" if sweep.is_dir() else "start"


def file_results(pattern: str) -> Callable[[Path], Results]:
    """A function that reads the files of a folder that match a pattern."""
    return lambda folder: {
        str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob(pattern)) if file.is_file()
    }


def kinds(folder: Path) -> dict[str, Callable[[], Kind]]:
    """Name -> a function that prepares the inputs of a kind and returns it."""
    store, teacher = folder / "data", folder / "teacher"

    def training() -> Kind:
        return Kind(
            lambda out: ["distill", *STUDENT, "--data", str(store), "--out", str(out), "--teacher", str(teacher)],
            run_results,
            run_stage,
            lambda _: False,
            lambda out: (out / "run.json").is_file(),
        )

    def softlabels() -> Kind:
        return Kind(
            lambda out: ["teach", *TEACHER, "--data", str(store), "--out", str(out)],
            file_results("softlabels/*"),
            lambda out: "finished" if list(out.glob("softlabels/*.npy")) else "computing",
            lambda _: False,
            lambda _: True,
            lambda out: copy_without_labels(teacher, out),
        )

    def prepare() -> Kind:
        make_wavs(folder / "wavs")
        return Kind(
            lambda out: ["data", "prepare", "folder", str(folder / "wavs"), "--out", str(out)],
            file_results("*"),
            prepare_stage,
            lambda out: (out / "store.json").is_file(),
        )

    def sweep() -> Kind:
        return Kind(
            lambda out: [
                "sweep",
                *SWEPT,
                "--data",
                str(store),
                "--out",
                str(out),
                "--vary",
                "train.lr=1e-3,3e-3",
                "--jobs",
                "2",
            ],
            file_results("results.csv"),
            sweep_stage,
            lambda _: False,
        )

    return {"training": training, "softlabels": softlabels, "prepare": prepare, "sweep": sweep}


def copy_without_labels(teacher: Path, out: Path) -> None:
    """Copy a finished teacher without its soft labels."""
    shutil.copytree(teacher, out, ignore=shutil.ignore_patterns("softlabels"))


def make_wavs(folder: Path) -> None:
    """Write LABEL/N.wav: noise of half a second, some stereo, some repeated."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(WAVS // 2):
            noise = np.random.default_rng(number // 2).uniform(-0.5, 0.5, (WAV_RATE // 2, int(rng.integers(1, 3))))
            soundfile.write(folder / label / f"{number}.wav", noise, WAV_RATE)


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [*EDGEKD, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )


@contextmanager
def started(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command; it is killed at the end of the block."""
    process = start(arguments, log)
    try:
        yield process
    finally:
        killed(process, 0)


def killed(process: subprocess.Popen[bytes], after: float) -> bool:
    """Kill a process and its descendants if it still runs after some seconds; returns whether it was killed."""
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGSTOP)  # a stopped process starts no other
        started = descendants(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        for each in started:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait()
        limit = time.monotonic() + END_S
        while any(is_alive(each) for each in started) and time.monotonic() < limit:
            time.sleep(0.01)
        return process.returncode == -signal.SIGKILL  # else it ended just before
    return False


def descendants(process: int) -> list[int]:
    """Processes that a process and its descendants started, also in other sessions."""
    return [each for child in children(process) for each in (child, *descendants(child))]


def is_alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def finish(arguments: list[str], log: Path) -> float:
    """Seconds of a command that runs to its end.

    Raises:
        SystemExit: it fails.
    """
    began = time.monotonic()
    with started(arguments, log) as process:
        check(process.wait(), arguments, log)
    return time.monotonic() - began


def check(status: int, arguments: list[str], log: Path) -> None:
    """Exit where a command failed."""
    if status != 0:
        sys.exit(f"edgekd {' '.join(arguments)}\nended with {status}; its log is {log}:\n{log.read_text()[-2000:]}")


def disturb(kind: Kind, out: Path, tally: Tally, times: int, rng: random.Random) -> None:
    """Run a command to its end, killing it again and again until the tally has `times` kills."""
    kind.setup(out)
    log = out.with_suffix(".log")
    started_before = False
    while not kind.finished(out):
        resume = ["--resume"] if kind.resumable(out) else []
        arguments = [*kind.command(out), *resume]
        tally.resumes += started_before
        started_before = True
        with started(arguments, log) as process:
            after = rng.uniform(0, tally.seconds) if tally.kills < times else None
            if after is None or not killed(process, after):
                check(process.wait(), arguments, log)
                break
        tally.kills += 1
        tally.fell[kind.stage(out)] += 1
    tally.runs += 1


def compare(name: str, wanted: Mapping[str, bytes], got: Mapping[str, bytes]) -> list[str]:
    """Names of results that differ, or that only one run has."""
    return [f"{name}/{each}" for each in sorted({*wanted, *got}) if wanted.get(each) != got.get(each)]


def run_kind(kind: Kind, folder: Path, times: int, rng: random.Random) -> Tally:
    """Kill runs of one kind, `times` times in all, and compare their results with those of an undisturbed run."""
    undisturbed = folder / "undisturbed"
    kind.setup(undisturbed)
    resume = ["--resume"] if kind.resumable(undisturbed) else []
    tally = Tally(finish([*kind.command(undisturbed), *resume], folder / "undisturbed.log"))
    wanted = kind.results(undisturbed)
    while tally.kills < times:
        out = folder / f"run{tally.runs}"
        disturb(kind, out, tally, times, rng)
        differ = compare(out.name, wanted, kind.results(out))
        tally.differ += differ
        if not differ:
            shutil.rmtree(out)
    return tally


def make_inputs(folder: Path, names: list[str]) -> None:
    """Make the store and the teacher that most kinds need."""
    if set(names) == {"prepare"}:
        return
    store = str(folder / "data")
    finish(["data", "synth", "--out", store, "--clips", str(CLIPS), "--seconds", "1"], folder / "data.log")
    finish(["teach", *TEACHER, "--data", store, "--out", str(folder / "teacher")], folder / "teacher.log")


def report(tallies: Mapping[str, Tally], seed: int) -> str:
    """The table and the JSON line."""
    cells = [
        [name, "no" if tally.differ else "yes", *map(str, (tally.kills, tally.resumes, tally.runs))]
        for name, tally in tallies.items()
    ]
    lines = columns(["kind", "equal", "kills", "resumes", "runs"], cells, left=2)
    for name, tally in tallies.items():
        stages = ", ".join(f"{stage} {count}" for stage, count in tally.fell.most_common())
        lines += [f"{name}: kills at {stages}", *(f"  differs: {each}" for each in tally.differ)]
    rows = {
        name: {
            "kills": tally.kills,
            "resumes": tally.resumes,
            "runs": tally.runs,
            "seconds": round(tally.seconds, 1),
            "fell": dict(tally.fell),
            "equal": not tally.differ,
            "differ": tally.differ,
        }
        for name, tally in tallies.items()
    }
    return "\n".join([*lines, json.dumps({"machine": cores(), "seed": seed, "kinds": rows})])


def main() -> None:
    """Test all kinds, or one."""
    parser = argparse.ArgumentParser(description="Kill and resume, and compare with an undisturbed run.")
    parser.add_argument("--kind", default="all", choices=["all", *kinds(Path())])
    parser.add_argument("--times", type=int, default=50, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="kill-resume-", dir=arguments.folder))
    makers = kinds(folder)
    names = list(makers) if arguments.kind == "all" else [arguments.kind]
    make_inputs(folder, names)
    tallies: dict[str, Tally] = {}
    for name in names:
        (folder / name).mkdir()
        tallies[name] = run_kind(
            makers[name](), folder / name, arguments.times, random.Random(f"{arguments.seed} {name}")
        )
    print(report(tallies, arguments.seed))
    if any(tally.differ for tally in tallies.values()):
        sys.exit(f"killed and undisturbed runs differ; all files are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
