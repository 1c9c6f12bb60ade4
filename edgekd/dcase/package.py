"""The inference package of a DCASE 2025 submission: an installable folder with the models of all recorders, which needs
no edgekd.

Its module is a copy of `edgekd.dcase.inference_module`, which has the interface of the organisers' inference package.
The front end and the reader of .onnx files are copied beside it. Weights are integers, as in the files, so that the
organisers' script counts bytes as they are stored.
"""

import ast
import copy
import inspect
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import msgspec
import torch
import torchinfo

from edgekd import errors, frontend, mel_scales, rates
from edgekd.dcase import inference_module, onnx_module
from edgekd.dcase.forms import GENERAL, SCENES, module_name, package_name
from edgekd.dcase.inference_module import CKPTS, INDEX, DeviceModel, Models
from edgekd.errors import InputError
from edgekd.modelfile import container

FOLDER = "inference"
"""The package's folder inside that of a submission."""
COPIED: tuple[ModuleType, ...] = (errors, frontend, mel_scales, onnx_module, rates)
"""Modules of edgekd that are copied beside the inference module."""
OUR_IMPORT = re.compile(r"^from edgekd\.(?:\w+\.)*(\w+) import", re.MULTILINE)
NOTICE = "# From edgekd, under the Apache License 2.0.\n"
REQUIREMENTS = ("numpy>=1.26", "msgspec>=0.19", "torch>=2.6", "onnx>=1.17", "soundfile>=0.13", "soxr>=0.5")
RESOURCES, DUMMY = "resources", "dummy.wav"
DUMMY_RATE, DUMMY_SECONDS = 44100, 1
PYTHON = ">=3.11"
FUNCTIONS = ("load_model", "load_inputs", "get_model_for_device", "predict")


def package(label: str, models: Mapping[str, Path]) -> dict[str, bytes]:
    """Path in the package's folder -> contents, of the package of one submission.

    Args:
        label: of the submission.
        models: key ("general" or a recorder) -> an .onnx file of edgekd.

    Raises:
        InputError: a file of another format, or labels that are not the ten scenes.
    """
    name, module = package_name(label), module_name(label)
    entries: dict[str, object] = {}
    files: dict[str, bytes] = {}
    order: list[str] = []
    for key, path in models.items():
        if path.suffix != ".onnx":
            raise InputError(
                f"{path}: the package of 2025 holds .onnx files; write one with 'edgekd export --format onnx'"
            )
        opened = container.read(path)
        manifest = opened.manifest
        if set(manifest.labels) != set(SCENES) or (order and list(manifest.labels) != order):
            raise InputError(
                f"{path}: its labels are {', '.join(manifest.labels)}; the models of a package need the ten scenes, in"
                " one order"
            )
        order = list(manifest.labels)
        entries[key] = {
            "file": f"{key}.onnx",
            "frontend": msgspec.to_builtins(manifest.frontend),
            "window": manifest.window,
            "temperature": manifest.temperature,
            "input": msgspec.to_builtins(manifest.input),
            "output": msgspec.to_builtins(manifest.output),
        }
        files[f"{name}/{CKPTS}/{module}/{key}.onnx"] = opened.content
    index = json.dumps({"class_order": order, "models": entries}, indent=2)
    files |= {
        f"{name}/{CKPTS}/{module}/{INDEX}": index.encode(),
        f"{name}/{module}.py": _source(inference_module),
        f"{name}/__init__.py": b"",
        f"{name}/{RESOURCES}/__init__.py": b"",
        f"{name}/{RESOURCES}/{DUMMY}": _silence(),
        "requirements.txt": "".join(f"{each}\n" for each in REQUIREMENTS).encode(),
        "pyproject.toml": _project(name).encode(),
        "README.md": _readme(name, label).encode(),
    }
    return files | {f"{name}/{each.__name__.rpartition('.')[2]}.py": _source(each) for each in COPIED}


def complexity(models: Path) -> dict[str, dict[str, int]]:
    """The counts of the organisers' script for each model of a package: key -> MACs by torchinfo ("MACs"), bytes of the
    parameters ("Params"), and their number ("count").

    Args:
        models: the index, models.json.

    Raises:
        InputError: the index or one of its files is damaged.
    """
    found = {}
    try:
        networks = Models(models)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(
            f"{models}: the models of the package cannot be read ({' '.join(str(error).split())}); write it again with "
            "'edgekd submission'"
        ) from None
    for key, network in networks.devices.items():
        assert isinstance(network, DeviceModel)
        shape = (1, 1, network.frontend.n_mels, network.frontend.frames(network.window))
        counted = torchinfo.summary(copy.deepcopy(network).float(), input_size=shape, verbose=0, device="cpu")
        parameters = [each for each in network.parameters() if isinstance(each, torch.Tensor)]
        found[key] = {
            "MACs": int(counted.total_mult_adds),
            "Params": sum(each.numel() * each.element_size() for each in parameters),
            "count": sum(each.numel() for each in parameters),
        }
    return found


def missing_functions(module: Path) -> list[str]:
    """Functions of the organisers' interface that a module neither defines nor imports; all of them where it is no
    Python."""
    try:
        tree = ast.parse(module.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):  # the last two: nested too deeply
        return list(FUNCTIONS)
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return [name for name in FUNCTIONS if name not in names]


def _source(module: ModuleType) -> bytes:
    """A module's text, with imports of edgekd replaced by imports from the same folder."""
    return (NOTICE + OUR_IMPORT.sub(r"from .\1 import", inspect.getsource(module))).encode()


def _silence() -> bytes:
    """A 16-bit mono wav file of one second, which the organisers' complexity script reads."""
    data = bytes(2 * DUMMY_RATE * DUMMY_SECONDS)
    chunk = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, DUMMY_RATE, 2 * DUMMY_RATE, 2, 16, b"data", len(data))
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunk) + len(data), b"WAVE") + chunk + data


def _project(name: str) -> str:
    requirements = "".join(f"    {json.dumps(each)},\n" for each in REQUIREMENTS)
    return f"""[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1.0"
description = "Inference package of a submission to DCASE 2025 task 1"
requires-python = "{PYTHON}"
dependencies = [
{requirements}]

[tool.setuptools]
packages = ["{name}", "{name}.{RESOURCES}"]

[tool.setuptools.package-data]
"{name}" = ["{CKPTS}/*/*"]
"{name}.{RESOURCES}" = ["*.wav"]
"""


def _readme(name: str, label: str) -> str:
    return f"""# {name}

Inference package of {label} for DCASE 2025 task 1, written by edgekd. \
Models for recorders that have none are `{GENERAL}`.

```sh
pip install .
```

```python
from {name} import {module_name(label)} as api

logits, scenes = api.predict(["0.wav"], ["a"])
```
"""
