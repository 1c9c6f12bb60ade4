"""Compares the features that `edgekd listen` computes from a stream with those of training, over all clips of a store.

    python tools/feature_parity.py MODEL... --data STORE

Each clip goes in blocks of 100 ms through the window stream of `listen` (numpy); the samples of every window also go
through the torch front end of training. Prints for each model the largest difference in log units, and the share of
elements that give the same int8 input; then one JSON line. Exit status 1 where a difference is above 1e-4 or the share
below 99.9 %.
"""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
import typer
from toolbox import run_tool

from edgekd import rounding
from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.modelfile.engine import FLOAT, open_model
from edgekd.modelfile.manifest import Manifest
from edgekd.models.logmel import LogMel
from edgekd.runtime.stream import WindowStream

BLOCK_S = 0.1
MAX_ERROR = 1e-4
"""Natural log units of mel power."""
MIN_SAME = 0.999


def compare(manifest: Manifest, clips: ClipStore, hop: float) -> dict[str, float]:
    """Over all windows of all clips: windows, elements, largest difference in log units, share of equal int8 inputs."""
    fe, source = manifest.frontend, manifest.input if manifest.input.dtype != FLOAT else None
    trained_front_end, block = LogMel(fe), round(BLOCK_S * fe.sample_rate)
    windows = elements = same = 0
    error = 0.0
    for clip in range(len(clips.clips)):
        samples = clips.window(clip, 0, int(clips.lengths[clip]))
        stream = WindowStream(fe, manifest.window, hop)
        found = [
            window for start in range(0, len(samples), block) for window in stream.push(samples[start : start + block])
        ]
        if not found:
            continue
        streamed = np.stack([window.features for window in found])  # (windows, mel, frame)
        waveforms = np.stack([samples[window.start : window.end] for window in found])
        trained = trained_front_end(torch.from_numpy(waveforms))[:, 0].numpy()
        error = max(error, float(np.abs(streamed - trained).max()) * fe.std)
        windows, elements = windows + len(found), elements + streamed.size
        if source is not None:
            integers = [
                rounding.quantize(each, source.scale, source.zero_point, source.dtype) for each in (streamed, trained)
            ]
            same += int((integers[0] == integers[1]).sum())
    return {
        "windows": windows,
        "max_error": error,
        "elements": elements,
        "same_input": same / max(elements, 1) if source else 1.0,
    }


def main(
    model: Annotated[list[Path], typer.Argument(help="Exported model files.")],
    data: Annotated[Path, typer.Option(help="A clip store.")],
    hop: Annotated[float, typer.Option(help="Seconds from window to window, as `edgekd listen --hop`.")] = 0.5,
) -> None:
    """Compare the features of the stream with those of training."""
    torch.set_num_threads(1)
    clips = ClipStore.open(data)
    results, failed = {}, []
    for path in model:
        manifest = open_model(path).manifest
        if manifest.frontend.sample_rate != clips.sample_rate:
            raise InputError(
                f"{path} needs {manifest.frontend.sample_rate} Hz, {data} holds {clips.sample_rate} Hz; "
                "prepare a store at that rate"
            )
        results[path.name] = result = compare(manifest, clips, hop)
        print(
            f"{path.name}: {result['windows']} windows, features differ by at most {result['max_error']:.2g} log units,"
            f" {100 * result['same_input']:.4f} % of int8 inputs are the same",
            flush=True,
        )
        if result["max_error"] > MAX_ERROR or result["same_input"] < MIN_SAME:
            failed.append(path.name)
    print(msgspec.json.encode({"data": str(data), "hop": hop, "models": results}).decode())
    if failed:
        raise GateError(
            f"features of {', '.join(failed)} differ by more than {MAX_ERROR} or in more than {1 - MIN_SAME:.1%} of"
            " inputs"
        )


if __name__ == "__main__":
    run_tool(main)
