"""A capture process that plays a script of faults: python fake_child.py FOLDER REQUEST.

FOLDER/script.json has a list of attempts, each a list of steps; the last one is played again for ever. FOLDER/attempts
counts them. Blocks have 160 samples at 16 kHz, or what "open" says, and say that they came in time.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from edgekd.runtime.source.child import BLOCK, FAILED, OPENED, Failure, Opened, frame

FRAMES = 160


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main() -> None:  # noqa: PLR0912
    folder = Path(sys.argv[1])
    attempts = json.loads((folder / "script.json").read_text())
    with (folder / "attempts").open("a+") as file:
        number = file.tell()
        file.write("x")
    (folder / "pid").write_text(str(os.getpid()))
    rate, channels, start, origin = 16000, 1, 0, time.monotonic()

    def blocks(values: np.ndarray, *, lost: bool = False) -> None:
        nonlocal start
        for block in values.astype("<f4").reshape(-1, FRAMES, channels):
            write(frame(BLOCK, block.tobytes(), start, origin + (start + FRAMES) / rate, lost=lost))
            start += FRAMES

    for step, *arguments in attempts[min(number, len(attempts) - 1)]:
        match step:
            case "open":
                rate, channels = arguments
                write(frame(OPENED, json.dumps(Opened("fake", rate, channels, "float32")).encode()))
            case "sound":  # channel c has the level (c + 1) / 8
                level = (np.arange(channels) + 1) / 8
                blocks(np.tile(level, arguments[0] * FRAMES))
            case "live":  # sound, each block at its time
                origin = time.monotonic() - start / rate
                for _ in range(arguments[0]):
                    time.sleep(max(0.0, origin + (start + FRAMES) / rate - time.monotonic()))
                    blocks(np.full(FRAMES * channels, 0.5))
            case "zeros":
                blocks(np.zeros(arguments[0] * FRAMES * channels))
            case "bad":
                samples = np.full(FRAMES * channels, 0.5)
                samples[:3] = np.nan, np.inf, -np.inf
                blocks(samples)
            case "overflow":
                blocks(np.full(FRAMES * channels, 0.5), lost=True)
            case "skip":
                start += arguments[0]
            case "late":
                origin += arguments[0]
            case "back":
                start -= arguments[0]
            case "raw":
                write(bytes.fromhex(arguments[0]))
            case "frame":
                write(frame(*(bytes.fromhex(argument) for argument in arguments)))
            case "fail":
                write(frame(FAILED, json.dumps(Failure(*arguments)).encode()))
            case "stall":
                time.sleep(600)
            case "exit":
                os._exit(arguments[0])


if __name__ == "__main__":
    main()
