"""The capture process with a sound card that overflows on demand, for `mic_faults.py`; with a virtual microphone
PortAudio never reports an overflow.

    EDGEKD_OVERFLOW=FILE python tools/overflowing_child.py REQUEST

While FILE exists, every other block of audio is lost and the next one has the overflow flag, as on a machine that is
too busy to read them.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgekd.runtime.source import child
from edgekd.runtime.source.microphones import portaudio

OVERFLOW = "EDGEKD_OVERFLOW"
"""Environment variable with the name of that file."""


def overflowing() -> Any:
    """The part of sounddevice that the capture process uses, with a stream that loses blocks."""
    sounddevice, switch = portaudio(), Path(os.environ[OVERFLOW])

    def opened(*arguments: Any, callback: Any, **options: Any) -> Any:
        lost = False

        def lossy(samples: Any, frames: int, times: object, status: Any) -> None:
            nonlocal lost
            lost = switch.exists() and not lost
            if not lost:
                callback(samples, frames, times, SimpleNamespace(input_overflow=True) if switch.exists() else status)

        return sounddevice.RawInputStream(*arguments, callback=lossy, **options)

    return SimpleNamespace(RawInputStream=opened, PortAudioError=sounddevice.PortAudioError)


if __name__ == "__main__":
    child.portaudio = overflowing
    child.main()
