"""The web output: a live page, the events behind it, what a monitoring system asks for. Standard library and numpy.

`tell` only queues. All else is done in the server's one thread: an event is encoded once for all who watch.
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
from edgekd.runtime.outputs.base import Moment
from edgekd.runtime.outputs.web.access import Access, Address, parse_address, read_token
from edgekd.runtime.outputs.web.prometheus import TEXT_FORMAT, Metrics, resident_bytes
from edgekd.runtime.outputs.web.server import TEXT, Request, Response, Server, problem
from edgekd.runtime.outputs.web.spectrogram import Spectrogram
from edgekd.runtime.outputs.web.timeline import Timeline
from edgekd.runtime.source.health import Change

MAX_QUEUE = 64
"""Lines that wait for the server's thread."""
BEAT_S = 2.0
"""A stream is never silent for longer."""
RETRY_MS = 1000
"""After which a browser asks again."""
NOTHING = np.empty(0, np.float32)
"""Instead of the sound, which is not needed here and large."""
PAGE = Path(__file__).parent / "page"
JSON, EVENTS = "application/json", "text/event-stream"
STATIC = {
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/script.js": ("script.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> file in `page/`, content type."""
UNBUFFERED = (("X-Accel-Buffering", "no"),)
"""What a proxy must be told to pass events on at once."""
COOKIE_S = 31_536_000
"""How long a browser keeps that it knew the token, seconds."""
HTML = "text/html; charset=utf-8"


class Web:
    """Serves what it is told."""

    name = "web"

    def __init__(self, table: WebTable, address: Address | None = None) -> None:
        """table: `[web]`. address: instead of the table's, in tests.

        Raises:
            InputError: see `parse_address` and `read_token`.
        """
        address = address or parse_address(table.address)
        self._access = Access(address, read_token(table), table.hosts)
        self._page, self._login = ((PAGE / name).read_bytes() for name in ("index.html", "login.html"))
        self._queue: deque[tuple[Decision | Change, Moment | None]] = deque(maxlen=MAX_QUEUE)
        self._dropped = self._number = 0
        self._metrics, self._timeline = Metrics(), Timeline(table.hours)
        self._picture: Spectrogram | None = None
        self._manifest: Manifest | None = None
        self._sent_at = 0.0
        self._snapshot = b""  # kept until something changes
        self._static = {path: Response(200, kind, (PAGE / file).read_bytes()) for path, (file, kind) in STATIC.items()}
        self._answers: dict[str, Callable[[], Response]] = {
            "/": lambda: Response(200, HTML, self._page),
            "/events": lambda: Response(200, EVENTS, self._greeting(), UNBUFFERED, stream=True),
            "/history.json": lambda: Response(
                200, JSON, msgspec.json.encode(self._timeline.document(time.monotonic()))
            ),
            "/model.json": lambda: Response(200, JSON, msgspec.json.encode(_told(self._manifest))),
            "/metrics": lambda: Response(200, TEXT_FORMAT, self._metrics.text(self._own_metrics())),
        }
        self._server = Server(address, self._answer, self._news)
        self._server.start()

    @property
    def port(self) -> int | None:
        """Where it listens; None while it does not."""
        return self._server.port

    @property
    def trouble(self) -> str | None:
        """Why it does not listen, if so."""
        return self._server.trouble

    def tell(self, event: Decision | Change, moment: Moment | None) -> None:
        """Queue a line; the oldest goes where the server's thread is far behind."""
        self._dropped += len(self._queue) == MAX_QUEUE
        self._queue.append((event, moment and moment._replace(waveform=NOTHING)))
        self._server.wake()

    def close(self) -> None:
        """The end of all connections."""
        self._server.close()

    # --- all below runs in the server's thread ---

    def _answer(self, request: Request) -> Response:
        if not self._access.knows(request.headers.get("host", "")):
            return Response(403, TEXT, b"This name is not known here; see 'hosts' of the [web] table.\n")
        if request.path == "/healthz":
            return self._health()
        if request.path in self._static:
            return self._static[request.path]
        if request.path not in self._answers:
            return problem(404)
        return self._unknown(request) or self._answers[request.path]()

    def _unknown(self, request: Request) -> Response | None:
        """What to answer to whoever may not read, or brings the token; None to whoever may."""
        access = self._access
        given = parse_qs(request.query).get("token", [""])[0] if request.path == "/" else ""
        if access.accepts(given):
            cookie = f"{access.cookie_name}={access.cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_S}"
            return Response(303, headers=(("Location", "./"), ("Set-Cookie", cookie)))  # so that no address keeps it
        if access.admits(request.headers):
            return None
        login = self._login.replace(b" hidden>", b">") if given else self._login
        page = Response(401, HTML, login) if request.path == "/" else problem(401)
        return page._replace(headers=(("WWW-Authenticate", "Bearer"),))

    def _health(self) -> Response:
        state, age = self._metrics.state, self._metrics.age
        if state == "HEALTHY" and self._metrics.is_fresh:
            return Response(200, TEXT, b"HEALTHY\n")
        late = "no decision yet" if age is None else f"last decision {age:.1f} s ago"
        return Response(503, TEXT, f"{state}: {late}\n".encode())

    def _news(self) -> bytes:
        """What was told since the last call, as events."""
        parts = []
        while self._queue:
            event, moment = self._queue.popleft()
            parts.append(self._taken(event, moment))
        now = time.monotonic()
        if not parts and now - self._sent_at < BEAT_S:
            return b""
        self._sent_at = now
        self._snapshot = b""
        return b"".join(parts) or self._event("beat", self._vitals())

    def _taken(self, event: Decision | Change, moment: Moment | None) -> bytes:
        self._metrics.take(event, moment)
        if isinstance(event, Change):
            return self._event("change", {"change": event, **self._vitals()})
        before = b""
        if moment is not None and moment.manifest is not self._manifest:
            self._manifest, self._picture = moment.manifest, Spectrogram(moment.manifest.frontend)
            before = self._event("model", self._sizes())
        self._timeline.take(event.label, time.monotonic())
        columns = b"" if moment is None or self._picture is None else self._picture.take(event.t, moment)
        return before + self._event("decision", {"decision": event, "columns": columns, **self._vitals()})

    def _greeting(self) -> bytes:
        """How a stream begins: all that a page shows, but the timeline and the model."""
        if not self._snapshot:
            picture = b"" if self._picture is None else self._picture.recent
            self._snapshot = f"retry: {RETRY_MS}\n".encode() + self._event(
                "snapshot", {"decision": self._metrics.last, "columns": picture, **self._sizes(), **self._vitals()}
            )
        return self._snapshot

    def _event(self, kind: str, document: dict[str, Any]) -> bytes:
        self._number += 1
        return f"event: {kind}\nid: {self._number}\ndata: ".encode() + msgspec.json.encode(document) + b"\n\n"

    def _sizes(self) -> dict[str, Any]:
        """bands, column_s: of the picture; none before the first decision."""
        return (
            {}
            if self._picture is None
            else {"bands": self._picture.bands, "column_s": round(self._picture.column_s, 6)}
        )

    def _vitals(self) -> dict[str, Any]:
        """state, reason: of the source. troubles: of outputs. age: seconds since the last decision. factor: real-time
        factor. restarts, overflows: of a live source. resident: bytes."""
        metrics = self._metrics
        age, factor, counts = metrics.age, metrics.factor, metrics.counts
        return {
            "state": metrics.state,
            "reason": metrics.reason,
            "fresh": metrics.is_fresh,
            "troubles": {name: trouble for name, trouble in metrics.troubles.items() if trouble},
            "age": None if age is None else round(age, 1),
            "factor": None if factor is None else round(factor, 5),
            "restarts": None if counts is None else counts.restarts,
            "overflows": None if counts is None else counts.overflows,
            "resident": resident_bytes(),
        }

    def _own_metrics(self) -> dict[str, tuple[str, str, float]]:
        counts = self._server.counts
        return {
            "edgekd_web_streams": ("gauge", "Pages and others that watch.", counts.streams),
            "edgekd_web_requests_total": ("counter", "Requests answered.", counts.requests),
            "edgekd_web_refused_connections_total": (
                "counter",
                "Connections turned away because there were too many.",
                counts.refused,
            ),
            "edgekd_web_cut_streams_total": ("counter", "Streams closed because they did not read.", counts.cut),
            "edgekd_web_dropped_events_total": ("counter", "Lines that came too fast to be served.", self._dropped),
        }


def _told(manifest: Manifest | None) -> dict[str, Any] | None:
    """What the page says of a model; None before the first decision."""
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
