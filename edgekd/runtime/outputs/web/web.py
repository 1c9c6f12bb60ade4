"""The output of `[web]`: a live page, its event stream, and metrics for monitoring.

`publish` only queues. The server's one thread does everything else and encodes each event once for all streams.
"""

import time
from collections import deque
from typing import Any

import msgspec
import numpy as np
from prometheus_client.metrics_core import Metric

from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.config_tables import WebTable
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import Observation
from edgekd.runtime.outputs.web.access import Access, ListenAddress, parse_address, read_token
from edgekd.runtime.outputs.web.application import HEADERS, JSON, web_application
from edgekd.runtime.outputs.web.prometheus import TEXT_FORMAT, Metrics, counter, gauge, resident_bytes
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


class Web:
    """Serves the stream over HTTP."""

    name = "web"

    def __init__(self, table: WebTable, address: ListenAddress | None = None) -> None:
        """table: `[web]`. address: replaces the table's, in tests.

        Raises:
            InputError: see `parse_address` and `read_token`.
        """
        address = address or parse_address(table.address)
        access = Access(address, read_token(table), table.hosts)
        self._queue: deque[tuple[Decision | StatusLine, Observation | None]] = deque(maxlen=MAX_QUEUE)
        self._dropped = self._number = 0
        self._metrics, self._timeline = Metrics(), Timeline(table.hours)
        self._picture: Spectrogram | None = None
        self._manifest: Manifest | None = None
        self._sent_at = 0.0
        self._snapshot = b""  # the encoded snapshot event; b"" when it is out of date
        documents = {
            "/history.json": (JSON, lambda: msgspec.json.encode(self._timeline.document(time.monotonic()))),
            "/model.json": (JSON, lambda: msgspec.json.encode(_model_document(self._manifest))),
            "/metrics": (TEXT_FORMAT, lambda: self._metrics.text(self._own_metrics())),
        }
        application = web_application(access, documents, self._health, self._snapshot_event)
        self._server = Server(address, application, self._new_events, HEADERS)
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

    def _health(self) -> tuple[bool, str]:
        """Whether fresh decisions of a healthy source are made, and a line about it."""
        state, age = self._metrics.state, self._metrics.age
        if state == "HEALTHY" and self._metrics.is_fresh:
            return True, state
        return False, f"{state}: {'no decision yet' if age is None else f'last decision {age:.1f} s ago'}"

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
            gauge("edgekd_web_streams", "Open event streams.", counts.streams),
            counter("edgekd_web_requests", "Requests with a response.", counts.requests),
            counter(
                "edgekd_web_refused_connections", "Connections refused because there were too many.", counts.refused
            ),
            counter("edgekd_web_cut_streams", "Streams closed because they did not read.", counts.cut),
            counter("edgekd_web_dropped_events", "Lines dropped because the server was late.", self._dropped),
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
