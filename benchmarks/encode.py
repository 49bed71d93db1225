"""Encoding on one CPU thread: BatchEncoder against transformers and Meta's encodec, same weights, same audio.

    python -m benchmarks.encode [--repeats 5]

Each line of the table is a process of its own, because glibc's allocator adapts to what a process did before. Within it
the three take turns, and a ratio is taken within each turn. Times are CPU time of the process (`time.process_time`), so
that a neighbour on the machine costs caches but no turns. The table is added to `RESULTS.md`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date

import torch
from torch import Tensor

from benchmarks.machine import RESULTS, describe_machine
from encodec_core import BatchEncoder, EncodecConfig, EncodecModel
from tests.encodec_core.models import in_meta, in_transformers
from tests.fitted_models import make_fitted_model, synthetic_waveform

SETTINGS = ((1, 10), (8, 5))
"""Clips in a batch, and their seconds."""
BANDWIDTH_KBPS = 6.0
ALLOCATORS = {
    "default": {},
    "tuned": {
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
        "MALLOC_TOP_PAD_": str(2**28),
    },
}
"""Environment under which glibc keeps large blocks instead of returning each to the system and faulting it in again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One line of the table."""

    num_clips: int
    clip_seconds: int
    milliseconds: dict[str, list[float]]
    """CPU milliseconds per second of audio, by encoder, one number a turn."""
    num_codes: int
    num_differing: dict[str, int]
    """Codes of ours that are not the peer's."""


def compare(model: EncodecModel, *, num_clips: int, clip_seconds: int, repeats: int) -> Comparison:
    rate = model.config.sampling_rate
    clips = [
        synthetic_waveform(clip_seconds * rate, num_channels=1, sampling_rate=rate, seed=7000 + index)
        for index in range(num_clips)
    ]
    encoders = _encoders(model, clips)
    codes = {name: encode() for name, encode in encoders.items()}  # also warms up
    milliseconds: dict[str, list[float]] = {name: [] for name in encoders}
    names = list(encoders)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            encoders[name]()
            milliseconds[name].append(1000 * (time.process_time() - start) / (num_clips * clip_seconds))
    return Comparison(
        num_clips=num_clips,
        clip_seconds=clip_seconds,
        milliseconds=milliseconds,
        num_codes=codes["ours"].numel(),
        num_differing={peer: int((codes["ours"] != codes[peer]).sum()) for peer in names[1:]},
    )


def _encoders(model: EncodecModel, clips: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    ours, transformers, meta = BatchEncoder(model, BANDWIDTH_KBPS, "cpu"), in_transformers(model), in_meta(model)
    meta.set_target_bandwidth(BANDWIDTH_KBPS)
    batch = torch.stack(clips)
    return {
        "ours": lambda: torch.stack([item.codes.long() for item in ours.encode(clips)]),
        "transformers": lambda: transformers.encode(batch, bandwidth=BANDWIDTH_KBPS).audio_codes[0],
        "encodec": lambda: meta.encode(batch)[0][0],
    }


def _run_in_process(folder: str, *, num_clips: int, clip_seconds: int, repeats: int, allocator: str) -> Comparison:
    arguments = [str(value) for value in (folder, num_clips, clip_seconds, repeats)]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.encode", "--child", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | ALLOCATORS[allocator],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Comparison(**json.loads(result.stdout))


def _child(folder: str, num_clips: str, clip_seconds: str, repeats: str) -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        model = EncodecModel.from_pretrained(folder).requires_grad_(False)
        found = compare(model, num_clips=int(num_clips), clip_seconds=int(clip_seconds), repeats=int(repeats))
    print(json.dumps(asdict(found)))


def _line(found: Comparison, *, allocator: str) -> str:
    ours = found.milliseconds["ours"]
    cells = [f"{found.num_clips} × {found.clip_seconds} s", allocator, f"{statistics.median(ours):.1f}"]
    for peer, differing in found.num_differing.items():
        theirs = found.milliseconds[peer]
        ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
        ratio = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        cells += [f"{statistics.median(theirs):.1f}", ratio, f"{differing} of {found.num_codes}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child)
        return
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        make_fitted_model(EncodecConfig.encodec_24khz(), seed=0).save_pretrained(folder)
        for num_clips, clip_seconds in SETTINGS:
            for allocator in ALLOCATORS:
                found = _run_in_process(
                    folder,
                    num_clips=num_clips,
                    clip_seconds=clip_seconds,
                    repeats=arguments.repeats,
                    allocator=allocator,
                )
                lines.append(_line(found, allocator=allocator))
                print(lines[-1], flush=True)
    machine = describe_machine(packages=("torch", "transformers", "encodec"))
    head = (
        f"\n## Encode, {date.today()}\n\n`python -m benchmarks.encode --repeats {arguments.repeats}`; {machine}. "
        "24 kHz model with random weights, 6 kbps (n_q = 8), fp32, one thread. CPU ms per second of audio, medians; "
        "times over ours, median (least to most); codes that differ.\n\n"
        "| Audio | Allocator | Ours | transformers | over ours | differ | encodec | over ours | differ |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    with RESULTS.open("a", encoding="utf-8") as results:
        results.write(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
