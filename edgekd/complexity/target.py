"""A deployment target: what a model may cost there and what it may consist of, read from `targets/*.toml`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgekd import resources
from edgekd.errors import InputError, nearest

CONVENTIONS = ("exact", "nessi_tflite", "torchinfo", "ptflops")
"""Ways of counting; `edgekd.complexity.counts` explains each."""
ENGINE_FORMATS = {"litert": "tflite", "tflite_runtime": "tflite", "tflite_micro": "tflite", "onnxruntime": "onnx"}
"""Engine -> format that it opens."""
FORMATS = tuple(dict.fromkeys(ENGINE_FORMATS.values()))
CONVENTION_FORMATS = {"nessi_tflite": "tflite"}
"""Conventions that count one format only."""

Limit = Annotated[int, msgspec.Meta(gt=0, le=2**53)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Names = Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Upper limits of a model file. A limit that is absent is not checked.

    param_bytes: bytes of all constants of the ops. params: how many they are, zeros too. macs: multiply-accumulates of
    one inference.
    peak_activation_bytes: the largest sum of activations alive at once. file_bytes: size of the file and of other files
    with its weights.
    """

    param_bytes: Limit | None = None
    params: Limit | None = None
    macs: Limit | None = None
    peak_activation_bytes: Limit | None = None
    file_bytes: Limit | None = None


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file may consist of. A rule that is absent is not checked.

    formats: of the file. engines: available on the target; one of them must open the file. dtypes: of stored constants.
    operators: the only ones allowed. forbidden_operators: any but these. Operators may be patterns: `CUSTOM:*` is any
    custom op of TFLite, `com.microsoft.*` any of that ONNX domain.
    """

    formats: Names | None = None
    engines: Names | None = None
    dtypes: Names | None = None
    operators: Names | None = None
    forbidden_operators: Names | None = None


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Most milliseconds that a stage of `edgekd bench` may take on a board. Checked only if a measurement is given.

    board: first words of the machine's name, for instance "Raspberry Pi 4". engines: a measurement with any of them
    counts.
    """

    board: Text
    engines: Names
    threads: Limit
    limit_ms: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    stage: Literal["network", "frontend", "pipeline"] = "pipeline"
    percentile: Literal["p50", "p95"] = "p95"


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One target.

    source: where its numbers come from (a rule, a data sheet). sources: other sources of single budgets or rules.
    convention: counts params, param_bytes and macs; by default the strictest one that applies to the file. aliases:
    other names that users may type.
    """

    name: Text
    description: str
    source: Text
    budgets: Budgets = Budgets()
    rules: Rules = Rules()
    latency: Latency | None = None
    sources: dict[str, Text] = {}
    convention: str | None = None
    aliases: tuple[Text, ...] = ()

    def source_of(self, name: str) -> str:
        """Source of the limit of a budget, of a rule or of "latency"."""
        return self.sources.get(name, self.source)


def load_target(name_or_path: str | Path) -> Target:
    """Read a shipped target by name (`dcase2023`, `pi-4`, also `Pi 4` or `rpi4`) or any target file by path.

    Raises:
        InputError: unknown name (the nearest one is suggested), unreadable file, a key that is missing, unknown or out
            of range, no budget and no rule, or limits that contradict each other.
    """
    path = _find(name_or_path)
    target = resources.read_toml(path, Target)
    _check(target, path)
    return target


def same_name(a: str, b: str) -> bool:
    """Whether two names differ at most in case, spaces and punctuation."""
    return _letters(a) == _letters(b)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _find(name_or_path: str | Path) -> Path:
    """The file of a target: by path, by its exact name, or by one of the aliases in its file."""
    text = str(name_or_path)
    if Path(text).suffix in resources.SUFFIXES or len(Path(text).parts) > 1 or text in resources.names("targets"):
        return resources.find(name_or_path, "targets")
    shipped = sorted(resources.folder("targets").glob("*.toml"))
    known = {alias: path for path in shipped for alias in (path.stem, *_aliases(path))}
    for alias, path in known.items():
        if same_name(alias, text):
            return path
    raise InputError(f"'{text}' is no name in targets{nearest(text, known)}")


def _aliases(path: Path) -> Iterable[str]:
    aliases: Any = resources.read_table(path).get("aliases", ())
    return [alias for alias in aliases if isinstance(alias, str)] if isinstance(aliases, list) else ()


def _check(target: Target, path: Path) -> None:
    """Raise for a target without budgets and rules, or whose limits contradict each other."""
    budgets, rules, latency = target.budgets, target.rules, target.latency
    if (budgets, rules, latency) == (Budgets(), Rules(), None):
        raise InputError(
            f"{path}: sets no budget, so every model would pass; give one of: {', '.join(Budgets.__struct_fields__)}"
        )
    for key, names, known in (
        ("convention", (target.convention,) if target.convention else (), CONVENTIONS),
        ("[rules] formats", rules.formats, FORMATS),
        ("[rules] engines", rules.engines, ENGINE_FORMATS),
        ("[latency] engines", latency.engines if latency else (), ENGINE_FORMATS),
    ):
        for name in names or ():
            if name not in known:
                raise InputError(f"{path}: {key}: '{name}' is unknown{nearest(name, known)}")
    both = sorted(set(rules.operators or ()) & set(rules.forbidden_operators or ()))
    if both:
        raise InputError(
            f"{path}: [rules]: {both[0]} is both in operators and in forbidden_operators; drop it from one"
        )
    formats = set(rules.formats or FORMATS) & {ENGINE_FORMATS[engine] for engine in rules.engines or ENGINE_FORMATS}
    if not formats:
        raise InputError(
            f"{path}: [rules]: no engine of {', '.join(rules.engines or ())} opens a format of "
            f"{', '.join(rules.formats or ())}, so every model would fail; allow one that does"
        )
    if CONVENTION_FORMATS.get(target.convention or "", next(iter(formats))) not in formats:
        raise InputError(
            f"{path}: convention: '{target.convention}' counts no {' or '.join(sorted(formats))} file, and no other is "
            "allowed; name another convention"
        )
    for engine in latency.engines if latency else ():
        if engine not in (rules.engines or ENGINE_FORMATS) or ENGINE_FORMATS[engine] not in formats:
            raise InputError(
                f"{path}: [latency] engines: '{engine}' is not among what [rules] allow; measure one that is"
            )
    set_keys = {
        key for part in (budgets, rules) for key, value in msgspec.structs.asdict(part).items() if value is not None
    }
    set_keys |= {"latency"} if latency else set()
    for key in target.sources:
        if key not in set_keys:
            raise InputError(f"{path}: [sources]: '{key}' is not set by this target{nearest(key, set_keys)}")
