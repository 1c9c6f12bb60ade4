"""Makes the pictures of README.md: the terminal view, the web page and the report.

    python tools/pictures.py RECORDING --judged MODEL --data STORE --split NAME [--out .github/pictures]

View and page are of the model that comes with edgekd, the report is of MODEL, which was not trained on the split.
RECORDING is heard at the speed of a microphone for the page, and as fast as it goes for the view. Needs chromium and
chromium-driver, and rich. Prints what it wrote.
"""

import io
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from webdriver import Browser

from edgekd.data.audio.waveform import to_pcm
from edgekd.errors import EdgekdError, InputError
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.zoo import bundled_model
from edgekd.runtime.decision import Decision, DecisionSettings
from edgekd.runtime.listen import listen
from edgekd.runtime.outputs.view import HISTORY, Shown, render
from edgekd.runtime.source.files import read_file

STEADY = DecisionSettings(smooth_s=1.0, margin=0.05, gate_dbfs=-80.0)
COLUMNS = 76
PAGE_WIDTH, PAGE_HEIGHT, SCALE = 1080, 800, 1.25
ADDRESS = "127.0.0.1:8642"
CLI = (sys.executable, "-m", "edgekd.cli")
FONT_FACES = re.compile(r"@font-face \{.*?\}", re.DOTALL)
"""Of rich's pictures, which would be fetched from elsewhere; the fonts of the reader's machine do."""


def terminal(model: Path, recording: Path, out: Path) -> None:
    """The view at the end of a recording, as SVG."""
    began = time.process_time()
    lines = [line for line in listen(str(recording), model, settings=STEADY, top=5) if isinstance(line, Decision)]
    changes = [
        line
        for before, line in zip([None, *lines], lines, strict=False)
        if before is None or before.label != line.label
    ]
    history = tuple((line.t, line.label) for line in reversed(changes[-HISTORY:]))
    factor = (time.process_time() - began) / lines[-1].t
    shown = Shown(lines[-1], "HEALTHY", f"hearing {recording.name}", history, factor)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(render(shown, COLUMNS))
    out.write_text(FONT_FACES.sub("", console.export_svg(title="edgekd listen")), encoding="utf-8")


def web_page(browser: Browser, model: Path, recording: Path, out: Path) -> None:
    """The page after the recording, heard in real time."""
    rate = open_model(model).manifest.frontend.sample_rate
    samples = np.concatenate(list(read_file(recording, rate)))
    command = [
        *CLI,
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
            _wait_for(f"http://{ADDRESS}/healthz")
            browser.resize(PAGE_WIDTH, PAGE_HEIGHT, SCALE)
            browser.prefer("dark")
            browser.open(f"http://{ADDRESS}/")
            began, block = time.monotonic(), rate // 10
            for start in range(0, len(samples), block):
                process.stdin.write(to_pcm(samples[start : start + block]).tobytes())
                process.stdin.flush()
                time.sleep(max(0.0, began + (start + block) / rate - time.monotonic()))
            browser.picture(out, whole=False)
        finally:
            process.kill()


def report(browser: Browser, model: Path, data: Path, split: str, out: Path) -> None:
    """The top of the page of `evaluate --report`."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        subprocess.run(
            [*CLI, "evaluate", str(model), "--data", str(data), "--split", split, "--report", str(page)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        browser.resize(PAGE_WIDTH, PAGE_HEIGHT, SCALE)
        browser.prefer("light")
        browser.open(page.as_uri())
        browser.picture(out, whole=False)


def _wait_for(url: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=1.0).close()
        except urllib.error.HTTPError:  # it answers
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise InputError(f"{url} does not answer")


def main(
    recording: Annotated[Path, typer.Argument(help="What is heard.")],
    judged: Annotated[Path, typer.Option(help="An exported file to report on.")],
    data: Annotated[Path, typer.Option(help="A store to report on.")],
    split: Annotated[str, typer.Option(help="Of the store.")],
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path(".github/pictures"),
) -> None:
    """Make the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    terminal(bundled_model(), recording, out / "terminal.svg")
    with Browser() as browser:
        web_page(browser, bundled_model(), recording, out / "web.png")
        report(browser, judged, data, split, out / "report.png")
    print("\n".join(str(path) for path in sorted(out.iterdir())))


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        sys.exit(f"pictures: {error}")
