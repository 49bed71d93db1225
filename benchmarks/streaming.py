"""Streams on one CPU thread: how fast, and in how much memory, whatever their length.

    python -m benchmarks.streaming [--seconds 3600]

Audio is made block by block and forgotten, and so are codes and decoded audio. Each line of the table is a process of
its own. Times are CPU time of the process (`time.process_time`) within push and flush alone. Memory is the highest
resident size while streaming, less what the process had once the model was loaded: copies of weights count. The table
is added to `RESULTS.md`.
"""

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import add_section, describe_machine
from encodec_core import EncodecConfig, EncodecModel, StreamingDecoder, StreamingEncoder
from tests.fitted_models import make_fitted_model, synthetic_waveform

BANDWIDTH_KBPS = 6.0
SHORT_SECONDS = 10
"""Of the lines that show tiny blocks, and streams in lockstep."""
NUM_RECORDINGS = 16
"""Different seconds of audio, in turn: making new ones would take as long as encoding them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of the table."""

    task: str
    """encode or decode."""
    seconds: int
    """Of each stream."""
    block_milliseconds: int
    """Of audio, pushed at once; to decode, as many frames as fit, at least one."""
    num_streams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    cpu_seconds: float
    wall_seconds: float
    num_pushes: int
    num_frames: int
    """Of each stream."""
    peak_megabytes: float
    """Above the loaded model."""


def settings(seconds: int) -> list[Setting]:
    hour = [
        Setting(task=task, seconds=seconds, block_milliseconds=1000, num_streams=1) for task in ("encode", "decode")
    ]
    short = [
        Setting(task=task, seconds=SHORT_SECONDS, block_milliseconds=milliseconds, num_streams=num_streams)
        for milliseconds, num_streams in ((20, 1), (20, 8), (100, 1), (1000, 8))
        for task in ("encode", "decode")
    ]
    return short + hour


def measure(folder: str, setting: Setting) -> Measurement:
    model = EncodecModel.from_pretrained(folder)
    config = model.config
    before = _resident_megabytes_from_now()
    if setting.task == "encode":
        encoder = StreamingEncoder(model, BANDWIDTH_KBPS, batch_size=setting.num_streams, device="cpu")
        push: Callable[[Tensor], Tensor] = encoder.push
        flush, blocks = encoder.flush, _audio_blocks(config, setting)
        length_of_frame = 1
    else:
        decoder = StreamingDecoder(model, batch_size=setting.num_streams, device="cpu")
        push, flush, blocks = decoder.push, decoder.flush, _code_blocks(config, setting)
        length_of_frame = config.hop_length
    cpu, wall, num_pushes, length = 0.0, 0.0, 0, 0
    for block in blocks:
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        result = flush() if block is None else push(block)
        cpu, wall = cpu + time.process_time() - cpu_start, wall + time.perf_counter() - wall_start
        num_pushes, length = num_pushes + 1, length + result.shape[-1]
    return Measurement(
        cpu_seconds=cpu,
        wall_seconds=wall,
        num_pushes=num_pushes,
        num_frames=length // length_of_frame,
        peak_megabytes=_peak_megabytes() - before,
    )


def _audio_blocks(config: EncodecConfig, setting: Setting) -> Iterator[Tensor | None]:
    rate = config.sampling_rate
    recordings = [
        torch.stack(
            [
                synthetic_waveform(rate, num_channels=1, sampling_rate=rate, seed=7000 + 100 * stream + second)
                for stream in range(setting.num_streams)
            ]
        )
        for second in range(min(NUM_RECORDINGS, setting.seconds))
    ]
    block = rate * setting.block_milliseconds // 1000
    for second in range(setting.seconds):
        recording = recordings[second % len(recordings)]
        for piece in torch.split(recording, block, -1):
            yield piece[0] if setting.num_streams == 1 else piece
    yield None


def _code_blocks(config: EncodecConfig, setting: Setting) -> Iterator[Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    num_frames, n_q = setting.seconds * config.frame_rate, config.n_q_for(BANDWIDTH_KBPS)
    block = _block_frames(setting)
    for start in range(0, num_frames, block):
        shape = (setting.num_streams, n_q, min(block, num_frames - start))
        codes = torch.randint(config.codebook_size, shape, generator=generator)
        yield codes[0] if setting.num_streams == 1 else codes
    yield None


def _block_frames(setting: Setting) -> int:
    return max(1, EncodecConfig.encodec_24khz().frame_rate * setting.block_milliseconds // 1000)


def _resident_megabytes_from_now() -> float:
    """Return the resident size and start the peak from there."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what loading freed must not hide what streaming takes
    Path("/proc/self/clear_refs").write_text("5")
    return _status_megabytes("VmRSS")


def _peak_megabytes() -> float:
    return _status_megabytes("VmHWM")


def _status_megabytes(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"this benchmark needs {name} of Linux"
    return int(found[1]) / 1024


def _run_in_process(folder: str, setting: Setting) -> Measurement:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.streaming", "--child", folder, json.dumps(asdict(setting))],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Measurement(**json.loads(result.stdout))


def _child(folder: str, setting: str) -> None:
    torch.set_num_threads(1)
    print(json.dumps(asdict(measure(folder, Setting(**json.loads(setting))))))


def _line(setting: Setting, found: Measurement) -> str:
    audio_seconds = setting.seconds * setting.num_streams
    cells = (
        setting.task,
        f"{setting.num_streams} × {setting.seconds} s",
        f"{setting.block_milliseconds} ms" if setting.task == "encode" else f"{_block_frames(setting)} frames",
        f"{1000 * found.cpu_seconds / found.num_pushes:.1f}",
        f"**{audio_seconds / found.cpu_seconds:.1f}**",
        f"{audio_seconds / found.wall_seconds:.1f}",
        f"**{found.peak_megabytes:.0f}**",
        str(found.num_frames),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600, help="length of the long stream")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child)
        return
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        make_fitted_model(EncodecConfig.encodec_24khz(), seed=0).save_pretrained(folder)
        for setting in settings(arguments.seconds):
            lines.append(_line(setting, _run_in_process(folder, setting)))
            print(lines[-1], flush=True)
    machine = describe_machine(packages=("torch",))
    head = (
        f"\n## Streaming, {date.today()}\n\n`python -m benchmarks.streaming --seconds {arguments.seconds}`; {machine}. "
        "24 kHz model with random weights, 6 kbps (n_q = 8), fp32, one thread. Streams and their length; audio of each "
        "that is pushed at once; CPU ms of a push; seconds of audio over CPU time and over wall time; peak resident MB "
        "above the loaded model; frames of a stream.\n\n"
        "| Task | Streams | Block | ms a push | × real time, CPU | wall | MB above the model | Frames |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    add_section(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
