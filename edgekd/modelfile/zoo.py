"""The models that come with edgekd, in `zoo/`: their names, files and cards. Commands take such a name wherever they
take a model file."""

from importlib.util import find_spec
from pathlib import Path

from edgekd.errors import InputError, nearest
from edgekd.modelfile.engine import ENGINES

LITERT_PACKAGES = ("ai_edge_litert", "tflite_runtime")
ZOO = Path(__file__).parents[1] / "zoo"
PRECISION = "int8"
"""NAME.int8.tflite and NAME.int8.onnx hold the same integer graph; NAME.int8.md is their card."""
DEFAULT = "esc50-best"
"""The model that commands use where none is named."""


def zoo_names() -> list[str]:
    """Names of the models, sorted."""
    suffixes = tuple(f".{PRECISION}{suffix}" for suffix, _ in ENGINES.values())
    return sorted(
        {path.name.removesuffix(suffix) for path in ZOO.iterdir() for suffix in suffixes if path.name.endswith(suffix)}
    )


def zoo_files(name: str) -> list[Path]:
    """The files of a model, in the order of engines.

    Raises:
        InputError: an unknown name (with the nearest one).
    """
    if name not in zoo_names():
        raise InputError(f"'{name}' is no model that comes with edgekd{nearest(name, zoo_names())}")
    paths = (ZOO / f"{name}.{PRECISION}{suffix}" for suffix, _ in ENGINES.values())
    return [path for path in paths if path.is_file()]


def zoo_card(name: str) -> Path:
    """Path of the card of a model, a Markdown file."""
    return ZOO / f"{name}.{PRECISION}.md"


def zoo_model(engine: str | None = None, name: str = DEFAULT) -> Path:
    """The file of a model for an engine. Without an engine, the file for LiteRT, or for ONNX Runtime where only that is
    installed.

    Raises:
        InputError: an unknown engine or name.
    """
    if engine is None:
        engine = (
            "litert"
            if any(find_spec(package) for package in LITERT_PACKAGES) or not find_spec("onnxruntime")
            else "onnxruntime"
        )
    if engine not in ENGINES:
        raise InputError(f"unknown engine '{engine}'{nearest(engine, ENGINES)}")
    suffix, _ = ENGINES[engine]
    return next(path for path in zoo_files(name) if path.suffix == suffix)


def model_file(model: str | Path, engine: str | None = None) -> Path:
    """The file that a user names: an existing path, or the file of a model that comes with edgekd.

    Args:
        model: a path like "models/own.int8.tflite", or a name like "esc50-best".
        engine: chooses the file of a name; see `zoo_model`.

    Returns:
        The file. A missing path with a suffix or a folder is returned as it is; reading it then fails.

    Raises:
        InputError: a word that is neither a file nor a name.
    """
    path = Path(model)
    if path.exists() or path.is_symlink() or path.suffix or len(path.parts) != 1:
        return path
    if path.name in zoo_names():
        return zoo_model(engine, path.name)
    raise InputError(f"'{path}' is neither a file nor a model that comes with edgekd{nearest(path.name, zoo_names())}")
