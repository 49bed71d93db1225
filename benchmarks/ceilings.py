"""How fast the parts of a job are alone on a corpus: encoding what is decoded already, and decoding by itself.

    python -m benchmarks.ceilings encode|decode SHARE

Each process of a ceiling takes a share of the files; all begin at once, and their rates add up, as if the shares had
been cut to end together.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tokenizer_jobs.batching import auto_batch_seconds, form_batches
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.records import Batch, Decoded, DecodedItem, Item
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources import make_source

__all__ = ["Ceiling", "Share", "measure_ceiling"]

SHORTEST_SECONDS = 3.0
"""A share is gone through again until this time has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process of a ceiling works on."""

    corpus: str
    """Folder of audio files."""
    model: str
    index: int
    """Of this process."""
    num_processes: int
    sample_rate: int = 24_000
    bandwidth_kbps: float = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What one part of a job reaches by itself."""

    times_real_time: float
    """Seconds of audio per second of wall time, all processes together."""
    cpu_milliseconds: float
    """Per second of audio; a neighbour on the machine moves it less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What one process did."""

    audio_seconds: float
    wall_seconds: float
    cpu_seconds: float


def measure_ceiling(task: str, share: Share, *, environment: Mapping[str, str]) -> Ceiling:
    """Run one part of a job alone, in several processes at once.

    Args:
        task: encode or decode.
        share: of the first process; the others follow from it.
        environment: of the processes.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ceilings", task, json.dumps(asdict(replace(share, index=index)))],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(share.num_processes)
    ]
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the {task} ceiling of {share.corpus} did not start; its message is above")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    passes = [_Pass(**json.loads(process.communicate()[0])) for process in processes]
    return Ceiling(
        times_real_time=sum(done.audio_seconds / done.wall_seconds for done in passes),
        cpu_milliseconds=1000 * sum(done.cpu_seconds for done in passes) / sum(done.audio_seconds for done in passes),
    )


def _encode(share: Share) -> _Pass:
    import torch

    from encodec_core import BatchEncoder, EncodecModel

    torch.set_num_threads(1)
    encoder = BatchEncoder(EncodecModel.from_pretrained(share.model), share.bandwidth_kbps, "cpu")
    steps = form_batches(_decoded(share, _items(share)), batch_seconds=auto_batch_seconds("cpu"))
    batches = [
        [torch.from_numpy(item.float_waveform()) for item in step.items] for step in steps if isinstance(step, Batch)
    ]
    if batches:
        encoder.encode([waveform[:, : share.sample_rate] for waveform in batches[0][:1]])  # warms up

    def encode_all() -> float:
        for batch in batches:
            encoder.encode(batch)
        return sum(waveform.shape[1] for batch in batches for waveform in batch) / share.sample_rate

    return _repeat(encode_all)


def _decode(share: Share) -> _Pass:
    items = _items(share)

    def decode_all() -> float:
        decoded = (item for item in _decoded(share, items) if isinstance(item, DecodedItem))
        return sum(item.facts.duration_seconds for item in decoded)

    return _repeat(decode_all)


def _repeat(work: Callable[[], float]) -> _Pass:
    """Wait for the other processes, then work until enough time has passed; `work` says how much audio it was."""
    print("ready", flush=True)
    sys.stdin.readline()
    wall, cpu, audio = time.monotonic(), time.process_time(), 0.0
    while time.monotonic() - wall < SHORTEST_SECONDS:
        audio += work()
    return _Pass(audio_seconds=audio, wall_seconds=time.monotonic() - wall, cpu_seconds=time.process_time() - cpu)


def _decoded(share: Share, items: Sequence[Item]) -> Iterator[Decoded]:
    source = make_source(FilesSource(paths=(share.corpus,)))
    target = AudioTarget(sample_rate=share.sample_rate, channels=1)
    return decode_items(list(enumerate(items)), source=source, target=target)


def _items(share: Share) -> Sequence[Item]:
    """Every n-th file by length, so that the shares are alike."""
    items = make_source(FilesSource(paths=(share.corpus,))).list().items
    by_length = sorted(items, key=lambda item: (-item.estimated_seconds, item.id))
    return by_length[share.index :: share.num_processes]


def main() -> None:
    task, share = sys.argv[1], Share(**json.loads(sys.argv[2]))
    done = _encode(share) if task == "encode" else _decode(share)
    print(json.dumps(asdict(done)))


if __name__ == "__main__":
    main()
