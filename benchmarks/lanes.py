"""Streams of long recordings on one CPU thread: each alone against all together.

    python -m benchmarks.lanes [--seconds 300]

Each turn pushes 30 s of every stream, once into encoders that each have a stream for themselves and once into lanes of
one, in turns first. Times are CPU time of the process; the codes must be equal. The table is added to `RESULTS.md`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
from torch import Tensor

from benchmarks.machine import add_section, describe_machine
from encodec_core import EncodecConfig, StreamingEncoder
from encodec_core.streaming import StreamingLanes
from tests.fitted_models import make_fitted_model, synthetic_waveform

BANDWIDTH_KBPS = 6.0
TURN_SECONDS = 30
NUM_STREAMS = (2, 4)
NUM_RECORDINGS = 8
"""Different stretches of audio, in turn."""


def measure(lanes: StreamingLanes, alone: list[StreamingEncoder], recordings: list[Tensor], *, num_turns: int) -> str:
    """Return the line of so many streams as `alone` has."""
    streams = [lanes.start() for _ in alone]
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for turn in range(num_turns):
        blocks = [recordings[(turn + number) % len(recordings)] for number in range(len(alone))]
        ways: dict[str, Callable[[], list[Tensor]]] = {
            "alone": lambda blocks=blocks: [one.push(block) for one, block in zip(alone, blocks, strict=True)],  # type: ignore[misc]
            "together": lambda blocks=blocks: lanes.push(list(zip(streams, blocks, strict=True))),  # type: ignore[misc]
        }
        codes = {}
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            codes[name] = ways[name]()
            seconds[name].append(time.process_time() - start)
        assert all(torch.equal(*pair) for pair in zip(codes["alone"], codes["together"], strict=True))
    audio_seconds = TURN_SECONDS * len(alone)
    ratios = [together / one for one, together in zip(seconds["alone"], seconds["together"], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    one, together = (1000 * statistics.median(each) / audio_seconds for each in seconds.values())
    return f"| {len(alone)} | {one:.1f} | {together:.1f} | **{median:.3f}** | {low:.3f} to {high:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lanes", description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="audio of each stream")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = EncodecConfig.encodec_24khz()
    model = make_fitted_model(config, seed=0)
    rate = config.sampling_rate
    recordings = [
        synthetic_waveform(TURN_SECONDS * rate, num_channels=1, sampling_rate=rate, seed=7000 + number)
        for number in range(NUM_RECORDINGS)
    ]
    lanes = StreamingLanes(model, BANDWIDTH_KBPS, device="cpu")
    lines = []
    for num_streams in NUM_STREAMS:
        alone = [StreamingEncoder(model, BANDWIDTH_KBPS, device="cpu") for _ in range(num_streams)]
        lines.append(measure(lanes, alone, recordings, num_turns=max(2, arguments.seconds // TURN_SECONDS)))
        print(lines[-1], flush=True)
    head = (
        f"\n## Lanes, {date.today()}\n\n`python -m benchmarks.lanes --seconds {arguments.seconds}`; "
        f"{describe_machine(packages=('torch',))}. 24 kHz model with random weights, 6 kbps (n_q = 8), fp32, one "
        "thread. Streams; CPU ms per second of audio, each alone and all together, medians; together / alone, median "
        "and quartiles of turns of 30 s. Codes are equal.\n\n"
        "| Streams | alone | together | ratio | quartiles |\n| --- | --- | --- | --- | --- |\n"
    )
    add_section(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
