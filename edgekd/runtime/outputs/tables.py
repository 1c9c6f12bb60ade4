"""The tables of the configuration file that turn outputs on; an output's code is imported only where its table is given."""

from typing import Annotated

import msgspec

Megabytes = Annotated[float, msgspec.Meta(gt=0.0)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)]
Hours = Annotated[float, msgspec.Meta(gt=0.0, le=168.0)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class MqttTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[mqtt]`. url: mqtt://HOST[:PORT], or mqtts:// for TLS."""

    url: str


class WebTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[web]`. address: [HOST]:PORT, without a host this machine alone. token: without it nothing is shown; token_file: holds nothing but
    the token; the environment's overrides both. hosts: further names by which a browser may ask where there is no token, for instance a
    proxy's. hours: of the timeline."""

    address: str
    token: str | None = None
    token_file: str | None = None
    hosts: tuple[str, ...] = ()
    hours: Hours = 24.0

    def __repr__(self) -> str:  # without the token
        return f"WebTable(address={self.address!r})"


class HookTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[hook]`. command, url: what is run, and what is posted to, where the label shown changes. timeout: seconds that each may take."""

    command: str | None = None
    url: str | None = None
    timeout: Seconds = 10.0


class HistoryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[history]`. file: the database. max_mb: its size in 10^6 bytes, beyond which the oldest decisions go."""

    file: str
    max_mb: Megabytes = 100.0


class ClipsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[clips]`. folder: of the clips. below: windows whose label has a lower probability are kept. seconds: of a clip, that before the
    window included. max_mb: of all clips in 10^6 bytes, beyond which the oldest go."""

    folder: str
    below: Share = 0.5
    seconds: Seconds = 5.0
    max_mb: Megabytes = 500.0
