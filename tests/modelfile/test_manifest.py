"""Manifests: encoded and decoded, of older versions, and refused if damaged."""

import msgspec
import pytest
from qgraph import toy

from edgekd.cli import main
from edgekd.errors import InputError
from edgekd.modelfile import container
from edgekd.modelfile.manifest import ModuleCount, decode, encode
from edgekd.qgraph import tflite

MANIFEST = toy.manifest(toy.every_op(), "tflite")


def test_what_is_encoded_is_decoded():
    assert decode(encode(MANIFEST), "m") == MANIFEST


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", [], "length >= 1"),
        ("labels", ["a", "b", "a"], "a label occurs twice"),
        ("window", 0, r"\$\.window"),
        ("temperature", 0.0, r"\$\.temperature"),
        ("input.scale", 0.0, r"\$\.input\.scale"),
        ("output.scale", -1.0, r"\$\.output\.scale"),
        ("input.scale", 1e-308, r"\$\.input\.scale"),
        ("input.zero_point", 2**31, r"\$\.input\.zero_point"),
        ("temperature", 1e308, r"\$\.temperature"),
        ("window", 2**40, "1,099,511,627,776 samples"),
        ("frontend.std", 1e-308, "frontend: mean is .* std 1e-308"),
        ("frontend.log_floor", 1e-308, "frontend: log_floor is 1e-308"),
        ("input.dtype", "int7", r"\$\.input\.dtype"),
        ("frontend.hop_length", 0, "frontend: hop_length is 0"),
        ("frontend.n_fft", 2**40, "frontend: n_fft is 1099511627776"),
        ("colour", "red", "unknown field `colour`"),
    ],
)
def test_impossible_values_are_refused_naming_file_and_field(field, value, message):
    document = msgspec.to_builtins(MANIFEST)
    *outer, name = field.split(".")
    inner = document[outer[0]] if outer else document
    inner[name] = value
    with pytest.raises(InputError, match=rf"x\.tflite: the manifest is damaged \(.*{message}"):
        decode(msgspec.json.encode(document), "x.tflite")


@pytest.mark.parametrize(
    "raw", [b"", b"[1]", b"[" * 100_000, b'{"format_version": 1, "name": "\xff"}', b'{"format_version": 1}']
)
def test_bytes_that_are_not_a_manifest_are_refused(raw):
    with pytest.raises(InputError, match=r"x\.tflite: the manifest is damaged"):
        decode(raw, "x.tflite")


@pytest.mark.parametrize("version", [6, 0, -1, "1", 1.0, True, None])
def test_another_version_is_refused(version):
    with pytest.raises(
        InputError,
        match=rf"x\.onnx: .*version {version!r} is unknown .*1 to 5",
    ):
        decode(msgspec.json.encode({"format_version": version}), "x.onnx")


def test_version_1_is_read_as_one_without_golden_vectors_and_calibration():
    document = msgspec.to_builtins(MANIFEST)
    del document["golden"], document["calibration"]
    read = decode(msgspec.json.encode({**document, "format_version": 1}), "x.onnx")
    assert (read.golden, read.calibration, read.format_version) == (None, None, 5)
    assert read == MANIFEST


def test_version_2_is_read_as_one_without_counts_of_the_float_network():
    document = msgspec.to_builtins(MANIFEST)
    del document["float_counts"]
    read = decode(msgspec.json.encode({**document, "format_version": 2}), "x.onnx")
    assert (read.float_counts, read.format_version) == ({}, 5)
    assert read == MANIFEST


def test_version_3_is_read_as_one_without_a_cross_validation():
    document = msgspec.to_builtins(MANIFEST)
    del document["crossval"]
    read = decode(msgspec.json.encode({**document, "format_version": 3}), "x.onnx")
    assert (read.crossval, read.format_version) == (None, 5)
    assert read == MANIFEST


def test_version_4_is_read_as_one_without_a_mean_spectrum():
    document = msgspec.to_builtins(MANIFEST)
    del document["spectrum"]
    read = decode(msgspec.json.encode({**document, "format_version": 4}), "x.onnx")
    assert (read.spectrum, read.format_version) == ((), 5)
    assert read == MANIFEST


def test_a_mean_spectrum_that_does_not_fit_the_bands_is_refused():
    bands = MANIFEST.frontend.n_mels
    document = {**msgspec.to_builtins(MANIFEST), "spectrum": [-0.5] * bands}
    assert decode(msgspec.json.encode(document), "x.onnx").spectrum == (-0.5,) * bands
    with pytest.raises(InputError, match=rf"x\.onnx: .*mean spectrum .*{bands} bands"):
        decode(msgspec.json.encode({**document, "spectrum": [0.5]}), "x.onnx")


def count(**changes):
    modules = [["a", "Conv2d", 20, 2], ["b", "Conv2d", 10, 1]]
    return {"torchinfo": {"counter": "torchinfo 1.8.0", "macs": 30, "params": 3, "modules": modules, **changes}}


def test_counts_of_the_float_network_are_kept():
    read = decode(msgspec.json.encode({**msgspec.to_builtins(MANIFEST), "float_counts": count()}), "x.onnx")
    torchinfo = read.float_counts["torchinfo"]
    assert (torchinfo.macs, torchinfo.params, torchinfo.param_bytes) == (30, 3, 12)
    assert torchinfo.modules[1] == ModuleCount("b", "Conv2d", 10, 1)
    assert decode(encode(read), "x.onnx") == read


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (count(macs=31), "the counts of torchinfo do not add up"),
        (count(params=4), "the counts of torchinfo do not add up"),
        (count(macs=-1), r"float_counts"),
        (count(macs=2**60), r"float_counts"),
        (count(modules=[["a", "Conv2d", 30]]), r"float_counts"),
        (count(modules=[["", "", 0, 0]] * 4097), r"float_counts"),
        ({"thop": count()["torchinfo"]}, r"float_counts|key"),
    ],
)
def test_impossible_counts_are_refused(counts, message):
    document = {**msgspec.to_builtins(MANIFEST), "float_counts": counts}
    with pytest.raises(InputError, match=rf"x\.onnx: the manifest is damaged \(.*({message})"):
        decode(msgspec.json.encode(document), "x.onnx")


ESCAPES = "low\x1b[2J\r\nedgekd: verified\x9b\u202e"


@pytest.mark.parametrize("command", [["info"], ["info", "--json"], ["info", "--card"], ["verify"]])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", ["high", ESCAPES]),
        ("labels", ["high", "low" * 100]),
        ("name", ESCAPES),
        ("student", "s" * 5000),
        ("provenance.recipe", ESCAPES),
        ("provenance.teachers", ["teacher", ESCAPES]),
        ("provenance.scores", {ESCAPES: 0.5}),
        ("provenance.scores", {f"score{index}": 0.5 for index in range(5000)}),
        ("colour", ESCAPES),
        (ESCAPES, "red"),
        (f"{ESCAPES * 5000}", "red"),
    ],
    ids=[
        "label",
        "long label",
        "name",
        "long kind",
        "recipe",
        "teacher",
        "score",
        "scores",
        "field",
        "key",
        "long key",
    ],
)
def test_a_file_cannot_control_the_terminal_that_shows_it(tmp_path, monkeypatch, capsys, command, field, value):
    document = msgspec.to_builtins(MANIFEST)
    *outer, name = field.split(".") if field.isprintable() else [field]
    (document[outer[0]] if outer else document)[name] = value
    path = tmp_path / "stranger.tflite"
    path.write_bytes(container.sealed(".tflite", tflite.emit(toy.every_op()), msgspec.json.encode(document)))
    monkeypatch.setattr("sys.argv", ["edgekd", command[0], str(path), *command[1:]])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert str(path) in err
    assert not {*"\x1b\r\x9b\u202e"} & {*err}
    assert err.count("\n") == 1
    assert len(err) < 1000


def test_no_file_is_written_that_would_be_refused(tmp_path):
    manifest = msgspec.structs.replace(MANIFEST, labels=("high", "low\x1b[2J"))
    with pytest.raises(InputError, match=r"m\.tflite: labels\[1\] .*low\\x1b"):
        container.write(tmp_path / "m.tflite", tflite.emit(toy.every_op()), manifest)
    assert list(tmp_path.iterdir()) == []


def test_labels_of_any_language_and_emoji_are_kept():
    labels = ("雨\u3000音", "صوت", "नमस्ते", "👩‍🚒", "naïve ✓")
    manifest = msgspec.structs.replace(MANIFEST, labels=labels)
    assert decode(encode(manifest), "m").labels == labels
