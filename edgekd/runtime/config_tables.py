"""The tables of the configuration file that turn outputs on; an output's code is imported only where its table is
given."""

from typing import Annotated, Any, Literal

import msgspec

Megabytes = Annotated[float, msgspec.Meta(gt=0.0)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)]
Hours = Annotated[float, msgspec.Meta(gt=0.0, le=168.0)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class MqttTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[mqtt]`. url: mqtt://HOST[:PORT], or mqtts:// for TLS.

    topic: what all topics begin with; by default edgekd/ and this machine's name, and another one for each listener.
    name: of the device in Home Assistant, by default the topic's. discovery: the prefix of Home Assistant's discovery;
    false is none. every: least seconds between two messages of probabilities. expire: seconds after which what was said
    last is no longer so; it is said again three times in that time. buffer: changes of what is shown that are kept
    while the broker is away, then the oldest go. username, password: also from the environment, which overrides them;
    password_file: holds nothing but the password. ca: file of the authorities that may sign the broker's certificate,
    by default the system's. certificate, key: files of this client's own.
    """

    url: str
    topic: str | None = None
    name: str | None = None
    discovery: str | bool = "homeassistant"
    every: Seconds = 5.0
    expire: Annotated[int, msgspec.Meta(ge=3, le=86400)] = 60
    buffer: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    username: str | None = None
    password: str | None = None
    password_file: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __repr__(self) -> str:
        return f"MqttTable({', '.join(f'{key}={value!r}' for key, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        told = {key: getattr(self, key) for key in self.__struct_fields__}
        return list((told | ({} if self.password is None else {"password": "***"})).items())


class WebTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[web]`. address: [HOST]:PORT, without a host this machine alone. token: without it nothing is shown; token_file:
    holds nothing but the token; the environment's overrides both. hosts: further names by which a browser may ask where
    there is no token, for instance a proxy's. hours: of the timeline."""

    address: str
    token: str | None = None
    token_file: str | None = None
    hosts: tuple[str, ...] = ()
    hours: Hours = 24.0

    def __repr__(self) -> str:  # without the token
        return f"WebTable(address={self.address!r})"


class HookTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[hook]`. command, url: what is run, and what is posted to, where something changes. timeout: seconds that each
    may take. on: what changes: the label shown, the state of the source. token: sent to `url` as bearer; by default
    that of EDGEKD_WEBHOOK_TOKEN."""

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
    """`[clips]`. folder: of the clips. below: windows whose label has a lower probability are kept. seconds: of a clip,
    that before the window included. max_mb: of all clips in 10^6 bytes, beyond which the oldest go. every: least
    seconds from one to the next. per_hour: at most so many."""

    folder: str
    below: Share = 0.5
    seconds: Annotated[float, msgspec.Meta(gt=0.0, le=60.0)] = 5.0
    max_mb: Megabytes = 500.0
    every: Annotated[float, msgspec.Meta(ge=0.0, le=86400.0)] = 60.0
    per_hour: Annotated[int, msgspec.Meta(ge=1)] | None = None
