"""A conventional listener that `bench_listen.py` compares with: it computes the log-mel of each complete window by
librosa, then runs the .tflite network.

The front end is that of the DCASE 2022 Task 1 baseline: 44.1 kHz, FFT of 2048, window of 40 ms, hop of 20 ms, 40 bands.

    python tools/conventional_listening.py MODEL HOP_S DECISIONS    # then waits for standard input to close
"""

import sys
from pathlib import Path

import librosa
import numpy as np
from ai_edge_litert.interpreter import Interpreter

SAMPLE_RATE, N_FFT, WIN_LENGTH, HOP_LENGTH, N_MELS = 44100, 2048, 1764, 882, 40
LOG_FLOOR = 1e-10


class Conventional:
    """Classifies the last second of a stream of seeded noise at each hop."""

    def __init__(self, model: Path, hop_s: float) -> None:
        self._interpreter = Interpreter(model_path=str(model), num_threads=1)
        self._interpreter.allocate_tensors()
        self._source = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._noise = (0.1 * np.random.default_rng(0).standard_normal(8 * SAMPLE_RATE)).astype(np.float32)
        self._hop, self._start = round(hop_s * SAMPLE_RATE), 0

    def __call__(self) -> int:
        """The next decision: the index of a label."""
        window = self._noise[self._start : self._start + SAMPLE_RATE]
        self._start = (self._start + self._hop) % (len(self._noise) - SAMPLE_RATE)
        mel = librosa.feature.melspectrogram(
            y=window, sr=SAMPLE_RATE, n_fft=N_FFT, win_length=WIN_LENGTH, hop_length=HOP_LENGTH, n_mels=N_MELS
        )
        log_mel = np.log(mel + LOG_FLOOR).astype(np.float32)  # (mel, frame)
        self._interpreter.set_tensor(self._source["index"], log_mel.reshape(self._source["shape"]))
        self._interpreter.invoke()
        return int(self._interpreter.get_tensor(self._output)[0].argmax())


def main() -> None:
    listener = Conventional(Path(sys.argv[1]), float(sys.argv[2]))
    for _ in range(int(sys.argv[3])):
        print(listener(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
