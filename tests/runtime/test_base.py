"""The group of outputs: which lines they receive, how their errors are reported, and that none of them delays the
stream."""

import threading
import time

import pytest
from runtime.toy_listener import eventually, thread_ended

from edgekd.errors import InputError
from edgekd.runtime.config import Config, override, read_config
from edgekd.runtime.config_tables import HistoryTable, HookTable, WebTable
from edgekd.runtime.outputs.base import CLOSE_S, OutputGroup, Worker
from edgekd.runtime.outputs.history.output import History
from edgekd.runtime.outputs.opening import open_outputs
from edgekd.runtime.source.health import StatusLine

LINES = [StatusLine(float(t), "HEALTHY", "listening") for t in range(4)]


class Toy:
    """Records the lines that it receives; its error follows a script, line by line."""

    def __init__(self, name: str, script: tuple[str | None, ...] = (), close_s: float = 0.0) -> None:
        self.name, self._script, self._close_s, self.received = name, list(script), close_s, []

    @property
    def error(self) -> str | None:
        return self._script.pop(0) if self._script else None

    def publish(self, event, observation) -> None:  # noqa: ARG002
        self.received.append(event)

    def close(self) -> None:
        time.sleep(self._close_s)


def publish_first(outputs: OutputGroup, lines: list[StatusLine]):
    for line in lines:
        outputs.publish(line, None)
        yield line


def test_an_error_is_a_line_when_it_begins_changes_and_ends():
    outputs = OutputGroup([Toy("mqtt", (None, "no broker", "no broker", "refused")), Toy("web")])
    given = [line for t in range(5) for line in outputs.status(float(t), "RECOVERING")]
    assert given == [
        StatusLine(1.0, "RECOVERING", "mqtt: no broker"),
        StatusLine(3.0, "RECOVERING", "mqtt: refused"),
        StatusLine(4.0, "RECOVERING", "mqtt: works again"),
    ]


def test_what_cannot_be_delivered_at_the_end_is_a_line_too(tmp_path):
    (tmp_path / "file").touch()
    with OutputGroup([History(HistoryTable(str(tmp_path / "file" / "h.sqlite")))]) as outputs:
        given = list(outputs.forward(publish_first(outputs, LINES)))
    assert [line.reason for line in given[:-1]] == ["listening"] * len(LINES)
    assert given[-1].reason.startswith("history: ")
    assert "file" in given[-1].reason


def test_slow_outputs_are_closed_together_and_not_waited_for():
    began = time.monotonic()
    with OutputGroup([Toy(name, close_s=20.0) for name in "abcdefgh"]):
        pass
    assert time.monotonic() - began < 7 * CLOSE_S  # one after the other would take longer, also where nothing else runs


def test_outputs_before_one_that_is_refused_are_closed(tmp_path):
    (tmp_path / "folder").mkdir()
    before = set(threading.enumerate())
    with pytest.raises(InputError, match="is a folder"):
        open_outputs(Config(hook=HookTable("true"), history=HistoryTable(str(tmp_path / "folder"))))
    assert eventually(lambda: set(threading.enumerate()) <= before)


class Broken(Toy):
    """Raises in every method."""

    @property
    def error(self) -> str | None:
        raise RuntimeError("no trouble\nknown")

    def publish(self, event, observation) -> None:
        super().publish(event, observation)
        raise KeyError


def test_an_output_that_raises_stops_neither_the_stream_nor_the_others():
    broken, other = Broken("web"), Toy("mqtt")
    outputs = OutputGroup([broken, other])
    for line in LINES:
        outputs.publish(line, None)
    assert other.received == broken.received == LINES
    assert [line.reason for line in outputs.status(3.0, "HEALTHY")] == ["web: KeyError"]
    broken.publish = lambda *_: None
    outputs.publish(LINES[0], None)
    assert [line.reason for line in outputs.status(3.0, "HEALTHY")] == ["web: no trouble known"]


def test_a_worker_drops_the_oldest_counts_it_and_recovers_from_errors():
    began, gate, done = threading.Event(), threading.Event(), []

    def work(item: int) -> None:
        began.set()
        gate.wait(10.0)
        if item == 1:
            raise OSError("no  route\nto host")
        done.append(item)

    worker = Worker("toy", work, limit=3)
    worker.put(0)
    assert began.wait(5.0)
    for item in range(-4, 4):
        worker.put(item)
    assert worker.dropped == 5
    gate.set()
    assert eventually(lambda: done == [0, 2, 3])
    assert worker.error is None
    worker.put(1)
    assert eventually(lambda: worker.error == "no route to host")
    worker.close()
    assert thread_ended("toy")


def test_a_worker_works_off_what_waits_when_it_is_closed():
    done = []
    worker = Worker("toy", done.append)
    for item in range(50):
        worker.put(item)
    worker.close(5.0)
    assert done == list(range(50))


def test_flags_turn_outputs_on_and_files_are_beside_the_configuration(tmp_path):
    flags = {"web": {"address": ":8080"}, "mqtt": {"url": None}, "hook": {"command": None, "url": None}}
    config = override(Config(), flags)
    assert (config.web, config.mqtt, config.hook) == (WebTable(":8080"), None, None)
    (tmp_path / "box.toml").write_text(
        'history.file = "h.sqlite"\nclips = { folder = "unsure", below = 0.3 }\nweb.address = ":1"'
    )
    config = override(read_config(tmp_path / "box.toml"), flags)
    assert config.history.file == str(tmp_path / "h.sqlite")
    assert (config.clips.folder, config.clips.below) == (str(tmp_path / "unsure"), 0.3)
    assert config.web.address == ":8080"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web = { adress = ':1' }", r"\[web\]: .*'adress'; .*'address'"),
        ("clips = { folder = 'a', below = 2.0 }", r"clips\.below: expected"),
        ("history = {}", "history: .*`file`"),
    ],
)
def test_mistakes_in_the_tables_of_outputs_are_named(tmp_path, text, message):
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(tmp_path / "box.toml")
