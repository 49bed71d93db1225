"""One decode task over short clips in a bucket: opened one after the other, and read ahead.

    python -m benchmarks.remote [--clips 300] [--latency-ms 50] [--rounds 5]

The clips, 1 to 10 s of made-up audio as FLAC and mp3 in turn, lie on an S3 server of this machine
(`benchmarks.loopback_s3`) that answers each request so much later, and in a folder. Each round decodes them all in each
way, in this process, one way after the other; the table has the medians. CPU is of this process with all its threads,
without the server's. Needs `pip install s3fs`. The table is added to `RESULTS.md`, unless `--no-results` is given.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.machine import add_section, describe_machine
from tokenizer_jobs.decode import AudioTarget, decode_items, opened_items
from tokenizer_jobs.records import DecodedItem, Item
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources import ReadAhead, make_source

BUCKET = "s3://bucket/clips"
RATES = (16_000, 24_000, 44_100, 48_000)
TARGET = AudioTarget(sample_rate=24_000, channels=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """All clips, decoded once."""

    audio_seconds: float
    wall_seconds: float
    cpu_seconds: float
    num_requests: int


def write_clips(folder: Path, num_clips: int) -> None:
    """Write clips with names in an order of their own."""
    draw = np.random.default_rng(0)
    for number in range(num_clips):
        rate, suffix = RATES[number // 2 % len(RATES)], ("flac", "mp3")[number % 2]
        at = np.arange(round(rate * draw.uniform(1, 10))) / rate
        samples = 0.3 * np.sin(2 * np.pi * draw.uniform(100, 900) * at + 3 * np.sin(5 * at))
        soundfile.write(folder / f"{number:05d}.{suffix}", samples + 0.03 * draw.normal(size=len(at)), rate)


@contextmanager
def store(latency_ms: float) -> Iterator[str]:
    """The address of a server, which this process reaches by `s3://` from then on."""
    words = [sys.executable, "-m", "benchmarks.loopback_s3", "--latency-ms", str(latency_ms)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        # Read by fsspec when it is imported, which is when it is needed first.
        os.environ |= {
            "FSSPEC_S3_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield address
    finally:
        server.terminate()
        server.communicate()


def take_turn(folder: str, items: Sequence[Item], *, ahead: bool, address: str) -> Turn:
    """Decode the clips of a folder or bucket as one decode task does, or with each opened in its turn."""
    _num_requests(address)
    numbered, source = list(enumerate(items)), make_source(FilesSource(paths=(folder,)))
    wall, cpu, audio_seconds = time.monotonic(), time.process_time(), 0.0
    with ExitStack() as stack:
        if ahead:
            source = reading = stack.enter_context(ReadAhead(source))
            reading.expect(opened_items(numbered))
        for decoded in decode_items(numbered, source=source, target=TARGET):
            assert isinstance(decoded, DecodedItem), decoded
            audio_seconds += decoded.facts.duration_seconds
    return Turn(
        audio_seconds=audio_seconds,
        wall_seconds=time.monotonic() - wall,
        cpu_seconds=time.process_time() - cpu,
        num_requests=_num_requests(address),
    )


def _num_requests(address: str) -> int:
    """How many requests the server had since this was last asked."""
    with urllib.request.urlopen(f"{address}/_requests") as answer:
        return len(json.load(answer))


def line(place: str, way: str, turns: Sequence[Turn], num_clips: int) -> str:
    """One row of the table."""
    middle = statistics.median
    cells = (
        place,
        way,
        f"**{middle(num_clips / turn.wall_seconds for turn in turns):.0f}**",
        f"{middle(turn.audio_seconds / turn.wall_seconds for turn in turns):.0f}",
        f"{middle(turn.num_requests / num_clips for turn in turns):.2f}",
        f"{middle(1000 * turn.cpu_seconds / num_clips for turn in turns):.2f}",
    )
    return f"| {' | '.join(cells)} |"


COLUMNS = ("Clips in", "Opened", "Clips a second", "× real time", "Requests a clip", "CPU ms a clip")
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--latency-ms", type=float, default=50.0, help="of each request to the store")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-results", action="store_true", help="print only")
    arguments = parser.parse_args()
    with store(arguments.latency_ms) as address, tempfile.TemporaryDirectory() as folder:
        write_clips(Path(folder), arguments.clips)
        import fsspec  # finds the server

        fsspec.filesystem("s3").put(f"{folder}/", f"{BUCKET}/", recursive=True)
        places = {"a bucket": BUCKET, "a folder": folder}
        listed = {place: make_source(FilesSource(paths=(where,))).list().items for place, where in places.items()}
        ways = {"in its turn": False, "read ahead": True}
        turns: dict[tuple[str, str], list[Turn]] = {(place, way): [] for place in places for way in ways}
        for _ in range(arguments.rounds):
            for place, way in turns:
                turn = take_turn(places[place], list(listed[place]), ahead=ways[way], address=address)
                turns[place, way].append(turn)
        lines = [line(place, way, taken, arguments.clips) for (place, way), taken in turns.items()]
    print(HEAD + "\n".join(lines))
    if not arguments.no_results:
        _add_to_results(arguments, lines)


def _add_to_results(arguments: argparse.Namespace, lines: Sequence[str]) -> None:
    machine = describe_machine(packages=("fsspec", "s3fs", "soundfile"))
    command = f"python -m benchmarks.remote --clips {arguments.clips} --latency-ms {arguments.latency_ms:g}"
    text = (
        f"\n## Clips in a bucket, {date.today()}\n\n`{command} --rounds {arguments.rounds}`; {machine}. One decode "
        "task, to 24 kHz mono; the server shares the cores. CPU is of the task alone, decoding included.\n\n"
    )
    table = HEAD + "\n".join(lines) + "\n"
    add_section(text + table)


if __name__ == "__main__":
    main()
