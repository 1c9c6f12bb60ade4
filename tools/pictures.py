"""Makes the pictures of README.md: the terminal view, the web page and the report.

    python tools/pictures.py RECORDING --judged MODEL --data STORE --split NAME [--out .github/pictures]

View and page show the model that comes with edgekd; the report is on MODEL, which was not trained on the split.
RECORDING is played in real time for the page, and as fast as possible for the view. Needs chromium and
chromium-driver, and rich. Prints the paths of the pictures.
"""

import io
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from toolbox import EDGEKD, run_tool, wait_for
from webdriver import Browser

from edgekd.data.audio.waveform import to_pcm
from edgekd.errors import InputError
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.zoo import zoo_model
from edgekd.runtime.decision import Decision, DecisionSettings
from edgekd.runtime.listen import listen
from edgekd.runtime.outputs.view import HISTORY, ViewState, render
from edgekd.runtime.source.files import read_file

STEADY = DecisionSettings(smooth_s=1.0, margin=0.05, gate_dbfs=-80.0)
COLUMNS = 76
PAGE_WIDTH, PAGE_HEIGHT, SCALE = 1080, 800, 1.25
ADDRESS = "127.0.0.1:8642"
START_S = 20.0
"""Longest time until the page is served."""
FONT_FACES = re.compile(r"@font-face \{.*?\}", re.DOTALL)
"""In rich's pictures; the browser would fetch them from the network. Without them it uses fonts of its machine."""


def terminal(model: Path, recording: Path, out: Path) -> None:
    """Write the view at the end of a recording, as SVG."""
    began = time.process_time()
    lines = [line for line in listen(str(recording), model, settings=STEADY, top=5) if isinstance(line, Decision)]
    changes = [
        line
        for before, line in zip([None, *lines], lines, strict=False)
        if before is None or before.label != line.label
    ]
    history = tuple((line.t, line.label) for line in reversed(changes[-HISTORY:]))
    factor = (time.process_time() - began) / lines[-1].t
    shown = ViewState(lines[-1], "HEALTHY", f"listening to {recording.name}", history, factor)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(render(shown, COLUMNS))
    out.write_text(FONT_FACES.sub("", console.export_svg(title="edgekd listen")), encoding="utf-8")


def web_page(browser: Browser, model: Path, recording: Path, out: Path) -> None:
    """Write a picture of the page after the recording has played in real time."""
    rate = open_model(model).manifest.frontend.sample_rate
    samples = np.concatenate(list(read_file(recording, rate)))
    command = [
        *EDGEKD,
        "listen",
        "-",
        "--model",
        str(model),
        "--web",
        ADDRESS,
        "--json",
        "--hop",
        "0.25",
        "--smooth",
        "1",
        "--margin",
        "0.05",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        try:
            if not wait_for(lambda: _is_served(f"http://{ADDRESS}/healthz"), START_S, pause_s=0.1):
                raise InputError(f"http://{ADDRESS} is not served after {START_S:g} s; is the port in use?")
            browser.resize(PAGE_WIDTH, PAGE_HEIGHT, SCALE)
            browser.prefer("dark")
            browser.open(f"http://{ADDRESS}/")
            began, block = time.monotonic(), rate // 10
            for start in range(0, len(samples), block):
                process.stdin.write(to_pcm(samples[start : start + block]).tobytes())
                process.stdin.flush()
                time.sleep(max(0.0, began + (start + block) / rate - time.monotonic()))
            browser.picture(out, full_page=False)
        finally:
            process.kill()


def report(browser: Browser, model: Path, data: Path, split: str, out: Path) -> None:
    """Write a picture of the top of the page of `evaluate --report`."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        subprocess.run(
            [*EDGEKD, "evaluate", str(model), "--data", str(data), "--split", split, "--report", str(page)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        browser.resize(PAGE_WIDTH, PAGE_HEIGHT, SCALE)
        browser.prefer("light")
        browser.open(page.as_uri())
        browser.picture(out, full_page=False)


def _is_served(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1.0).close()
    except urllib.error.HTTPError:  # a response, whatever its status
        return True
    except OSError:
        return False
    return True


def main(
    recording: Annotated[Path, typer.Argument(help="Audio file for view and page.")],
    judged: Annotated[Path, typer.Option(help="An exported file for the report.")],
    data: Annotated[Path, typer.Option(help="A store for the report.")],
    split: Annotated[str, typer.Option(help="Of the store.")],
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path(".github/pictures"),
) -> None:
    """Make the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    terminal(zoo_model(), recording, out / "terminal.svg")
    with Browser() as browser:
        web_page(browser, zoo_model(), recording, out / "web.png")
        report(browser, judged, data, split, out / "report.png")
    print("\n".join(str(path) for path in sorted(out.iterdir())))


if __name__ == "__main__":
    run_tool(main)
