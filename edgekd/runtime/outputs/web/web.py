"""The output of `[web]`: a live page, its event stream, and metrics for monitoring. Standard library and numpy.

`publish` only queues. The server's one thread does everything else and encodes each event once for all streams.
"""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import numpy as np

from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.config_tables import WebTable
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import Observation
from edgekd.runtime.outputs.web.access import Access, ListenAddress, parse_address, read_token
from edgekd.runtime.outputs.web.http import TEXT, HttpRequest, HttpResponse, problem
from edgekd.runtime.outputs.web.prometheus import TEXT_FORMAT, Metric, Metrics, resident_bytes, single
from edgekd.runtime.outputs.web.server import Server
from edgekd.runtime.outputs.web.spectrogram import Spectrogram
from edgekd.runtime.outputs.web.timeline import Timeline
from edgekd.runtime.source.health import StatusLine

MAX_QUEUE = 64
"""Lines that wait for the server's thread."""
HEARTBEAT_S = 2.0
"""Longest pause in an event stream, seconds."""
RETRY_MS = 1000
"""After this many milliseconds a browser reconnects."""
NOTHING = np.empty(0, np.float32)
"""Replaces the waveform, which is large and not needed here."""
PAGE = Path(__file__).parent / "page"
JSON, EVENTS = "application/json", "text/event-stream"
STATIC = {
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/script.js": ("script.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> file in `page/`, content type."""
UNBUFFERED = (("X-Accel-Buffering", "no"),)
"""Header that makes a proxy pass events on at once."""
COOKIE_S = 31_536_000
"""How long a browser keeps the cookie, seconds."""
HTML = "text/html; charset=utf-8"


class Web:
    """Serves the stream over HTTP."""

    name = "web"

    def __init__(self, table: WebTable, address: ListenAddress | None = None) -> None:
        """table: `[web]`. address: replaces the table's, in tests.

        Raises:
            InputError: see `parse_address` and `read_token`.
        """
        address = address or parse_address(table.address)
        self._access = Access(address, read_token(table), table.hosts)
        self._page, self._login = ((PAGE / name).read_bytes() for name in ("index.html", "login.html"))
        self._queue: deque[tuple[Decision | StatusLine, Observation | None]] = deque(maxlen=MAX_QUEUE)
        self._dropped = self._number = 0
        self._metrics, self._timeline = Metrics(), Timeline(table.hours)
        self._picture: Spectrogram | None = None
        self._manifest: Manifest | None = None
        self._sent_at = 0.0
        self._snapshot = b""  # the encoded snapshot event; b"" when it is out of date
        self._static = {
            path: HttpResponse(200, kind, (PAGE / file).read_bytes()) for path, (file, kind) in STATIC.items()
        }
        self._routes: dict[str, Callable[[], HttpResponse]] = {
            "/": lambda: HttpResponse(200, HTML, self._page),
            "/events": lambda: HttpResponse(200, EVENTS, self._snapshot_event(), UNBUFFERED, stream=True),
            "/history.json": lambda: HttpResponse(
                200, JSON, msgspec.json.encode(self._timeline.document(time.monotonic()))
            ),
            "/model.json": lambda: HttpResponse(200, JSON, msgspec.json.encode(_model_document(self._manifest))),
            "/metrics": lambda: HttpResponse(200, TEXT_FORMAT, self._metrics.text(self._own_metrics())),
        }
        self._server = Server(address, self._respond, self._new_events)
        self._server.start()

    @property
    def port(self) -> int | None:
        """The port it listens on; None while it does not listen."""
        return self._server.port

    @property
    def error(self) -> str | None:
        """Why it does not listen; None while it does."""
        return self._server.error

    def publish(self, event: Decision | StatusLine, observation: Observation | None) -> None:
        """Queue a line. If the server's thread is far behind, the oldest is dropped."""
        self._dropped += len(self._queue) == MAX_QUEUE
        self._queue.append((event, observation and observation._replace(waveform=NOTHING)))
        self._server.wake()

    def close(self) -> None:
        """Close all connections."""
        self._server.close()

    # --- everything below runs in the server's thread ---

    def _respond(self, request: HttpRequest) -> HttpResponse:
        host = request.headers.get("host", "")
        if not self._access.allows_host(host):
            return HttpResponse(403, TEXT, f"{self._access.refusal(host)}\n".encode())
        if request.path == "/healthz":
            return self._health()
        if request.path in self._static:
            return self._static[request.path]
        if request.path not in self._routes:
            return problem(404)
        return self._refusal(request) or self._routes[request.path]()

    def _refusal(self, request: HttpRequest) -> HttpResponse | None:
        """The response to a request without access, or with the token in its query; None where the request may read."""
        access = self._access
        given = parse_qs(request.query).get("token", [""])[0] if request.path == "/" else ""
        if access.is_token(given):
            cookie = f"{access.cookie_name}={access.cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_S}"
            return HttpResponse(
                303, headers=(("Location", "./"), ("Set-Cookie", cookie))
            )  # so that the token leaves the address bar
        if access.is_authorized(request.headers):
            return None
        login = self._login.replace(b" hidden>", b">") if given else self._login
        page = HttpResponse(401, HTML, login) if request.path == "/" else problem(401)
        return page._replace(headers=(("WWW-Authenticate", "Bearer"),))

    def _health(self) -> HttpResponse:
        state, age = self._metrics.state, self._metrics.age
        if state == "HEALTHY" and self._metrics.is_fresh:
            return HttpResponse(200, TEXT, b"HEALTHY\n")
        late = "no decision yet" if age is None else f"last decision {age:.1f} s ago"
        return HttpResponse(503, TEXT, f"{state}: {late}\n".encode())

    def _new_events(self) -> bytes:
        """The lines since the last call, as events."""
        parts = []
        while self._queue:
            event, observation = self._queue.popleft()
            parts.append(self._encode_event(event, observation))
        now = time.monotonic()
        if not parts and now - self._sent_at < HEARTBEAT_S:
            return b""
        self._sent_at = now
        self._snapshot = b""
        return b"".join(parts) or self._event("beat", self._vitals())

    def _encode_event(self, event: Decision | StatusLine, observation: Observation | None) -> bytes:
        self._metrics.add(event, observation)
        if isinstance(event, StatusLine):
            return self._event("change", {"change": event, **self._vitals()})
        before = b""
        if observation is not None and observation.manifest is not self._manifest:
            self._manifest, self._picture = observation.manifest, Spectrogram(observation.manifest.frontend)
            before = self._event("model", self._picture_sizes())
        self._timeline.add(event.label, time.monotonic())
        columns = b"" if observation is None or self._picture is None else self._picture.add(event.t, observation)
        return before + self._event("decision", {"decision": event, "columns": columns, **self._vitals()})

    def _snapshot_event(self) -> bytes:
        """The first event of a stream: everything that the page shows except the timeline and the model."""
        if not self._snapshot:
            picture = b"" if self._picture is None else self._picture.recent
            self._snapshot = f"retry: {RETRY_MS}\n".encode() + self._event(
                "snapshot",
                {"decision": self._metrics.last, "columns": picture, **self._picture_sizes(), **self._vitals()},
            )
        return self._snapshot

    def _event(self, kind: str, document: dict[str, Any]) -> bytes:
        self._number += 1
        return f"event: {kind}\nid: {self._number}\ndata: ".encode() + msgspec.json.encode(document) + b"\n\n"

    def _picture_sizes(self) -> dict[str, Any]:
        """bands, column_s: of the spectrogram; empty before the first decision."""
        return (
            {}
            if self._picture is None
            else {"bands": self._picture.bands, "column_s": round(self._picture.column_s, 6)}
        )

    def _vitals(self) -> dict[str, Any]:
        """state, reason: of the source. troubles: errors of outputs. age: seconds since the last decision. factor:
        real-time factor. restarts, overflows: of a live source. resident: bytes."""
        metrics = self._metrics
        age, factor, counts = metrics.age, metrics.factor, metrics.counts
        return {
            "state": metrics.state,
            "reason": metrics.reason,
            "fresh": metrics.is_fresh,
            "troubles": {name: error for name, error in metrics.errors.items() if error},
            "age": None if age is None else round(age, 1),
            "factor": None if factor is None else round(factor, 5),
            "restarts": None if counts is None else counts.restarts,
            "overflows": None if counts is None else counts.overflows,
            "resident": resident_bytes(),
        }

    def _own_metrics(self) -> list[Metric]:
        counts = self._server.counts
        return [
            single("edgekd_web_streams", "gauge", "Open event streams.", counts.streams),
            single("edgekd_web_requests_total", "counter", "Requests with a response.", counts.requests),
            single(
                "edgekd_web_refused_connections_total",
                "counter",
                "Connections refused because there were too many.",
                counts.refused,
            ),
            single("edgekd_web_cut_streams_total", "counter", "Streams closed because they did not read.", counts.cut),
            single(
                "edgekd_web_dropped_events_total",
                "counter",
                "Lines dropped because the server was late.",
                self._dropped,
            ),
        ]


def _model_document(manifest: Manifest | None) -> dict[str, Any] | None:
    """What the page shows about a model; None before the first decision."""
    if manifest is None:
        return None
    fe, calibration = manifest.frontend, manifest.calibration
    return {
        "name": manifest.name,
        "student": manifest.student,
        "precision": manifest.precision,
        "labels": manifest.labels,
        "window_s": manifest.window / fe.sample_rate,
        "sample_rate": fe.sample_rate,
        "n_mels": fe.n_mels,
        "frames": fe.frames(manifest.window),
        "f_min": fe.f_min,
        "f_max": fe.top_hz,
        "mel_scale": fe.mel_scale,
        "counts": manifest.counts,
        "temperature": manifest.temperature,
        "provenance": manifest.provenance,
        "calibration_error": None if calibration is None else calibration.error_after,
    }
