"""Kills trainings, soft-label exports, `data prepare` and sweeps at random moments, goes on, and compares with an
undisturbed run.

    python tools/kill_resume.py --times 50
    python tools/kill_resume.py --kind training --times 200 --seed 7 --folder /tmp/kills

Each kind runs once undisturbed. Then it is begun, its processes are ended by SIGKILL after a random time, up to what
the undisturbed run took, and it is begun again as a user would, until it finishes or was killed often enough; and so on
with a new run. What every run leaves must be that of the undisturbed one, byte for byte: weights, metrics.csv, run.json
without its times, soft labels, the files of a store, results.csv. One thread; a small synthetic store. Prints a table,
then one JSON line; exit status 1 where anything differs, and the folder is kept then.
"""

import argparse
import json
import os
import platform
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

from edgekd.train.launch import ALLOCATOR, MARKER, WAITING

ENVIRONMENT = {**ALLOCATOR, **WAITING, MARKER: "1"}
"""What the commands would start themselves anew for."""
CLIPS = 60
ONE_THREAD = ("--threads", "1", "--accelerator", "cpu")


def settings(*pairs: str) -> tuple[str, ...]:
    """--set for each."""
    return tuple(part for pair in pairs for part in ("--set", pair))


TRAIN = settings("train.batch_size=8", "train.warmup_epochs=1", "train.test_every=2")
TEACHER = ("synth-cp-resnet", *TRAIN, *settings("train.epochs=1", "view.seconds=1.0", "augment.roll=0.5"), *ONE_THREAD)
QUICK = (*TRAIN, *settings("student.width=8", "qat.batch_size=8", "qat.freeze_epochs=1", "qat.calibration_clips=32"))
STUDENT = ("synth-serfr24", *QUICK, *settings("train.epochs=6", "qat.epochs=4"), *ONE_THREAD)
SWEPT = ("synth-serfr24", *QUICK, *settings("train.epochs=2", "qat.epochs=1"), "--threads", "1")
WAVS, WAV_RATE = 1200, 44100
TIMES = ("created", "seconds")
"""Fields of run.json that no two runs share."""
GONE_S = 5.0
"""How long killed processes may take to be gone."""

Results = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """Something to kill.

    Attributes:
        command: arguments of edgekd for a folder to make.
        results: what is compared, of that folder.
        stage: how far it is, of that folder.
        finished: whether there is nothing to go on with, of that folder.
        resumable: whether it goes on with --resume, of that folder; others are given the same command.
        setup: makes what the folder holds before the command.
    """

    command: Callable[[Path], list[str]]
    results: Callable[[Path], Results]
    stage: Callable[[Path], str]
    finished: Callable[[Path], bool]
    resumable: Callable[[Path], bool] = lambda _: False
    setup: Callable[[Path], None] = lambda _: None


@dataclass
class Tally:
    """What happened to one kind. fell: stage -> kills."""

    seconds: float
    kills: int = 0
    resumes: int = 0
    runs: int = 0
    fell: Counter[str] = field(default_factory=Counter)
    differ: list[str] = field(default_factory=list)


def without_times(raw: bytes) -> bytes:
    """run.json less what no two runs share."""
    return json.dumps(
        {key: value for key, value in json.loads(raw).items() if key not in TIMES}, sort_keys=True
    ).encode()


def run_results(run: Path) -> Results:
    """Of a training."""
    found = {name: (run / name).read_bytes() for name in ("metrics.csv", "recipe.json", "model.pt", "qat.pt")}
    return {**found, "run.json": without_times((run / "run.json").read_bytes())}


def run_stage(run: Path) -> str:
    """How far a training is."""
    if not (run / "run.json").is_file():
        return "start"
    if json.loads((run / "run.json").read_bytes())["status"] == "finished":
        return "finished"
    if not (run / "metrics.csv").is_file():
        return "before the first checkpoint"
    phase, epoch = (run / "metrics.csv").read_text().splitlines()[-1].split(",")[:2]
    return f"{phase} phase" if epoch else phase


def prepare_stage(store: Path) -> str:
    """How far a store is."""
    journals = list(store.parent.glob(f".{store.name}.partial-*/journal"))
    if (store / "store.json").is_file():
        return "finished"
    return "decoding" if journals and journals[0].stat().st_size else "start"


def sweep_stage(sweep: Path) -> str:
    """How many of its runs a sweep has finished."""
    finished = sum(json.loads(file.read_bytes()).get("status") == "finished" for file in sweep.rglob("run.json"))
    return f"{finished} runs done" if sweep.is_dir() else "start"


def file_results(pattern: str) -> Callable[[Path], Results]:
    """The files of a folder that match."""
    return lambda folder: {
        str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob(pattern)) if file.is_file()
    }


def kinds(folder: Path) -> dict[str, Callable[[], Kind]]:
    """Name -> what makes ready what a kind needs, and the kind."""
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
    """A finished teacher whose soft labels are to be computed."""
    shutil.copytree(teacher, out, ignore=shutil.ignore_patterns("softlabels"))


def make_wavs(folder: Path) -> None:
    """LABEL/N.wav of noise, half a second long, some stereo, some repeated."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(WAVS // 2):
            noise = np.random.default_rng(number // 2).uniform(-0.5, 0.5, (WAV_RATE // 2, int(rng.integers(1, 3))))
            soundfile.write(folder / label / f"{number}.wav", noise, WAV_RATE)


def begin(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "edgekd.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )


@contextmanager
def started(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that does not outlive this program."""
    process = begin(arguments, log)
    try:
        yield process
    finally:
        killed(process, 0)


def killed(process: subprocess.Popen[bytes], after: float) -> bool:
    """Whether a process was still there after some seconds; it and all that it started are gone then."""
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGSTOP)  # what is stopped starts nothing more
        started = descendants(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        for each in started:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait()
        limit = time.monotonic() + GONE_S
        while any(is_alive(each) for each in started) and time.monotonic() < limit:
            time.sleep(0.01)
        return process.returncode == -signal.SIGKILL  # else it ended by itself between the two
    return False


def descendants(process: int) -> list[int]:
    """Children of a process and theirs, also those in sessions of their own."""
    found: list[int] = []
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, listed.read_text().split()):
                found += [child, *descendants(child)]
    return found


def is_alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def finish(arguments: list[str], log: Path) -> float:
    """Run a command to its end; its seconds.

    Raises:
        SystemExit: it fails.
    """
    began = time.monotonic()
    with started(arguments, log) as process:
        check(process.wait(), arguments, log)
    return time.monotonic() - began


def check(status: int, arguments: list[str], log: Path) -> None:
    """Stop where a command failed."""
    if status != 0:
        sys.exit(f"edgekd {' '.join(arguments)}\nended with {status}; its log is {log}:\n{log.read_text()[-2000:]}")


def disturb(kind: Kind, out: Path, tally: Tally, times: int, rng: random.Random) -> None:
    """One run to its end, killed until there were `times` kills in all."""
    kind.setup(out)
    log = out.with_suffix(".log")
    began = False
    while not kind.finished(out):
        resume = ["--resume"] if kind.resumable(out) else []
        arguments = [*kind.command(out), *resume]
        tally.resumes += began
        began = True
        with started(arguments, log) as process:
            after = rng.uniform(0, tally.seconds) if tally.kills < times else None
            if after is None or not killed(process, after):
                check(process.wait(), arguments, log)
                break
        tally.kills += 1
        tally.fell[kind.stage(out)] += 1
    tally.runs += 1


def compare(name: str, wanted: Mapping[str, bytes], got: Mapping[str, bytes]) -> list[str]:
    """Names of results that differ, or that only one side has."""
    return [f"{name}/{each}" for each in sorted({*wanted, *got}) if wanted.get(each) != got.get(each)]


def prove(kind: Kind, folder: Path, times: int, rng: random.Random) -> Tally:
    """Kill runs of one kind, at least `times` times."""
    straight = folder / "straight"
    kind.setup(straight)
    resume = ["--resume"] if kind.resumable(straight) else []
    tally = Tally(finish([*kind.command(straight), *resume], folder / "straight.log"))
    wanted = kind.results(straight)
    while tally.kills < times:
        out = folder / f"run{tally.runs}"
        disturb(kind, out, tally, times, rng)
        differ = compare(out.name, wanted, kind.results(out))
        tally.differ += differ
        if not differ:
            shutil.rmtree(out)
    return tally


def make_ready(folder: Path, names: list[str]) -> None:
    """The store and the teacher that most kinds need."""
    if set(names) == {"prepare"}:
        return
    store = str(folder / "data")
    finish(["data", "synth", "--out", store, "--clips", str(CLIPS), "--seconds", "1"], folder / "data.log")
    finish(["teach", *TEACHER, "--data", store, "--out", str(folder / "teacher")], folder / "teacher.log")


def report(tallies: Mapping[str, Tally], seed: int) -> str:
    """The table and the JSON line."""
    lines = [f"{'kind':<12}{'kills':>6}{'resumes':>9}{'runs':>6}{'equal':>7}  where kills fell"]
    for name, tally in tallies.items():
        fell = ", ".join(f"{stage} {count}" for stage, count in tally.fell.most_common())
        lines.append(
            f"{name:<12}{tally.kills:>6}{tally.resumes:>9}{tally.runs:>6}{'no' if tally.differ else 'yes':>7}  {fell}"
        )
        lines += [f"  differs: {each}" for each in tally.differ]
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
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return "\n".join([*lines, json.dumps({"machine": machine, "seed": seed, "kinds": rows})])


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill and resume, and compare with an undisturbed run.")
    parser.add_argument("--kind", default="all", choices=["all", *kinds(Path())])
    parser.add_argument("--times", type=int, default=50, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="kill-resume-", dir=arguments.folder))
    makers = kinds(folder)
    names = list(makers) if arguments.kind == "all" else [arguments.kind]
    make_ready(folder, names)
    tallies: dict[str, Tally] = {}
    for name in names:
        (folder / name).mkdir()
        tallies[name] = prove(makers[name](), folder / name, arguments.times, random.Random(f"{arguments.seed} {name}"))
    print(report(tallies, arguments.seed))
    if any(tally.differ for tally in tallies.values()):
        sys.exit(f"what was killed and what was not differ; everything is in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
