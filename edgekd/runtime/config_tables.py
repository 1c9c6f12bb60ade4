"""The settings of `edgekd listen`: the tables of its configuration file, with the help of each key.

A key's description is the help of the option that sets it (`edgekd.cli.options` makes the options from these tables),
so a new setting is a new field here. No numpy, no engine and no output is imported: an output's code is imported only
where its table is given.
"""

from typing import Annotated, Any, Literal

import msgspec

MIN_HOP_S = 0.25
"""Shortest time from window to window."""
MAX_SECONDS = 3600.0
"""Longest time constant, dwell and limit: beyond it a listener shows what it classified at its start."""
MIN_LIMIT_S = 0.5
"""Shortest that `[watch]` allows: several blocks of a live source."""
MAX_QUEUE_S = 60.0
"""Longest queue: more is neither live nor small."""
STALL_S, ZEROS_S, FAILED_S, QUEUE_S = 2.0, 1.5, 30.0, 10.0
"""Defaults of `[watch]`, and of `edgekd.runtime.source.health.Watch`."""


def about(text: str, *, option: str | None = None, **limits: Any) -> msgspec.Meta:
    """What a key means, for people.

    Args:
        text: sentences with units; the default is added where it is shown.
        option: name of the option that sets the key; None is the key's own name in the tables of `MAIN_TABLES`, and no
            option in the others.
        limits: ge, gt, le and lt of `msgspec.Meta`.
    """
    return msgspec.Meta(description=text, extra={} if option is None else {"option": option}, **limits)


Positive = Annotated[int, msgspec.Meta(ge=1)]


class ModelTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[model]`."""

    file: Annotated[
        str | None,
        about(
            "A model file of 'edgekd export', or a name in 'edgekd zoo'; by default the one marked there, with the 50 "
            "labels of ESC-50.",
            option="model",
        ),
    ] = None
    engine: Annotated[
        Literal["litert", "onnxruntime"] | None, about("litert or onnxruntime; by default the one that opens the file.")
    ] = None
    threads: Annotated[int, about("Threads of the engine.", ge=1)] = 1


class SourceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[source]`: a file, a microphone or a command."""

    file: Annotated[
        str | None,
        about(
            "An audio file, or - for raw signed 16-bit little-endian mono samples at the model's rate on standard "
            "input. Without it the source is a microphone, until the listener is stopped."
        ),
    ] = None
    mic: Annotated[
        str | None,
        about("The microphone: part of its name, hw:CARD,DEVICE or USB VENDOR:PRODUCT[:SERIAL]; see 'edgekd mics'."),
    ] = None
    command: Annotated[
        str | None,
        about(
            "Instead of a microphone, a command that writes raw signed 16-bit samples, such as 'arecord ... -t raw'; "
            "it is started again when it ends. Of it only program and hosts are shown."
        ),
    ] = None
    channel: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        about("The channel to use, counted from 0; by default the mean of all."),
    ] = None
    rate: Annotated[
        int | None,
        about("Sample rate in Hz, 1000 to 768000: of a microphone by default its own, of a command the model's."),
    ] = None
    channels: Annotated[Positive | None, about("Channels that the command writes, by default 1.")] = None
    equaliser: Annotated[str | None, about("The microphone's equaliser, a file of 'edgekd equalise'.")] = None


class DecisionTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[decision]`."""

    hop: Annotated[float, about("Seconds from decision to decision, 0.25 to the model's window.", ge=MIN_HOP_S)] = 0.5
    top: Annotated[int, about("How many labels a decision names.", ge=1)] = 3
    smooth: Annotated[
        float, about("Time constant in seconds that smooths the probabilities, the same at any hop; 0 is off.")
    ] = 0.0
    margin: Annotated[
        float,
        about(
            "How much the probability of another label must exceed that of the label shown before it replaces it, 0 to "
            "below 1."
        ),
    ] = 0.0
    dwell: Annotated[float, about("Least seconds that a label, or unknown, is shown; 0 is off.")] = 0.0
    unknown: Annotated[float, about("Below this probability the label is 'unknown', 0 to below 1; 0 is off.")] = 0.0
    gate: Annotated[
        float | None,
        about(
            "Windows below this level in dBFS, for instance -60, are not classified but marked as gated; where the "
            "level stays below it, the label is 'quiet'."
        ),
    ] = None


class OutputTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[output]`: what is printed."""

    json: Annotated[bool, about("Print one JSON object a line.")] = False
    plain: Annotated[
        bool, about("Print lines also on a terminal, which otherwise shows a view of level, labels and state.")
    ] = False
    changes: Annotated[bool, about("Print a line only when the label shown or the state changes.")] = False
    replay: Annotated[bool, about("Print no decisions of a file, but a report on them when it ends.")] = False
    track: Annotated[
        str | None,
        about(
            "A table start,end,label in seconds: a replay that also reports accuracy over time and delays of detection."
        ),
    ] = None


Limit = Annotated[float, msgspec.Meta(ge=MIN_LIMIT_S, le=MAX_SECONDS)]


class WatchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[watch]`: limits in seconds by which a live source is watched."""

    stall: Annotated[Limit, about("Without a block of samples for so long, the source is opened again.")] = STALL_S
    zeros: Annotated[
        Limit,
        about(
            "With nothing but zeros for so long, it is opened again; more for a microphone whose noise is digital "
            "silence."
        ),
    ] = ZEROS_S
    failed: Annotated[Limit, about("Without good samples for so long, its state is FAILED.")] = FAILED_S
    queue: Annotated[float, about("Longest queue of samples that wait.", ge=MIN_LIMIT_S, le=MAX_QUEUE_S)] = QUEUE_S


Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=MAX_SECONDS)]


class MqttTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[mqtt]`."""

    url: Annotated[
        str,
        about(
            "Publish to the broker at mqtt://HOST[:PORT], or mqtts:// for TLS, with Home Assistant discovery; "
            "credentials come from --config or the environment.",
            option="mqtt",
        ),
    ]
    topic: Annotated[
        str | None,
        about(
            "Prefix of all topics, one of its own for each listener; by default edgekd/ and this machine's name.",
            option="mqtt-topic",
        ),
    ] = None
    name: Annotated[str | None, about("Name of the device in Home Assistant, by default the topic's.")] = None
    discovery: Annotated[str | bool, about("Prefix of Home Assistant's discovery; false is none.")] = "homeassistant"
    every: Annotated[Seconds, about("Least seconds between two messages of probabilities.")] = 5.0
    expire: Annotated[
        int,
        about(
            "Seconds after which a message no longer holds; it is published three times in that time.", ge=3, le=86400
        ),
    ] = 60
    buffer: Annotated[
        int,
        about("Changes that are kept while the broker is away; then the oldest are dropped.", ge=1, le=100_000),
    ] = 1000
    username: Annotated[str | None, about("Also from the environment, which overrides it.")] = None
    password: Annotated[str | None, about("Also from the environment, which overrides it.")] = None
    password_file: Annotated[str | None, about("A file that holds nothing but the password.")] = None
    ca: Annotated[
        str | None, about("File of the authorities that may sign the broker's certificate; by default the system's.")
    ] = None
    certificate: Annotated[str | None, about("File of this client's certificate.")] = None
    key: Annotated[str | None, about("File of this client's key.")] = None

    def __repr__(self) -> str:
        return f"MqttTable({', '.join(f'{key}={value!r}' for key, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = {key: getattr(self, key) for key in self.__struct_fields__}
        return list((shown | ({} if self.password is None else {"password": "***"})).items())


class WebTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[web]`."""

    address: Annotated[
        str,
        about(
            "Serve a page with spectrogram, labels and health, and /metrics for Prometheus, at [HOST]:PORT, for "
            "instance :8080; without a host for this machine alone. EDGEKD_WEB_TOKEN or --config asks for a token.",
            option="web",
        ),
    ]
    token: Annotated[str | None, about("Without it nothing is shown; the environment's overrides it.")] = None
    token_file: Annotated[str | None, about("A file that holds nothing but the token.")] = None
    hosts: Annotated[
        tuple[str, ...],
        about(
            "A further name by which a browser may ask where there is no token, for instance a proxy's; may be "
            "repeated.",
            option="web-host",
        ),
    ] = ()
    hours: Annotated[float, about("Hours of the timeline.", gt=0.0, le=168.0)] = 24.0

    def __repr__(self) -> str:  # without the token
        return f"WebTable(address={self.address!r})"


class HookTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[hook]`."""

    command: Annotated[
        str | None,
        about(
            "A command to run when the label shown changes; it gets the event as JSON on its standard input.",
            option="hook",
        ),
    ] = None
    url: Annotated[
        str | None,
        about(
            "An http(s) address to post the event to, with the token in EDGEKD_WEBHOOK_TOKEN, if any.",
            option="webhook",
        ),
    ] = None
    timeout: Annotated[Seconds, about("Seconds that each may take.")] = 10.0
    on: Annotated[
        tuple[Literal["label", "state"], ...],
        about("What changes: the label shown, the state of the source.", min_length=1),
    ] = ("label",)
    token: Annotated[
        str | None, about("Sent to the address as a bearer token; by default that of EDGEKD_WEBHOOK_TOKEN.")
    ] = None

    def __repr__(self) -> str:
        return "HookTable(...)"  # addresses and tokens are secrets


class HistoryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[history]`."""

    file: Annotated[str, about("A database of decisions, which 'edgekd history' reads.", option="history")]
    max_mb: Annotated[
        float, about("Its largest size in 10^6 bytes; beyond it the oldest decisions are deleted.", ge=1.0)
    ] = 100.0


class ClipsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[clips]`."""

    folder: Annotated[
        str,
        about(
            "A folder for clips of uncertain windows, which 'edgekd data prepare folder' reads; without it none is "
            "stored.",
            option="clips",
        ),
    ]
    below: Annotated[float, about("Windows whose label has a lower probability are kept.", ge=0.0, le=1.0)] = 0.5
    seconds: Annotated[float, about("Length of a clip, the time before the window included.", gt=0.0, le=60.0)] = 5.0
    max_mb: Annotated[float, about("Of all clips in 10^6 bytes; beyond it the oldest are deleted.", gt=0.0)] = 500.0
    every: Annotated[float, about("Least seconds from one clip to the next.", ge=0.0, le=86400.0)] = 60.0
    per_hour: Annotated[Positive | None, about("Most clips in an hour.")] = None


MAIN_TABLES: dict[str, type[msgspec.Struct]] = {
    "model": ModelTable,
    "source": SourceTable,
    "decision": DecisionTable,
    "output": OutputTable,
}
"""Tables whose every key is an option."""
OUTPUT_TABLES: dict[str, type[msgspec.Struct]] = {
    "mqtt": MqttTable,
    "web": WebTable,
    "hook": HookTable,
    "history": HistoryTable,
    "clips": ClipsTable,
}
"""Tables that turn outputs on; a key is an option where it names one."""
