"""`edgekd bench-train`: the times of its stages, the share that the device waits, and refused arguments."""

import json

import pytest

from edgekd.cli import main
from edgekd.data.prepare import synth
from edgekd.errors import InputError
from edgekd.train import bench as timing
from edgekd.train.bench import STAGES, bench_train, to_text

RECIPE = "synth-serfr24"
SMALL = (
    "student.width=8",
    "student.last_width=16",
    "train.batch_size=8",
    "frontend.n_mels=64",
    "frontend.n_fft=512",
    "frontend.win_length=512",
)

LIVE = ("distill.teaching=same", "distill.repeat=2")
"""Settings of live teachers; the benchmark times soft labels instead."""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setattr(timing, "WARM_UP", 1)


@pytest.mark.usefixtures("quick")
def test_every_stage_of_a_student_is_timed_on_a_store_that_is_made(monkeypatch, capsys):
    arguments = [
        "bench-train",
        RECIPE,
        "--clips",
        "100",
        "--batches",
        "1",
        "--teacher",
        "synth-cp-resnet",
        "--soft-labels",
        "2",
        "--threads",
        "1",
        *(part for each in (*SMALL, *LIVE) for part in ("--set", each)),
    ]
    monkeypatch.setattr("sys.argv", ["edgekd", *arguments])
    monkeypatch.setenv("EDGEKD_LAUNCHED", "1")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    *table, line = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result["clips_per_s"].keys() == set(STAGES)
    assert all(value is None or value > 0 for value in result["clips_per_s"].values())
    timed = ("gather", "log_mel", "teacher_inference", "student_step", "qat_step", "end_to_end")
    assert all(result["clips_per_s"][stage] for stage in timed)
    assert 0 <= result["waits"] < 1
    assert (result["soft_labels"], result["clips"], result["batch_size"]) == (2, 90, 8)
    # printed to 0.01 s
    assert result["epoch_s"] == pytest.approx(90 / result["clips_per_s"]["end_to_end"], abs=0.01, rel=0.02)
    assert any(row.startswith("end to end") for row in table)


@pytest.mark.usefixtures("quick")
def test_a_teacher_recipe_has_no_quantised_step():
    result = bench_train(
        "synth-cp-resnet", None, overrides=("train.batch_size=8", "view.seconds=1"), clips=100, batches=1, threads=1
    )
    assert result.clips_per_s["qat_step"] is None
    assert result.clips_per_s["teacher_inference"] is None
    assert ["qat", "step", "-"] in [line.split() for line in to_text(result).splitlines()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": 0}, "--batches must be 1 or more"),
        ({"clips": 99}, "--clips 100 or more"),
        ({"soft_labels": -1}, "--soft-labels is too small"),
    ],
)
def test_numbers_that_are_too_small_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        bench_train(RECIPE, None, **arguments)


def test_a_store_at_another_rate_is_refused(tone_store):
    with pytest.raises(InputError, match=r"16000 Hz, .* holds 8000 Hz"):
        bench_train(RECIPE, tone_store)


def test_a_store_of_too_few_batches_is_refused(tmp_path):
    synth(tmp_path / "store", clips=40, seconds=1.0)
    with pytest.raises(InputError, match="an epoch has 1 batch of 32"):
        bench_train(
            "synth-cp-resnet",
            tmp_path / "store",
            overrides=("view.seconds=1", "augment.roll=0.5"),
            batches=1,
            threads=1,
        )
