"""`edgekd doctor`: its report, its exit status, and its checks of models and packages."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekd.errors import GateError, InputError
from edgekd.modelfile.verify import VerifyReport
from edgekd.runtime import diagnose
from edgekd.runtime.diagnose import PACKAGES, DoctorReport, check_engines, check_model
from edgekd.runtime.source_checks import Check

GOOD = Check("peak", "ok", -20.0, "dBFS", "at least -60")
REPORT = DoctorReport("aarch64", "Linux", "3.11", {"numpy": "2.0", "soxr": None}, None, None, "", [GOOD])


@pytest.fixture
def report(edgekd, monkeypatch):
    """Runs `edgekd doctor`: exit status, standard output and standard error."""
    monkeypatch.setattr(diagnose, "portaudio_version", lambda: "PortAudio V19")
    return lambda *arguments: edgekd("doctor", *arguments)


def paced(path: Path, samples: np.ndarray) -> str:
    """A command that writes samples of 8 kHz as fast as a microphone delivers them."""
    path.write_bytes((samples * 32767).astype("<i2").tobytes())
    program = (
        "import sys, time; data = open(sys.argv[1], 'rb').read(); start = time.monotonic()\n"
        "for i in range(0, len(data), 1600):\n"
        "    time.sleep(max(0, start + (i + 1600) / 16000 - time.monotonic()))\n"
        "    sys.stdout.buffer.write(data[i:i + 1600]); sys.stdout.flush()"
    )
    return f'{sys.executable} -c "{program}" {path}; sleep 60'


def test_command_ends_with_0_for_a_good_source_and_1_for_a_clipped_one(report, tmp_path):
    samples = np.random.default_rng(0).standard_normal(20000) * 0.003
    samples[12000:] *= 20
    options = ("--rate", "8000", "--seconds", "1.5", "--wait", "30", "--command")
    status, out, err = report(*options, paced(tmp_path / "a.raw", samples))
    assert (status, err) == (0, "")
    assert "at 8000 Hz, 1 channel" in out
    portaudio = "V19" if find_spec("sounddevice") else "not found"
    assert f"PortAudio {portaudio}" in out
    status, out, err = report("--json", *options, paced(tmp_path / "b.raw", np.clip(samples * 300, -1, 1)))
    found = json.loads(out)
    assert (status, found["status"], found["source"]["rate"], found["source"]["seconds"]) == (1, "fail", 8000, 1.5)
    assert next(check["status"] for check in found["checks"] if check["name"] == "clipping") == "fail"
    assert set(found["packages"]) == set(PACKAGES)
    assert "failed: clipping" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_no_samples_is_status_2_with_the_reason_and_the_rest_of_the_report(report, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"x")
    status, out, err = report(
        "--json", "--rate", "8000", "--wait", "4", "--command", "exit 3", "--model", str(tmp_path / "bad.onnx")
    )
    assert status == 2
    assert "no samples arrive for 4 s: the command ended with status 3" in err
    assert err.count("\n") == 1
    found = json.loads(out)
    assert (found["status"], found["source"]) == ("fail", None)
    assert [check["name"] for check in found["checks"]] == ["engines", "model"]


def test_a_report_names_what_is_there_and_what_is_not():
    text = REPORT.to_text().splitlines()
    assert text[:4] == [
        "machine   aarch64, Linux, Python 3.11",
        "packages  numpy 2.0",
        "absent    soxr",
        "PortAudio not found",
    ]
    assert text[-1] == "ok  peak  -20 dBFS  at least -60"


def test_portaudio_is_named_once_and_is_none_where_it_does_not_answer(monkeypatch):
    for program, answer in (("print('PortAudio V19, revision 1')", "V19, revision 1"), ("raise OSError", None)):
        monkeypatch.setattr(diagnose, "ASK_PORTAUDIO", program)
        assert diagnose.portaudio_version() == answer


def test_silence_outranks_a_failed_check_and_warnings_pass():
    bad, warned = (msgspec.structs.replace(GOOD, status=status) for status in ("fail", "warn"))
    msgspec.structs.replace(REPORT, checks=[warned]).require()
    with pytest.raises(GateError, match="failed: peak;"):
        msgspec.structs.replace(REPORT, checks=[bad, warned]).require()
    with pytest.raises(InputError, match="nothing"):
        msgspec.structs.replace(REPORT, checks=[bad], failure="nothing").require()


def test_one_engine_is_enough_and_none_is_a_failure():
    assert check_engines({"ai-edge-litert": None, "onnxruntime": "1.20"}).status == "ok"
    check = check_engines({"ai-edge-litert": None})
    assert (check.status, check.advice) == ("fail", "install one with: pip install 'edgekd[litert]'")


def test_a_model_is_opened_and_verified(monkeypatch, tmp_path):
    assert check_model(tmp_path / "none.onnx").status == "fail"
    for error, status in ((0.0, "ok"), (1.0, "fail")):
        monkeypatch.setattr(diagnose, "verify", lambda path, error=error: VerifyReport(str(path), 8, error, 1.0, {}))
        assert check_model(tmp_path / "m.onnx").status == status
    assert "log units away" in check_model(tmp_path / "m.onnx").advice
