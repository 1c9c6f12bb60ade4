"""A deployment target: what a model may cost there, read from `targets/*.toml`."""

from pathlib import Path
from typing import Annotated

import msgspec

from edgekd import resources
from edgekd.errors import InputError

Limit = Annotated[int, msgspec.Meta(gt=0)]


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Upper limits of an exported model file; an absent one is not judged.

    param_bytes: bytes of all constants of the ops. macs: multiply-accumulates of one inference. peak_activation_bytes:
    the largest sum of activations alive at once. file_bytes: size of the file itself.
    """

    param_bytes: Limit | None = None
    macs: Limit | None = None
    peak_activation_bytes: Limit | None = None
    file_bytes: Limit | None = None


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One target. source: where its budgets come from (a rule, a data sheet)."""

    name: str
    description: str
    source: str
    budgets: Budgets


def load_target(name_or_path: str | Path) -> Target:
    """Read a shipped target by name (`dcase2023`) or any target file by path.

    Raises:
        InputError: unknown name (nearest one suggested), unreadable file, a key that is missing, unknown or not positive, no budget.
    """
    path = resources.find(name_or_path, "targets")
    target = resources.read_toml(path, Target)
    if target.budgets == Budgets():
        raise InputError(f"{path}: sets no budget, so every model would pass; give one of: {', '.join(Budgets.__struct_fields__)}")
    return target
