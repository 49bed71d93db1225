"""Encoding on one CPU thread: BatchEncoder against Meta's encodec and transformers, same weights, same audio.

    python -m benchmarks.encode [--quick] [--repeats N] [--clips CLIPS ...] [--audio DIR] [--models MODEL ...]
                               [--results FILE]

Each row of the tables is a process of its own, because glibc's allocator adapts to what a process did before. Within it
all take turns, and a ratio is taken within each turn. A peer encodes clips one by one and in batches, and its faster
way counts. Times are CPU time of the process (`time.process_time`), so that a neighbour on the machine costs caches but
no turns. The tables are added to `RESULTS.md`, with a plot; those so far, when the run is interrupted.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.encode_results import ModelResult, row, section, write_plot
from benchmarks.encode_rows import Measurement, Setting, Task, measure
from benchmarks.machine import RECORDINGS, RESULTS
from benchmarks.recordings import load_recordings
from encodec_core import EncodecConfig, EncodecModel
from tests.fitted_models import make_fitted_model

ALLOCATORS = {
    "default": {},
    "tuned": {
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
        "MALLOC_TOP_PAD_": str(2**28),
    },
}
"""Environment under which glibc keeps large blocks instead of returning each to the system and faulting it in again."""


def _mix() -> tuple[float, ...]:
    draws = random.Random(0)
    return tuple(round(0.5 * 40 ** draws.random(), 1) for _ in range(16))


CLIPS = {
    "1 × 1 s": (1.0,),
    "1 × 10 s": (10.0,),
    "1 × 30 s": (30.0,),
    "8 × 1 s": (1.0,) * 8,
    "8 × 5 s": (5.0,) * 8,
    "16 × 10 s": (10.0,) * 16,
    "16 mixed": _mix(),
}
"""Seconds of the clips of a call; the mix is 0.5 to 20 s, log-uniform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows of one codec: some clips at one bandwidth under some allocators."""

    clips: tuple[str, ...]
    bandwidth_kbps: float
    allocators: tuple[str, ...] = tuple(ALLOCATORS)


GROUPS = {
    24_000: (
        Group(clips=("1 × 1 s", "1 × 10 s", "1 × 30 s", "8 × 1 s", "8 × 5 s", "16 mixed"), bandwidth_kbps=6.0),
        Group(clips=("16 × 10 s",), bandwidth_kbps=6.0, allocators=("tuned",)),
        Group(clips=("8 × 5 s",), bandwidth_kbps=1.5, allocators=("tuned",)),
        Group(clips=("8 × 5 s",), bandwidth_kbps=24.0, allocators=("tuned",)),
    ),
    48_000: (
        Group(clips=("1 × 1 s", "1 × 10 s", "1 × 30 s", "8 × 1 s", "8 × 5 s", "16 mixed"), bandwidth_kbps=12.0),
        Group(clips=("16 × 10 s",), bandwidth_kbps=12.0, allocators=("tuned",)),
        Group(clips=("8 × 5 s",), bandwidth_kbps=3.0, allocators=("tuned",)),
        Group(clips=("8 × 5 s",), bandwidth_kbps=24.0, allocators=("tuned",)),
    ),
}
"""By sampling rate. Codebooks in use: 2, 8 and 32 at 24 kHz; 2, 8 and 16 at 48 kHz. What has one allocator only has the
one that is kinder to the peers."""
QUICK_GROUPS = {
    24_000: (Group(clips=("1 × 10 s", "8 × 5 s"), bandwidth_kbps=6.0),),
    48_000: (Group(clips=("8 × 1 s",), bandwidth_kbps=12.0),),
}


def settings(groups: Sequence[Group], *, clips: Collection[str]) -> list[Setting]:
    return [
        Setting(name=name, seconds=CLIPS[name], bandwidth_kbps=group.bandwidth_kbps, allocator=allocator)
        for group in groups
        for name in group.clips
        if name in clips
        for allocator in group.allocators
    ]


def _measure_in_process(task: Task) -> Measurement:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.encode", "--child", json.dumps(asdict(task))],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | ALLOCATORS[task.setting.allocator],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Measurement(**json.loads(result.stdout))


def _child(words: str) -> None:
    fields = json.loads(words)
    torch.set_num_threads(1)
    with torch.inference_mode():
        print(json.dumps(asdict(measure(Task(**fields | {"setting": Setting(**fields["setting"])})))))


def make_models(folder: Path) -> list[str]:
    """Write the codecs of 24 and 48 kHz with random weights, and return where."""
    presets = {"encodec_24khz": EncodecConfig.encodec_24khz, "encodec_48khz": EncodecConfig.encodec_48khz}
    for name, config in presets.items():
        print(f"making {name} with random weights", flush=True)
        make_fitted_model(config(), seed=0).save_pretrained(folder / name)
    return [str(folder / name) for name in presets]


def _measure_model(model: str, *, arguments: argparse.Namespace, folder: Path) -> Iterator[ModelResult]:
    """Yield what is known of a codec after each row."""
    config = EncodecModel.from_pretrained(model).config
    rate = config.sampling_rate
    groups = (QUICK_GROUPS if arguments.quick else GROUPS).get(rate)
    if groups is None:
        raise SystemExit(f"{model} is at {rate} Hz; expected a codec of {' or '.join(map(str, GROUPS))} Hz")
    chosen = settings(groups, clips=arguments.clips)
    if not chosen:
        return
    recordings = load_recordings(
        arguments.audio,
        seconds=max(setting.audio_seconds for setting in chosen),
        sampling_rate=rate,
        num_channels=config.audio_channels,
    )
    torch.save(recordings.waveform, folder / f"{rate}.pt")
    print(f"{rate / 1000:g} kHz: {recordings.about}", flush=True)
    rows = []
    for setting in chosen:
        task = Task(
            setting=setting,
            model=model,
            recordings=str(folder / f"{rate}.pt"),
            repeats=arguments.repeats,
            limit_seconds=8 if arguments.quick else 30,
        )
        rows.append((setting, _measure_in_process(task)))
        print(row(*rows[-1]), flush=True)
        yield ModelResult(sampling_rate=rate, audio=recordings.about, rows=tuple(rows))


def _measure_all(arguments: argparse.Namespace, *, folder: Path) -> list[ModelResult]:
    """Measure until the end, or until the user has had enough."""
    results: dict[str, ModelResult] = {}
    try:
        for model in arguments.models or make_models(folder):
            for result in _measure_model(model, arguments=arguments, folder=folder):
                results[model] = result
    except KeyboardInterrupt:
        print("interrupted: the rows so far are kept")
    return list(results.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few rows, in under four minutes")
    parser.add_argument("--repeats", type=int, default=5, help="turns, fewer of slow rows; the first is not counted")
    parser.add_argument("--audio", type=Path, default=RECORDINGS, help="real recordings")
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=list(CLIPS), help="rows with these; default: all")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="folders or hub ids; default: random weights")
    parser.add_argument("--results", type=Path, default=RESULTS, help="takes the section; the plot goes beside it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(arguments.child)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = _measure_all(arguments, folder=Path(folder))
    if not results:
        raise SystemExit("no rows: none of these clips is measured with these codecs")
    command = f"python -m benchmarks.encode {' '.join(sys.argv[1:])}".rstrip()
    weights = "the weights of " + ", ".join(arguments.models) if arguments.models else "random weights"
    plot = arguments.results.resolve().parent / "plots" / "encode.png"
    has_plot = write_plot(results, path=plot)
    with arguments.results.open("a", encoding="utf-8") as file:
        file.write(section(results, command=command, weights=weights))
        if has_plot:
            file.write("\n![Seconds of audio per second of one core](plots/encode.png)\n")
        else:
            print("no plot: matplotlib is missing; install the extra `report`")


if __name__ == "__main__":
    main()
