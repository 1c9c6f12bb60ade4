"""Checks the web page of `edgekd listen` in a headless Chromium, and measures how its clients, also hostile ones, delay
the decisions.

    python tools/web_page_check.py MODEL [--sound FILE]... [--pictures DIR] [--no-browser]

Install Chromium by: apt install chromium chromium-driver. `edgekd listen -` gets audio in real time, one hop of its
front end at a time. The delay of a decision is the time from writing the last sample of its window to reading its line,
less the time that it waited for a processor used by other processes (the kernel's schedstat). Share of a core and delay
are compared in rounds with and without clients, which run in a separate process; on a busy machine --real-time (as
root) gives this check precedence. Prints a table, then one JSON line; exits 1 where a limit is exceeded. Longer than
400 lines because all rounds share one listener and one table.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import typer
from toolbox import EDGEKD, cpu_seconds, environment, run_tool, wait_for
from webdriver import Browser

from edgekd.data.audio.waveform import to_pcm
from edgekd.evaluation.bench import machine
from edgekd.modelfile.engine import open_model
from edgekd.runtime.source.files import read_file

HERE = Path(__file__).parent
CLIENTS = 50
UPDATE_LIMIT_S, SHARE_LIMIT, DELAY_LIMIT_MS, SLOW_LIMIT_S = 1.0, 4.0, 10.0, 8.0
"""Seconds from a decision to the page; percent of a core for `CLIENTS`; milliseconds added to decisions; seconds until
slow headers are closed."""
START_S = 60.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Spinning threads of numpy would hide the cost of clients."""
WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}
NETWORK_ERRORS = ("CONNECTION_REFUSED", "INCOMPLETE_CHUNKED_ENCODING", "CONNECTION_RESET", "EMPTY_RESPONSE")
"""Messages that Chromium writes to the console while the server is down."""
OBSERVE = """
window.seen = [];
new MutationObserver(() => window.seen.push([Date.now(), document.getElementById("level").textContent]))
  .observe(document.getElementById("level"), {childList: true});
"""


class Row(NamedTuple):
    """A line of the table. value, bar: as text. ok: whether the value is within the limit, the bar."""

    what: str
    value: str
    bar: str
    ok: bool


class Listener:
    """`edgekd listen -` with a page, on audio that repeats in real time."""

    def __init__(self, model: Path, pcm: bytes, port: int, hop_s: float, *, with_page: bool = True) -> None:
        command = [
            *EDGEKD,
            "listen",
            "-",
            "--model",
            str(model),
            "--json",
            "--hop",
            str(hop_s),
            "--top",
            "5",
            "--smooth",
            "1",
            "--dwell",
            "1",
            *(["--web", f":{port}"] if with_page else []),
        ]
        manifest = open_model(model).manifest
        self._rate, self._window = manifest.frontend.sample_rate, manifest.window
        self._chunk = manifest.frontend.hop_length  # every window ends with a chunk
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(**ONE_THREAD),
        )
        self.pid, self.port, self._pcm = self._process.pid, port, pcm
        # samples written so far -> Unix time, and seconds that other processes had taken until then
        self._written: dict[int, tuple[float, float]] = {}
        self.lines: list[tuple[float, dict[str, Any]]] = []
        """Unix time at which a line was read, and the line."""
        self.delays: list[tuple[float, float]] = []
        """Unix time and delay in milliseconds of each decision, without the time of other processes."""
        self.raw_delays: list[float] = []
        """Delay in milliseconds of each decision."""
        self._stopping = False
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._feed, self._read)]

    def __enter__(self) -> Self:
        for thread in reversed(self._threads):
            thread.start()
        wait_for(lambda: self.lines, START_S, pause_s=0.05)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5.0)
        finally:
            self._process.kill()

    def _feed(self) -> None:
        assert self._process.stdin is not None
        step, offset, samples, due = 2 * self._chunk, 0, 0, time.monotonic()
        first = 2 * (self._window % self._chunk)  # after it, windows end with a chunk
        with contextlib.suppress(OSError):
            while not self._stopping:
                chunk = self._pcm[offset : offset + (first if samples == 0 and first else step)]
                others_s = self._others_s()
                self._process.stdin.write(chunk)
                self._process.stdin.flush()
                samples += len(chunk) // 2
                self._written[samples] = time.time(), others_s
                offset = (offset + len(chunk)) % (len(self._pcm) - step)
                due += len(chunk) / 2 / self._rate
                time.sleep(max(0.0, due - time.monotonic()))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now, decision = time.time(), json.loads(line)
            self.lines.append((now, decision))
            written = self._written.get(round(decision["t"] * self._rate)) if "label" in decision else None
            if written is not None:
                raw_ms = 1000.0 * (now - written[0])
                self.raw_delays.append(raw_ms)
                self.delays.append((now, raw_ms - 1000.0 * max(0.0, self._others_s() - written[1])))

    def _others_s(self) -> float:
        """Seconds that other processes have taken: the deciding thread's waiting time for a processor, less the running
        time of its process's other threads, plus the waiting time of the thread that reads the lines."""
        times = {
            int(task.parent.name): task.read_text().split()
            for task in Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        }
        own_ns = sum(int(run) for thread, (run, *_) in times.items() if thread != self.pid)
        reading_ns = int(Path(f"/proc/self/task/{self._threads[1].native_id}/schedstat").read_text().split()[1])
        return (int(times[self.pid][1]) - own_ns + reading_ns) / 1e9

    def cpu_s(self) -> float:
        """Processor seconds of all its threads."""
        return cpu_seconds(self.pid)

    def resident_mb(self) -> float:
        """Resident memory in megabytes (10^6 bytes)."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def get(self, path: str) -> str:
        """The content of a path of the page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30.0) as response:
            return str(response.read().decode())

    def reasons(self) -> list[str]:
        """The reasons of all lines that have one."""
        return [line["reason"] for _, line in self.lines if "reason" in line]

    def delays_since(self, began: float) -> list[float]:
        """Delays in milliseconds of the decisions since a Unix time."""
        return [delay for when, delay in self.delays if when >= began]


class Clients:
    """A process of `web_clients.py`."""

    def __init__(self, kind: str, port: int, count: int, seconds: float) -> None:
        command = [sys.executable, str(HERE / "web_clients.py"), kind, str(port), str(count), str(seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        os.sched_setscheduler(self._process.pid, os.SCHED_OTHER, os.sched_param(0))
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self._lines.readline()

    def end(self) -> dict[str, Any]:
        """Their last line, the results."""
        results = json.loads(self._lines.readline() or "{}")
        self._process.wait(10.0)
        return dict(results)


def quantile(values: list[float], share: float) -> float:
    """The quantile of at least one value."""
    return float(np.quantile(values, share))


def look(listener: Listener, browser: Browser, pictures: Path | None) -> Iterator[Row]:
    """Check the page while the listener runs."""
    browser.resize(*WIDTHS["desktop"])
    browser.prefer("dark")
    browser.open(f"http://localhost:{listener.port}/")
    shown = browser.wait("document.querySelector('#top li') && document.querySelector('#model div:nth-child(3)')", 20.0)
    yield Row("page renders", "never" if shown is None else f"{shown:.2f} s", "<= 20 s", shown is not None)
    browser.run(OBSERVE)
    began = time.time()
    time.sleep(30.0)
    late = updates(listener, began, browser.run("return window.seen"))
    yield Row("decision to page, median", f"{1000 * statistics.median(late):.0f} ms", "", ok=True)
    yield Row(
        f"decision to page, slowest of {len(late)}",
        f"{1000 * max(late):.0f} ms",
        f"<= {UPDATE_LIMIT_S:g} s",
        max(late) <= UPDATE_LIMIT_S and len(late) >= 30,
    )
    for width, size in WIDTHS.items():
        for scheme in ("dark", "light"):
            browser.resize(*size)
            browser.prefer(scheme)
            time.sleep(1.5)
            wide = browser.run("return document.documentElement.scrollWidth - innerWidth")
            yield Row(f"{width}, {scheme}: wider than the screen by", f"{wide} px", "0 px", wide <= 0)
            if pictures is not None:
                browser.picture(pictures / f"web-{width}-{scheme}.png")
    faint = browser.run(CONTRAST)
    browser.prefer("dark")
    faint += browser.run(CONTRAST)
    yield Row("texts of too little contrast (AA)", f"{len(faint)} {faint[:3] if faint else ''}".strip(), "0", not faint)
    holes = browser.run(HOLES)
    yield Row("holes in the timeline", str(holes), "0", holes == 0)
    browser.run("document.querySelector('#strip .segment[tabindex=\"0\"]').focus()")
    before = browser.run("return document.activeElement.getAttribute('aria-label')")
    browser.press("ArrowLeft", 37)
    moved = browser.run(
        "return [document.activeElement.getAttribute('aria-label'), document.getElementById('detail').textContent]"
    )
    alone = browser.run("return document.querySelectorAll('#strip .segment').length") == 1
    yield Row("timeline by keyboard", moved[1], "moves", moved[0] == moved[1] and (alone or moved[0] != before))
    browser.run("document.activeElement.blur()")
    errors = browser.console()
    yield Row("console errors", f"{len(errors)} {errors[:1] if errors else ''}".strip(), "0", not errors)


HOLES = """
const all = [...document.querySelectorAll("#strip .segment")].map((segment) => segment.getBoundingClientRect());
return all.filter((segment, index) => index > 0 && segment.left - all[index - 1].right > 2).length;
"""
CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const light = ([red, green, blue]) => [red, green, blue].map((part) => part / 255)
  .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
const faint = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility() || element.classList.contains("unseen")) continue;
  let under = element, ground = [0, 0, 0, 0];
  while (under) {
    ground = parse(getComputedStyle(under).backgroundColor);
    if (ground.length === 3 || ground[3] > 0) break;
    under = under.parentElement;
  }
  const [one, two] = [light(parse(getComputedStyle(element).color)), light(ground)].sort((a, b) => b - a);
  const size = parseFloat(getComputedStyle(element).fontSize);
  if ((one + 0.05) / (two + 0.05) < (size >= 24 ? 3 : 4.5)) faint.push(element.textContent.trim().slice(0, 30));
}
return faint;
"""


def updates(listener: Listener, began: float, seen: list[tuple[float, str]]) -> list[float]:
    """Seconds from each decision's line to the display of its level on the page."""
    late, rest = [], list(seen)
    for when, line in list(listener.lines):
        if when < began or "rms" not in line or time.time() - when < UPDATE_LIMIT_S:
            continue
        text = f"{20 * np.log10(line['rms']):.1f} dBFS" if line["rms"] > 0 else "silence"
        found = next(
            (index for index, (at, level) in enumerate(rest) if level == text and at / 1000 >= when - 0.1), None
        )
        if found is None:
            late.append(float("inf"))
        else:
            late.append(max(0.0, rest[found][0] / 1000 - when))
            del rest[: found + 1]
    return late


def restart(model: Path, pcm: bytes, port: int, hop_s: float, browser: Browser) -> Iterator[Row]:
    """Check the page while the listener is down and after its restart."""
    offline = browser.wait(
        "document.body.classList.contains('offline') && !document.getElementById('banner').hidden", 15.0
    )
    yield Row(
        "server down: page shows it",
        "never" if offline is None else f"{offline:.2f} s",
        "<= 10 s",
        offline is not None and offline <= 10,
    )
    with Listener(model, pcm, port, hop_s) as listener:
        back = browser.wait("!document.body.classList.contains('offline') && window.seen", 20.0)
        yield Row(
            "server back: page continues",
            "never" if back is None else f"{back:.2f} s",
            "<= 10 s",
            back is not None and back <= 10,
        )
        began = time.time()
        time.sleep(5.0)
        late = updates(listener, began, browser.run("return window.seen"))
        yield Row(
            "decision to page after it, slowest",
            f"{1000 * max(late, default=np.inf):.0f} ms",
            f"<= {UPDATE_LIMIT_S:g} s",
            bool(late) and max(late) <= UPDATE_LIMIT_S,
        )
    errors = [
        error for error in browser.console() if not any(f"net::ERR_{network}" in error for network in NETWORK_ERRORS)
    ]
    yield Row(
        "console errors, not of the network",
        f"{len(errors)} {errors[:1] if errors else ''}".strip(),
        "0",
        not errors,
    )


def load(listener: Listener, rounds: int, round_s: float, calm: list[float]) -> Iterator[Row]:
    """Cost of `CLIENTS` streams, in rounds without and with them; delays without them are added to `calm`."""
    shares: list[float] = []
    alone: list[float] = []
    busy: list[float] = []
    for _ in range(rounds):
        share = {}
        for watched in (False, True):
            clients = Clients("watch", listener.port, CLIENTS, round_s + 1.0) if watched else None
            time.sleep(1.0)
            began, clock, cpu = time.time(), time.monotonic(), listener.cpu_s()
            time.sleep(round_s - 1.0)
            share[watched] = 100.0 * (listener.cpu_s() - cpu) / (time.monotonic() - clock)
            (busy if watched else calm).extend(listener.delays_since(began))
            if clients is not None:
                results = clients.end()
                assert results["ended"] == 0, "a stream that reads was closed"
        shares.append(share[True] - share[False])
        alone.append(share[False])
    added = statistics.median(shares)
    yield Row(
        f"{CLIENTS} clients, core share added ({min(shares):.2f} to {max(shares):.2f} in {rounds} rounds)",
        f"{added:.2f} %",
        f"<= {SHARE_LIMIT:g} %",
        added <= SHARE_LIMIT,
    )
    yield Row("core share of the listener alone", f"{statistics.median(alone):.2f} %", "", ok=True)
    yield from compared(f"{CLIENTS} clients", calm, busy)


def compared(what: str, calm: list[float], busy: list[float]) -> Iterator[Row]:
    """Compare delays of decisions without clients (`calm`) and with them (`busy`), milliseconds."""
    for name, share in (("median", 0.5), ("p99", 0.99), ("max", 1.0)):
        before, after = quantile(calm, share), quantile(busy, share)
        yield Row(
            f"{what}: delay of decisions, {name} ({len(calm)} and {len(busy)})",
            f"{before:.1f} -> {after:.1f} ms",
            f"<= +{DELAY_LIMIT_MS:g} ms",
            after - before <= DELAY_LIMIT_MS,
        )


def attack(listener: Listener, seconds: float, calm: list[float]) -> Iterator[Row]:
    """Hostile clients, one kind after the other; `calm`: delays without them."""
    time.sleep(2.0)
    before_mb = listener.resident_mb()
    for kind, count, limit_s in (
        ("hostile", 1, seconds),
        ("slow", 120, seconds),
        ("flood", 10_000, 2.0 * seconds),
        ("silent", 5, 240.0),
    ):
        began = time.time()
        cpu, clock = listener.cpu_s(), time.monotonic()
        clients = Clients(kind, listener.port, count, limit_s)
        results = clients.end()
        share = 100.0 * (listener.cpu_s() - cpu) / (time.monotonic() - clock)
        busy = listener.delays_since(began)
        yield from client_rows(kind, results)
        yield Row(f"{kind}: share of a core, stream included", f"{share:.1f} %", "", ok=True)
        yield from compared(kind, calm, busy)
    time.sleep(2.0)
    well = listener.get("/healthz").strip()
    yield Row("health after all attacks", well, "HEALTHY", well == "HEALTHY")
    grown = listener.resident_mb() - before_mb
    yield Row("memory grown by all attacks", f"{grown:.1f} MB", "<= 3 MB", grown <= 3.0)


def client_rows(kind: str, results: dict[str, Any]) -> Iterator[Row]:
    """Rows for the results of the clients of a kind."""
    if kind == "hostile":
        wrong = {
            what: status
            for what, status in results["statuses"].items()
            if status not in ("400", "403", "404", "405", "408", "431")
        }
        yield Row(
            f"hostile: {len(results['statuses'])} requests refused, {results['asked']} served",
            str(wrong or "all"),
            "all",
            not wrong,
        )
    elif kind == "flood":
        yield Row(
            "flood: connections opened, turned away",
            f"{results['opened']:,}, {results['turned_away']:,}",
            "10,000",
            results["opened"] >= 10_000,
        )
    else:
        last_s = results["last_s"] or float("inf")
        bar = SLOW_LIMIT_S if kind == "slow" else None
        yield Row(
            f"{kind}: {results['closed']} closed, the last after",
            f"{last_s:.1f} s",
            "all" if bar is None else f"<= {bar:g} s",
            results["still_open"] == 0 and last_s <= (bar or last_s),
        )


def taken_port(model: Path, pcm: bytes, port: int, hop_s: float) -> Iterator[Row]:
    """Start a second listener on the first one's port."""
    with contextlib.ExitStack() as first:
        first.enter_context(Listener(model, pcm, port, hop_s))
        with Listener(model, pcm, port, hop_s) as second:
            time.sleep(3.0)
            reasons = second.reasons()
            continues = len(reasons) == 1 and "in use" in reasons[0] and len(second.lines) > 3
            yield Row("port in use", str(reasons), "reported once, decisions continue", continues)
            first.close()
            wait_for(lambda: second.reasons()[-1].endswith("works again"), 40.0, pause_s=0.2)
            last = second.reasons()[-1]
            works = last == "web: works again" and "HEALTHY" in second.get("/healthz")
            yield Row("port free again", last, "web: works again", works)


def cost_of_memory(model: Path, pcm: bytes, port: int, hop_s: float, resident_mb: float) -> Row:
    """Compare the memory of a listener without the page with that of one with it."""
    with Listener(model, pcm, port, hop_s, with_page=False) as plain:
        time.sleep(8.0)
        return Row(
            "memory of the page",
            f"{resident_mb - plain.resident_mb():.1f} MB of {resident_mb:.0f}",
            "<= 25 MB",
            resident_mb - plain.resident_mb() <= 25.0,
        )


def main(
    model: Annotated[Path, typer.Argument(help="A model file that 'edgekd export' wrote.")],
    sound: Annotated[
        list[Path] | None, typer.Option(help="An audio file to listen to; repeatable. Noise by default.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for screenshots, dark and light, wide and as on a phone.")
    ] = None,
    port: Annotated[int, typer.Option(help="Of the page.")] = 8798,
    hop: Annotated[float, typer.Option(help="Seconds from decision to decision.")] = 0.5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds with and without clients.")] = 5,
    round_s: Annotated[float, typer.Option(min=4.0, help="Seconds of each round.")] = 20.0,
    attack_s: Annotated[float, typer.Option(min=4.0, help="Seconds of each kind of attack.")] = 30.0,
    warm_up: Annotated[
        float, typer.Option(help="Seconds of listening before the pictures, which fill the timeline.")
    ] = 35.0,
    real_time: Annotated[
        bool,
        typer.Option("--real-time", help="Give this tool and the listener precedence over all processes."),
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Check the page in Chromium.")] = True,
    under_load: Annotated[bool, typer.Option("--load/--no-load", help="Measure the cost of clients.")] = True,
) -> None:
    """Check the page."""
    rate = open_model(model).manifest.frontend.sample_rate
    parts = [np.concatenate(list(read_file(path, rate))) for path in sound or []]
    audio = (
        np.concatenate(parts) if parts else 0.1 * np.random.default_rng(0).standard_normal(60 * rate).astype(np.float32)
    )
    pcm = to_pcm(audio).tobytes()
    rows: list[Row] = []

    def report(new_rows: Iterator[Row]) -> None:
        for row in new_rows:
            rows.append(row)
            print(f"{'ok  ' if row.ok else 'MISS'}  {row.what:<72} {row.value:<26} {row.bar}", flush=True)

    if real_time:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    if browser:
        with Browser() as opened:
            with Listener(model, pcm, port, hop) as listener:
                time.sleep(warm_up)
                report(look(listener, opened, pictures))
            report(restart(model, pcm, port, hop, opened))
    if under_load:
        with Listener(model, pcm, port, hop) as listener:
            time.sleep(8.0)
            resident_mb = listener.resident_mb()
            calm: list[float] = []
            report(load(listener, rounds, round_s, calm))
            report(attack(listener, attack_s, calm))
            slowest = max(listener.raw_delays)
            report(iter([Row("slowest decision, time of other processes included", f"{slowest:.1f} ms", "", ok=True)]))
        report(iter([cost_of_memory(model, pcm, port, hop, resident_mb)]))
        report(taken_port(model, pcm, port, hop))
    print(
        json.dumps(
            {
                "model": str(model),
                "hop_s": hop,
                "clients": CLIENTS,
                "machine": machine(),
                "ok": all(row.ok for row in rows),
                "rows": [row._asdict() for row in rows],
            }
        )
    )
    if not all(row.ok for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    run_tool(main)
