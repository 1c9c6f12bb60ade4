"""The tables of the configuration file that turn outputs on; an output's code is imported only where its table is given."""

from typing import Annotated, Literal

import msgspec

Megabytes = Annotated[float, msgspec.Meta(gt=0.0)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class MqttTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[mqtt]`. url: mqtt://HOST[:PORT], or mqtts:// for TLS."""

    url: str


class WebTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[web]`. address: [HOST]:PORT, without a host this machine alone."""

    address: str


class HookTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[hook]`. command, url: what is run, and what is posted to, where something changes. timeout: seconds that each may take. on: what
    changes: the label shown, the state of the source. token: sent to `url` as bearer; by default that of EDGEKD_WEBHOOK_TOKEN."""

    command: str | None = None
    url: str | None = None
    timeout: Seconds = 10.0
    on: Annotated[tuple[Literal["label", "state"], ...], msgspec.Meta(min_length=1)] = ("label",)
    token: str | None = None

    def __repr__(self) -> str:
        return "HookTable(...)"  # addresses and tokens are secrets


class HistoryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[history]`. file: the database. max_mb: its size in 10^6 bytes, beyond which the oldest decisions go."""

    file: str
    max_mb: Annotated[float, msgspec.Meta(ge=1.0)] = 100.0


class ClipsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[clips]`. folder: of the clips. below: windows whose label has a lower probability are kept. seconds: of a clip, that before the
    window included. max_mb: of all clips in 10^6 bytes, beyond which the oldest go. every: least seconds from one to the next. per_hour: at
    most so many."""

    folder: str
    below: Share = 0.5
    seconds: Annotated[float, msgspec.Meta(gt=0.0, le=60.0)] = 5.0
    max_mb: Megabytes = 500.0
    every: Annotated[float, msgspec.Meta(ge=0.0, le=86400.0)] = 60.0
    per_hour: Annotated[int, msgspec.Meta(ge=1)] | None = None
