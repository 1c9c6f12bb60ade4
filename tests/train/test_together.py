"""Calls that several processes make together, checked in one process."""

import msgspec
import pytest
from helpers.html_page import parsed
from helpers.trainings import recipe_dict, write_store

from edgekd.train.distill import distill
from edgekd.train.loop.training import Options
from edgekd.train.parallel import processes
from edgekd.train.run.folder import PAIRS_FILE, REPORT_FILE, SVM_FILE


@pytest.fixture
def never_within(monkeypatch):
    """Fails where the first process would wait for the others inside of work that it does alone, which would never
    end."""
    alone, first, wait = [], processes.first, processes.barrier

    def watched(work):
        assert not alone, "processes.first inside of another"
        alone.append(work)
        try:
            return first(work)
        finally:
            alone.clear()

    def waited():
        assert not alone, "processes.barrier inside of processes.first"
        wait()

    monkeypatch.setattr(processes, "first", watched)
    monkeypatch.setattr(processes, "barrier", waited)


@pytest.mark.usefixtures("never_within")
def test_the_first_process_waits_for_no_other_in_what_it_does_alone(tmp_path):
    write_store(tmp_path / "store")
    for name in ("general", "special"):
        (tmp_path / f"{name}.json").write_bytes(
            msgspec.json.encode(recipe_dict("teacher", name=name, train={"epochs": 1}))
        )
    student = recipe_dict(
        teachers=[{"recipe": str(tmp_path / "general.json")}],
        specialists={"recipe": str(tmp_path / "special.json"), "pairs": 1, "held_out": [0, 2]},
        backend={"kernels": ["linear"]},
        train={"epochs": 1},
        qat={"epochs": 1, "freeze_epochs": 0},
        distill={"teaching": "views", "views": 2},
    )
    (tmp_path / "student.json").write_bytes(msgspec.json.encode(student))
    run = distill(str(tmp_path / "student.json"), tmp_path / "store", tmp_path / "run", options=Options(threads=1))
    assert (run.path / PAIRS_FILE).is_file()
    assert (run.path / SVM_FILE).is_file()
    text = parsed((run.path / REPORT_FILE).read_bytes()).text
    assert "confused on the test side clips generalist specialist mean of teachers student int8-aware" in text
    assert "Accuracy of test clips. kernel softmax machine run linear" in text
