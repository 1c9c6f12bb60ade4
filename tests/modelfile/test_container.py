"""Manifests inside model files: written, read back, and refused in one line for every kind of damage."""

import os
import zipfile

import pytest
from qgraph import toy

from edgekd import protobuf
from edgekd.errors import InputError
from edgekd.modelfile import container
from edgekd.qgraph import onnx, tflite

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnx")

KINDS = ("tflite", "onnx")
GRAPH = toy.every_op()


@pytest.fixture(scope="module")
def emitted():
    return {"tflite": tflite.emit(GRAPH), "onnx": onnx.emit(GRAPH)}


@pytest.fixture(params=KINDS)
def written(request, tmp_path, emitted):
    path = tmp_path / f"toy.int8.{request.param}"
    container.write(path, emitted[request.param], toy.manifest(GRAPH, request.param))
    return path


def test_what_is_written_is_read(written, emitted):
    kind = written.suffix[1:]
    file = container.read(written)
    assert file.manifest == toy.manifest(GRAPH, kind)
    assert file.content == emitted[kind]
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_the_same_model_gives_the_same_bytes(written, emitted, tmp_path):
    again = tmp_path / f"again{written.suffix}"
    container.write(again, emitted[written.suffix[1:]], toy.manifest(GRAPH, written.suffix[1:]))
    assert again.read_bytes() == written.read_bytes()


def test_other_tools_read_the_files_too(written):
    if written.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        Interpreter(model_path=str(written)).allocate_tensors()
        assert zipfile.ZipFile(written).testzip() is None
    else:
        import onnx as library

        model = library.load(written)
        assert {entry.key for entry in model.metadata_props} == {container.MANIFEST_KEY, container.DIGEST_KEY}
        library.checker.check_model(model)


def test_a_model_of_another_tool_has_no_manifest(tmp_path, emitted):
    for kind, raw in emitted.items():
        path = tmp_path / f"foreign.{kind}"
        path.write_bytes(raw)
        assert container.split(path, raw) is None
        with pytest.raises(InputError, match=f"foreign.{kind}: carries no edgekd manifest"):
            container.read_manifest(path)


def test_metadata_of_other_tools_is_kept_as_part_of_the_model(tmp_path, emitted):
    foreign = emitted["onnx"] + container.metadata({"author": b"someone"})
    path = tmp_path / "a.onnx"
    container.write(path, foreign, toy.manifest(GRAPH, "onnx"))
    assert container.read(path).content == foreign


def test_a_file_cut_off_anywhere_is_refused(written):
    raw = written.read_bytes()
    for size in [0, 3, 8, 100, len(raw) // 2, len(raw) - 2000, len(raw) - 300, len(raw) - 30, len(raw) - 1]:
        written.write_bytes(raw[:size])
        with pytest.raises(InputError, match=written.name):
            container.read(written)


def outcome(path):
    """The file as read, or the text of the error."""
    try:
        return container.read(path)
    except InputError as error:
        return str(error)


def test_a_flipped_bit_never_gives_another_model(written, emitted):
    raw, intact = written.read_bytes(), container.read(written)
    for position in range(0, len(raw), 331):
        written.write_bytes(raw[:position] + bytes([raw[position] ^ 0x10]) + raw[position + 1 :])
        found = outcome(written)
        if isinstance(found, str):
            assert written.name in found
        else:  # a field of the container that no reader uses
            assert position >= len(emitted[written.suffix[1:]])
            assert found == intact


def test_a_changed_digit_of_the_manifest_is_refused(written):
    """With another digit the JSON is still valid, but the logits would be wrong."""
    raw = bytearray(written.read_bytes())
    digits = [position for position in range(raw.rindex(b'{"name"'), raw.rindex(b"}")) if chr(raw[position]).isdigit()]
    for position in digits[::7]:
        raw[position] ^= 1
        with pytest.raises(InputError, match=r"damaged|SHA-256|version 5 is unknown"):
            container.split(written, bytes(raw))
        raw[position] ^= 1
    assert container.split(written, bytes(raw)) == container.read(written)


def test_a_tflite_without_its_end_is_not_taken_for_a_foreign_one(tmp_path, emitted):
    path = tmp_path / "cut.tflite"
    container.write(path, emitted["tflite"], toy.manifest(GRAPH, "tflite"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"cut\.tflite: .*its end is missing"):
        container.split(path, path.read_bytes())


def test_a_compressed_manifest_is_refused_before_it_is_unpacked(tmp_path, emitted):
    path = tmp_path / "bomb.tflite"
    path.write_bytes(emitted["tflite"])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(container.MANIFEST_KEY, bytes(10**6))
    with pytest.raises(InputError, match=r"bomb\.tflite: .*edgekd\.json"):
        container.read(path)


def test_too_many_zip_entries_are_refused_before_they_are_listed(tmp_path, emitted):
    path = tmp_path / "entries.tflite"
    path.write_bytes(emitted["tflite"])
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(container.MAX_ENTRIES + 1):
            archive.writestr(str(index), b"")
    with pytest.raises(InputError, match=r"entries\.tflite: .*more than 64 entries"):
        container.read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_manifests_are_refused(written):
    raw = written.read_bytes()
    if written.suffix == ".tflite":
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(container.MANIFEST_KEY, b"{}")
    else:
        written.write_bytes(raw + container.metadata({container.MANIFEST_KEY: b"{}"}))
    with pytest.raises(InputError, match="an entry occurs twice"):
        container.read(written)


def test_fields_after_an_onnx_manifest_are_refused(tmp_path, emitted):
    """They would belong to the model for every other reader, and no digest covers them."""
    path = tmp_path / "a.onnx"
    container.write(path, emitted["onnx"], toy.manifest(GRAPH, "onnx"))
    path.write_bytes(path.read_bytes() + protobuf.field(7, b""))
    with pytest.raises(InputError, match="field 7 after the manifest"):
        container.read(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (protobuf.field(1, b"") * (protobuf.MAX_FIELDS + 1), "more than 65,536 fields in one message"),
        (
            protobuf.field(7, protobuf.field(1, protobuf.field(6, bytes(container.MAX_STRUCTURE_BYTES)))),
            "more than 2,097,152 bytes",
        ),
        (
            protobuf.field(7, protobuf.field(5, protobuf.field(8, bytes(container.MAX_STRUCTURE_BYTES)))),
            "besides its weights",
        ),
    ],
)
def test_an_onnx_file_that_would_fill_the_memory_is_refused_unparsed(tmp_path, raw, message):
    path = tmp_path / "a.onnx"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=message):
        container.read_bytes(path)


def test_large_weights_are_not_counted_as_structure(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(protobuf.field(7, protobuf.field(5, protobuf.field(9, bytes(2 * container.MAX_STRUCTURE_BYTES)))))
    assert len(container.read_bytes(path)) > 2 * container.MAX_STRUCTURE_BYTES


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    path = tmp_path / "a.onnx"
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"a.onnx: not a regular file"):
        container.read(path)


def test_garbage_after_a_model_is_refused(written):
    written.write_bytes(written.read_bytes() + b"\x07garbage" * 9000)
    with pytest.raises(InputError, match=written.name):
        container.read(written)


def test_an_oversized_manifest_is_refused(written, monkeypatch):
    monkeypatch.setattr(container, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(InputError, match=r"manifest of .* bytes, more than 100"):
        container.read(written)


def test_an_oversized_file_is_refused(written, monkeypatch):
    monkeypatch.setattr(container, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(InputError, match="bytes, larger than 1,000,"):
        container.read(written)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tflite", b"RIFF" * 100, r"a\.tflite: .*400 other bytes"),
        ("a.onnx", b"", r"a\.onnx: .*0 other bytes"),
        ("a.onnx", b"RIFF" * 100, r"a.onnx: not an ONNX file, or damaged"),
        ("a.onxn", b"", r"a\.onxn: .*did you mean '\.onnx'"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        container.read(path)


def test_paths_that_cannot_be_read_or_written_are_refused(tmp_path, emitted):
    with pytest.raises(InputError, match="cannot be read"):
        container.read(tmp_path / "missing.onnx")
    with pytest.raises(InputError, match="cannot be read"):
        container.read(tmp_path / "missing")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        container.read(tmp_path / "folder.onnx")
    with pytest.raises(InputError, match="cannot be written"):
        container.write(tmp_path / "missing" / "a.onnx", emitted["onnx"], toy.manifest(GRAPH, "onnx"))


def test_a_model_of_the_other_format_is_not_written(tmp_path, emitted):
    with pytest.raises(InputError, match=r"not a .tflite model"):
        container.write(tmp_path / "a.tflite", emitted["onnx"], toy.manifest(GRAPH, "tflite"))
    assert list(tmp_path.iterdir()) == []
