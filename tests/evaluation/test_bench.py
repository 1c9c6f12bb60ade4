"""`edgekd bench` on models that take microseconds: what is measured, and what is printed."""

import json

import msgspec
import pytest
from qgraph import toy

from edgekd.cli import main
from edgekd.errors import InputError
from edgekd.evaluation import bench
from edgekd.modelfile import container
from edgekd.qgraph import tflite

FIELDS = {
    "model",
    "engine",
    "threads",
    "frontend_ms",
    "network_ms",
    "network_warm_ms",
    "pipeline_ms",
    "rss_mb",
    "start_s",
    "machine",
}
REPEATS = 5


@pytest.fixture(autouse=True)
def one_start(monkeypatch):
    monkeypatch.setattr(bench, "STARTS", 1)


@pytest.fixture
def instant_start(monkeypatch):
    """For tests that do not look at start-up."""
    monkeypatch.setattr(bench, "start", lambda *_: (0.5, 40.0))


def test_the_stages_of_one_file(tone_model):
    (result,) = bench.bench([tone_model], repeats=REPEATS)
    assert (result.model, result.engine, result.threads, result.repeats) == (str(tone_model), "litert", 1, REPEATS)
    for times in (result.frontend_ms, result.network_ms, result.network_warm_ms, result.pipeline_ms):
        assert 0 < times.p50 <= times.p95
        assert 0 < times.cpu_p50 <= times.cpu_p95
    assert result.pipeline_ms.cpu_p50 > result.frontend_ms.cpu_p50
    assert 0.05 < result.start_s < bench.START_TIMEOUT_S  # an interpreter with numpy takes longer than that
    assert 20 < result.rss_mb < 200


@pytest.mark.usefixtures("instant_start")
def test_one_file_gives_an_object_and_several_a_list(tone_models, monkeypatch, capsys):
    documents = []
    for models in ([tone_models["litert"]], list(tone_models.values())):
        monkeypatch.setattr("sys.argv", ["edgekd", "bench", *map(str, models), "--repeats", "2", "--json"])
        with pytest.raises(SystemExit):
            main()
        documents.append(json.loads(capsys.readouterr().out))
    one, several = documents
    assert one.keys() >= FIELDS
    assert {"p50", "p95"} <= one["network_ms"].keys()
    assert [each["engine"] for each in several] == ["litert", "onnxruntime"]


@pytest.mark.usefixtures("instant_start")
def test_files_are_interleaved(monkeypatch):
    order = []
    stages = [{name: lambda name=name: order.append(name)} for name in "ab"]
    monkeypatch.setattr(bench, "WARM_UP", 1)
    times = bench.interleaved_times(stages, 2)
    assert order == ["a", "b"] * 3
    assert [each.keys() for each in times] == [{"a"}, {"b"}]


@pytest.mark.usefixtures("instant_start")
def test_warm_networks_run_back_to_back_in_turns(monkeypatch):
    order = []
    monkeypatch.setattr(bench, "BURST", 2)
    monkeypatch.setattr(bench, "BURST_WARM_UP", 1)
    bench.burst_times([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert "".join(order) == "aaabbb" + "aabb"  # one call in each burst is not counted; the second has one turn left


@pytest.mark.usefixtures("instant_start")
def test_an_int8_file_is_compared_with_its_float_twin_wherever_both_are_given(tmp_path):
    graph = toy.every_op()
    for precision in ("int8", "float"):
        path = tmp_path / f"toy.{precision}.tflite"
        container.write(path, tflite.emit(graph, precision == "float"), toy.manifest(graph, "tflite", precision))
    whole, twin = bench.bench([tmp_path], repeats=REPEATS)  # the folder stands for its files, int8 first
    assert (whole.precision, twin.precision) == ("int8", "float")
    assert whole.of_float == pytest.approx(whole.network_ms.p50 / twin.network_ms.p50, abs=1e-3)
    assert whole.of_float_warm == pytest.approx(whole.network_warm_ms.p50 / twin.network_warm_ms.p50, abs=1e-3)
    assert twin.of_float is None
    (alone,) = bench.bench([tmp_path / "toy.int8.tflite"], repeats=REPEATS)
    assert alone.of_float is None
    text = bench.to_text([whole, msgspec.structs.replace(twin, rss_mb=None)])
    assert "toy.float.tflite" in text
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("litert", {"engine": "onnxruntime"}, "does not open .tflite files"),
        ("litert", {"threads": 0}, "0 threads"),
        ("litert", {"repeats": 0}, "--repeats is 0"),
    ],
)
def test_bad_settings_are_refused(tone_models, name, arguments, message):
    with pytest.raises(InputError, match=message):
        bench.bench([tone_models[name]], **arguments)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no"):
        bench.bench([tmp_path])


def test_a_process_that_fails_gives_an_error_of_one_line(tmp_path):
    with pytest.raises(InputError, match=r"gone.tflite: a fresh process"):
        bench.start(tmp_path / "gone.tflite", "litert", 1)


def test_the_board_is_named(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp crc32\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    monkeypatch.setattr(bench, "CPU_INFO", info)
    assert bench.machine() == "Raspberry Pi 5 Model B Rev 1.0 (asimd, asimddp)"
