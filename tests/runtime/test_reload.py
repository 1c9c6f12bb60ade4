"""SIGHUP to a listener with a real model file: only a file that passes its golden vectors replaces the model in use."""

import json
import signal
import subprocess
import sys

import msgspec
import pytest

from edgekd.modelfile import container, golden
from edgekd.modelfile.manifest import TensorQuant
from edgekd.qgraph import onnx, reference

pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tone_fixtures, tmp_path):
    """An .onnx file with golden vectors."""
    graph = tone_fixtures.low_or_high_graph()
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    vectors = golden.make(
        tone_fixtures.FRONTEND,
        tone_fixtures.WINDOW,
        TensorQuant("int8", source.scale, source.zero_point),
        0.1,
        lambda features: reference.dequantize(
            reference.run(graph, reference.quantize(features[:, None], source)), output
        ),
    )
    path = tmp_path / "tones.int8.onnx"
    container.write(path, onnx.emit(graph), tone_fixtures.manifest_for(shift=128, dtype="uint8", golden=vectors))
    return path


def test_a_new_model_must_pass_before_it_replaces_the_old(model, tmp_path):
    file = container.read(model)
    labels = tuple(f"new {label}" for label in file.manifest.labels)
    first = file.manifest.golden.vectors[0]
    off = msgspec.structs.replace(first, logits=tuple(value + 9 for value in first.logits))
    wrong = msgspec.structs.replace(file.manifest.golden, vectors=(off, *file.manifest.golden.vectors[1:]))
    hop = file.manifest.window / file.manifest.frontend.sample_rate  # one decision for each window that is written
    (tmp_path / "box.toml").write_text(
        f'[model]\nfile = "{model.name}"\n[source]\nfile = "-"\n[decision]\nhop = {hop}\n[output]\njson = true\n'
    )
    window = bytes(2 * file.manifest.window)
    command = [sys.executable, "-m", "edgekd.cli", "listen", "--config", str(tmp_path / "box.toml")]
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **piped) as process:  # without a terminal

        def label() -> str:
            """The label of the next window."""
            process.stdin.write(window)
            process.stdin.flush()
            return json.loads(process.stdout.readline())["label"]

        def reload(**changes: object) -> str:
            container.write(model, file.content, msgspec.structs.replace(file.manifest, **changes))
            process.send_signal(signal.SIGHUP)
            return json.loads(process.stdout.readline())["reason"]

        old = label()
        assert old in file.manifest.labels
        assert "steps away" in reload(labels=labels, golden=wrong)
        assert label() == old
        assert "carries no golden vectors" in reload(labels=labels, golden=None)
        assert reload(labels=labels) == f"reloaded with the model {file.manifest.name}"
        assert label() == f"new {old}"
        (tmp_path / "box.toml").write_text("[modle]\n")
        process.send_signal(signal.SIGHUP)
        assert "did you mean 'model'" in json.loads(process.stdout.readline())["reason"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
