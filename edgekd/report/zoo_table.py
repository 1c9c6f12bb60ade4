"""`edgekd zoo`: the models that come with edgekd, described by their files."""

from pathlib import Path

import msgspec

from edgekd.errors import InputError
from edgekd.modelfile.container import read_manifest
from edgekd.modelfile.manifest import CrossValidation
from edgekd.modelfile.zoo import DEFAULT, zoo_card, zoo_files, zoo_names
from edgekd.report.model_card import estimate_text
from edgekd.text import columns

HEADER = ("", "labels", "licence of the data", "clip accuracy", "bytes", "MMAC")
MARK = "*"
NOTE = (
    f"{MARK}: the default of 'edgekd listen'. Bytes of parameters; MMAC of a window;"
    " accuracy in cross-validation, with its 95 % interval. Any name stands for a model file; 'edgekd zoo NAME' shows"
    " its card."
)


class ZooEntry(msgspec.Struct, frozen=True):
    """A model in `zoo --json`: fields may be added, never renamed. default: whether `edgekd listen` uses it where no
    model is named. crossval: null where its recipe has not been cross-validated."""

    name: str
    default: bool
    files: list[str]
    card: str
    student: str
    labels: tuple[str, ...]
    params: int
    param_bytes: int
    macs: int
    crossval: CrossValidation | None
    data: str
    data_licence: str


def entry(name: str) -> ZooEntry:
    """The entry of one model.

    Raises:
        InputError: an unknown name, or a damaged file.
    """
    files = zoo_files(name)
    manifest = read_manifest(files[0])
    counts, source = manifest.counts, manifest.provenance
    return ZooEntry(
        name,
        name == DEFAULT,
        [str(path) for path in files],
        str(zoo_card(name)),
        manifest.student,
        manifest.labels,
        counts.params,
        counts.param_bytes,
        counts.macs,
        manifest.crossval,
        source.data,
        source.data_licence,
    )


def zoo(name: str | None, *, as_json: bool) -> str:
    """A table of all models, or the card of one; or JSON.

    Raises:
        InputError: see `entry`; a missing card.
    """
    if name is None:
        entries = [entry(each) for each in zoo_names()]
        return msgspec.json.encode({"models": entries}).decode() if as_json else _table(entries)
    found = entry(name)
    if as_json:
        return msgspec.json.encode(found).decode()
    try:
        return Path(found.card).read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise InputError(f"{found.card}: cannot be read ({error.strerror}); see 'edgekd info {name} --card'") from None


def _table(entries: list[ZooEntry]) -> str:
    rows = []
    for each in entries:
        accuracy = estimate_text(each.crossval.clips) if each.crossval else "not cross-validated"
        rows.append(
            [
                f"{each.name}{MARK if each.default else ''}",
                f"{len(each.labels)}, {each.data}",
                each.data_licence,
                accuracy,
                f"{each.param_bytes:,}",
                f"{each.macs / 1e6:.1f}",
            ]
        )
    return "\n".join([*columns(HEADER, rows, left=4), "", NOTE])
