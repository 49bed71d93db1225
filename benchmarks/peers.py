"""What a user would write today to turn a folder of audio into codes: three scripts, each as good as a page can be.

- `datasets`: `Dataset.map` over the paths, batched, one process per core, transformers' extractor and model;
- `loop`: one file after the other through Meta's `encodec`, all cores in torch, one `.npy` per file;
- `ray_data`: `ray.data` over the paths, `map_batches` with one actor per core and transformers' model, Parquet out.

All decode with soundfile and resample with soxr, at 6 kbps. Recordings longer than `whole_seconds` are cut into pieces
of 30 s, because encoding an hour at once takes tens of gigabytes: the codes are then not those of the file. Batches
of transformers are sorted by length and filled up to a number of padded seconds. Both numbers are tried beforehand
(`python -m benchmarks.peers trial`), and each script gets what was fastest for it.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch

from tokenizer_jobs.machine import available_cpus

__all__ = ["META_CHECKPOINT", "PEERS", "PIECE_SECONDS", "PeerTask", "command"]

SAMPLE_RATE = 24_000
HOP_LENGTH = 320
BANDWIDTH_KBPS = 6.0
PIECE_SECONDS = 30
META_CHECKPOINT = "meta.th"
"""In the folder of the model: the same weights for Meta's package."""

Codes = npt.NDArray[np.uint16]
"""[K, T]."""
Waveform = npt.NDArray[np.float32]
"""[n] at 24 kHz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTask:
    """What a script is given."""

    corpus: str
    """Folder of audio files."""
    output: str
    model: str
    """Folder of `save_pretrained`, with Meta's checkpoint beside it."""
    whole_seconds: float
    """Longer recordings are cut into pieces of 30 s."""
    batch_seconds: float
    """Padded audio in a batch, at most; one piece may be longer. Meta's loop encodes one piece at a time."""


def read_mono(path: str) -> Waveform:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE))


def audio_paths(corpus: str) -> list[str]:
    return sorted(str(path) for path in Path(corpus).rglob("*") if path.is_file())


def encode_files(
    waveforms: Sequence[Waveform], *, task: PeerTask, encode: Callable[[list[Waveform]], list[Codes]]
) -> list[Codes]:
    """Cut long recordings, form padded batches of pieces alike in length, and put each recording together again."""
    pieces: list[tuple[int, int, Waveform]] = []
    for number, waveform in enumerate(waveforms):
        whole = len(waveform) <= task.whole_seconds * SAMPLE_RATE
        step = len(waveform) if whole else PIECE_SECONDS * SAMPLE_RATE
        pieces += [(number, start, waveform[start : start + step]) for start in range(0, len(waveform), step)]
    codes: dict[tuple[int, int], Codes] = {}
    for batch in padded_batches(pieces, batch_seconds=task.batch_seconds):
        encoded = encode([waveform for _, _, waveform in batch])
        codes |= {(number, start): item for (number, start, _), item in zip(batch, encoded, strict=True)}
    files: list[list[Codes]] = [[] for _ in waveforms]
    for number, start in sorted(codes):
        files[number].append(codes[number, start])
    return [np.concatenate(parts, axis=1) for parts in files]


def padded_batches(
    pieces: Sequence[tuple[int, int, Waveform]], *, batch_seconds: float
) -> Iterator[list[tuple[int, int, Waveform]]]:
    batch: list[tuple[int, int, Waveform]] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece[2])):
        longest = len(batch[0][2]) if batch else 0
        if batch and (len(batch) + 1) * longest > batch_seconds * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


@cache
def transformers_model(folder: str) -> tuple[Any, Any]:
    """The extractor and the model, once in each process, with one torch thread: there is a process per core."""
    import transformers

    torch.set_num_threads(1)
    extractor = transformers.EncodecFeatureExtractor(feature_size=1, sampling_rate=SAMPLE_RATE)
    return extractor, transformers.EncodecModel.from_pretrained(folder).eval()


def encode_with_transformers(waveforms: list[Waveform], *, folder: str) -> list[Codes]:
    extractor, model = transformers_model(folder)
    inputs = extractor(raw_audio=waveforms, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
    with torch.inference_mode():
        codes = model.encode(inputs["input_values"], inputs["padding_mask"], bandwidth=BANDWIDTH_KBPS).audio_codes[0]
    return [
        item[:, : -(-len(waveform) // HOP_LENGTH)].numpy().astype(np.uint16)
        for item, waveform in zip(codes, waveforms, strict=True)
    ]


@cache
def meta_model(folder: str) -> Any:
    from encodec import EncodecModel

    model = EncodecModel.encodec_model_24khz(pretrained=False)
    model.load_state_dict(torch.load(Path(folder) / META_CHECKPOINT, weights_only=True))
    model.set_target_bandwidth(BANDWIDTH_KBPS)
    return model.eval()


def encode_with_meta(waveforms: list[Waveform], *, folder: str) -> list[Codes]:
    with torch.inference_mode():
        frames = [meta_model(folder).encode(torch.from_numpy(waveform)[None, None]) for waveform in waveforms]
    return [encoded[0][0][0].numpy().astype(np.uint16) for encoded in frames]


def tokenize_batch(batch: dict[str, Any], *, task: PeerTask) -> dict[str, Any]:
    """What `map` and `map_batches` call."""
    waveforms = [read_mono(path) for path in batch["path"]]
    codes = encode_files(
        waveforms, task=task, encode=lambda pieces: encode_with_transformers(pieces, folder=task.model)
    )
    return {"path": list(batch["path"]), "codes": codes}


def run_datasets(task: PeerTask) -> None:
    from datasets import Dataset, Features, List, Value

    dataset = Dataset.from_dict({"path": audio_paths(task.corpus)})
    tokens = dataset.map(
        tokenize_batch,
        fn_kwargs={"task": task},
        batched=True,
        batch_size=files_per_call(task, num_workers=available_cpus()),
        num_proc=available_cpus(),
        features=Features({"path": Value("string"), "codes": List(List(Value("uint16")))}),
    )
    tokens.save_to_disk(task.output)


def run_loop(task: PeerTask) -> None:
    torch.set_num_threads(available_cpus())
    for path in audio_paths(task.corpus):
        encode = encode_files(
            [read_mono(path)], task=task, encode=lambda pieces: encode_with_meta(pieces, folder=task.model)
        )
        target = Path(task.output, f"{Path(path).relative_to(task.corpus)}.npy")
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, encode[0])


class RayDataActor:
    """One per core; the model stays loaded."""

    def __init__(self, task: PeerTask) -> None:
        self._task = task
        transformers_model(task.model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = tokenize_batch(batch, task=self._task)
        return {"path": found["path"], "codes": [[row.copy() for row in codes] for codes in found["codes"]]}


def run_ray_data(task: PeerTask) -> None:
    import pyarrow as pa
    import ray

    workers = available_cpus()
    # One CPU more than actors: the tasks that write would wait for ever where actors hold all of them.
    ray.init("local", num_cpus=workers + 1, include_dashboard=False, log_to_driver=False)
    paths = audio_paths(task.corpus)
    schema = pa.schema({"path": pa.string(), "codes": pa.list_(pa.list_(pa.uint16()))})

    def as_table(batch: Any) -> Any:
        return pa.table({"path": list(batch["path"]), "codes": [list(codes) for codes in batch["codes"]]}, schema)

    tokens = ray.data.from_items([{"path": path} for path in paths]).map_batches(
        RayDataActor,
        fn_constructor_args=(task,),
        batch_size=files_per_call(task, num_workers=workers),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    tokens.map_batches(as_table, batch_size=None).write_parquet(task.output)
    ray.shutdown()


def files_per_call(task: PeerTask, *, num_workers: int) -> int:
    """Files of one call: enough for several batches of pieces alike in length, few enough for every process."""
    paths = audio_paths(task.corpus)
    seconds = sum(soundfile.info(path).duration for path in paths)
    wanted = max(1, int(4 * task.batch_seconds * len(paths) / seconds))
    return max(1, min(wanted, -(-len(paths) // (2 * num_workers))))


def run_trial(task: PeerTask, *, peer: str, seconds: float) -> float:
    """Return CPU seconds per second of audio of encoding the first files alone, about `seconds` of them."""
    encoder = encode_with_meta if peer == "loop" else encode_with_transformers
    torch.set_num_threads(1)
    waveforms, total = [], 0
    for path in audio_paths(task.corpus):
        waveforms.append(read_mono(path)[: round(SAMPLE_RATE * seconds)])
        total += len(waveforms[-1])
        if total > seconds * SAMPLE_RATE:
            break
    encoder([waveforms[0][:SAMPLE_RATE]], folder=task.model)  # loads the model
    start = time.process_time()
    encode_files(waveforms, task=task, encode=lambda pieces: encoder(pieces, folder=task.model))
    return (time.process_time() - start) * SAMPLE_RATE / total


PEERS: dict[str, Callable[[PeerTask], None]] = {
    "datasets": run_datasets,
    "loop": run_loop,
    "ray_data": run_ray_data,
}


def main() -> None:
    """`python -m benchmarks.peers NAME TASK`, or `... trial NAME TASK SECONDS`; a task is one JSON object."""
    warnings.simplefilter("ignore", FutureWarning)  # Meta's package uses the older of torch's two weight norms
    if sys.argv[1] == "trial":
        task = PeerTask(**json.loads(sys.argv[3]))
        print(json.dumps(run_trial(task, peer=sys.argv[2], seconds=float(sys.argv[4]))))
        return
    PEERS[sys.argv[1]](PeerTask(**json.loads(sys.argv[2])))


def command(name: str, task: PeerTask) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers", name, json.dumps(asdict(task))]


if __name__ == "__main__":
    # Under its own name, so that worker processes import what they run.
    from benchmarks.peers import main as main_by_name

    main_by_name()
