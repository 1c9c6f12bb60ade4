"""A headless Chromium for `web_page_check.py` and `pictures.py`, controlled through chromium-driver over HTTP."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgekd.errors import InputError

END_S, RESPONSE_S = 20.0, 60.0
"""Longest waits for the end of the driver and for a response."""
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--disable-background-networking",
    "--no-first-run",
)


class Browser:
    """One page in a fresh profile."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            InputError: Chromium or its driver is not installed, or does not start.
        """
        driver = shutil.which("chromedriver")
        if driver is None:
            raise InputError("chromedriver is not installed; on Debian: apt install chromium chromium-driver")
        self._driver = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._driver.stdout is not None
        port = next(
            (
                line.rpartition("port ")[2].strip(" .\n")
                for line in self._driver.stdout
                if "successfully on port" in line
            ),
            "",
        )
        self._url = f"http://127.0.0.1:{port}/session"
        wanted = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": list(ARGUMENTS)},
        }
        try:
            session = self._request("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self._driver.kill()
            raise
        self._url = f"{self._url}/{session}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, InputError):
            self._request("", None, "DELETE")
        self._driver.terminate()
        self._driver.wait(END_S)

    def open(self, url: str) -> None:
        """Go to an address."""
        self._request("/url", {"url": url})

    def run(self, script: str) -> Any:
        """The value that a script returns."""
        return self._request("/execute/sync", {"script": script, "args": []})

    def wait(self, condition: str, seconds: float) -> float | None:
        """Seconds until an expression of JavaScript is true; None where it stays false."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.run(f"return Boolean({condition})"):
                return time.monotonic() - began
            time.sleep(0.05)
        return None

    def console(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        return [
            entry["message"]
            for entry in self._request("/se/log", {"type": "browser"})
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def resize(self, width: int, height: int, scale: float = 2.0) -> None:
        """Set the size of the page in CSS pixels; narrow pages emulate a phone. scale: picture pixels per CSS pixel."""
        self._protocol(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def prefer(self, scheme: str, *, still: bool = False) -> None:
        """Set the preferred colour scheme, "dark" or "light". still: prefer reduced motion."""
        self._protocol(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
            ],
        )

    def press(self, key: str, code: int) -> None:
        """Press and release a key: a letter, "Tab", "ArrowLeft", ..."""
        for kind in ("rawKeyDown", "keyUp"):
            self._protocol("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path, *, full_page: bool = True) -> None:
        """Write a PNG of the page, or of the part that is visible without scrolling."""
        shot = self._protocol("Page.captureScreenshot", format="png", captureBeyondViewport=full_page)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _protocol(self, command: str, **parameters: Any) -> Any:
        return self._request("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _request(self, path: str, document: Any, method: str = "POST") -> Any:
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self._url + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=RESPONSE_S) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise InputError(f"Chromium: {json.load(error)['value']['message'].splitlines()[0]}") from None
