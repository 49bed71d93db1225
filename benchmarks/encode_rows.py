"""One row of `benchmarks.encode`: BatchEncoder and its peers encode the same clips in turn, in one process.

Letters in shapes: C channels, n samples, K codebooks in use (n_q), T frames of an item or of a window.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.machine import busy_core_seconds
from encodec_core import BatchEncoder, EncodecModel
from tests.encodec_core.models import in_meta, in_transformers

__all__ = [
    "ALONE",
    "OURS",
    "PEERS",
    "TOGETHER",
    "Measurement",
    "Setting",
    "Task",
    "in_batches",
    "measure",
    "num_differing",
    "one_by_one",
]

OURS = "ours"
PEERS = ("encodec", "transformers")
ALONE, TOGETHER = "one by one", "batched"
"""What a peer can do with several clips."""
PADDED_BATCH = 4
"""Clips of different lengths that a peer pads to the longest of them, neighbours in length."""
HOPELESS = 1.15
"""A peer's way that took so many times longer than its other way in the first turn is not timed again."""
FEWEST_TURNS = 2
"""After the first one, which warms up."""

Encoded: TypeAlias = list[list[Tensor]]
"""For each clip, codes int64 `[K, T]` of each of its windows; one where the codec has none."""
Encode: TypeAlias = Callable[[Sequence[Tensor]], Encoded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is encoded at once, and how."""

    name: str
    seconds: tuple[float, ...]
    """Of each clip."""
    bandwidth_kbps: float
    allocator: str

    @property
    def audio_seconds(self) -> float:
        return sum(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A setting, and what the process that measures it needs."""

    setting: Setting
    model: str
    recordings: str
    """File with a waveform `[C, n]` at the model's rate, written by `torch.save`."""
    repeats: int
    limit_seconds: float
    """No turn begins after it, but for the fewest that there must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row of the table."""

    n_q: int
    milliseconds: dict[str, list[float]]
    """CPU milliseconds per second of audio, one number a turn: of `OURS`, and of each peer and way."""
    num_codes: int
    num_differing: dict[str, int]
    """Codes of ours that are not the peer's, by peer and way; against `encodec` one by one it is 0 where each clip has
    the codes of the reference for it alone."""
    wait: float
    """Wall time over CPU time of the turns: 1 where no other work wanted the core."""
    neighbour_cores: float
    """Cores that other work on the machine took meanwhile."""


def measure(task: Task) -> Measurement:
    """Encode in turn. One thread; the CPU time of this process is taken."""
    setting = task.setting
    model = EncodecModel.from_pretrained(task.model).requires_grad_(False)
    clips = _clips(Path(task.recordings), setting.seconds, sampling_rate=model.config.sampling_rate)
    encoders = _encoders(model, bandwidth_kbps=setting.bandwidth_kbps, num_clips=len(clips))
    for encode in encoders.values():
        encode([clip[:, : model.config.sampling_rate] for clip in clips[:1]])
    wall, cpu, busy = time.perf_counter(), time.process_time(), busy_core_seconds()
    milliseconds, encoded = _take_turns(encoders, clips, task=task)
    wall, cpu, busy = time.perf_counter() - wall, time.process_time() - cpu, busy_core_seconds() - busy
    ours = encoded.pop(OURS)
    return Measurement(
        n_q=model.config.n_q_for(setting.bandwidth_kbps),
        milliseconds=milliseconds,
        num_codes=sum(window.numel() for item in ours for window in item),
        num_differing={name: num_differing(ours, theirs) for name, theirs in encoded.items()},
        wait=wall / cpu,
        neighbour_cores=max(0.0, busy - cpu) / wall,
    )


def _take_turns(
    encoders: dict[str, Encode], clips: Sequence[Tensor], *, task: Task
) -> tuple[dict[str, list[float]], dict[str, Encoded]]:
    """Return times and codes; the times of the first turn only for what is not timed again."""
    begin = time.perf_counter()
    encoded: dict[str, Encoded] = {}
    milliseconds: dict[str, list[float]] = {}
    for name, encode in encoders.items():
        spent, encoded[name] = _timed(encode, clips, audio_seconds=task.setting.audio_seconds)
        milliseconds[name] = [spent]
    names = [name for name in encoders if not _is_hopeless(name, milliseconds)]
    for name in names:
        milliseconds[name] = []
    for turn in range(task.repeats):
        if turn >= FEWEST_TURNS and time.perf_counter() - begin > task.limit_seconds:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            spent, _ = _timed(encoders[name], clips, audio_seconds=task.setting.audio_seconds)
            milliseconds[name].append(spent)
    return milliseconds, encoded


def _timed(encode: Encode, clips: Sequence[Tensor], *, audio_seconds: float) -> tuple[float, Encoded]:
    start = time.process_time()
    encoded = encode(clips)
    return 1000 * (time.process_time() - start) / audio_seconds, encoded


def _is_hopeless(name: str, milliseconds: dict[str, list[float]]) -> bool:
    peer = name.partition(", ")[0]
    best = min(spent for other, (spent, *_) in milliseconds.items() if other.partition(", ")[0] == peer)
    return milliseconds[name][0] > HOPELESS * best


def _clips(path: Path, seconds: Sequence[float], *, sampling_rate: int) -> list[Tensor]:
    """Cut clips `[C, n]` that follow one another."""
    waveform = torch.load(path)
    lengths = [round(clip_seconds * sampling_rate) for clip_seconds in seconds]
    ends = itertools.accumulate(lengths)
    return [waveform[:, end - length : end].contiguous() for end, length in zip(ends, lengths, strict=True)]


def _encoders(model: EncodecModel, *, bandwidth_kbps: float, num_clips: int) -> dict[str, Encode]:
    batch_encoder = BatchEncoder(model, bandwidth_kbps, "cpu")
    batched = {"encodec": _meta(model, bandwidth_kbps), "transformers": _transformers(model, bandwidth_kbps)}

    def ours(clips: Sequence[Tensor]) -> Encoded:
        return [
            [item.codes.long()]
            if item.window_frames is None
            else list(torch.split(item.codes.long(), item.window_frames.tolist(), dim=-1))
            for item in batch_encoder.encode(clips)
        ]

    encoders: dict[str, Encode] = {OURS: ours}
    for peer, encode in batched.items():
        encoders[f"{peer}, {ALONE}"] = partial(one_by_one, encode)
        if num_clips > 1:
            encoders[f"{peer}, {TOGETHER}"] = partial(in_batches, encode)
    return encoders


def _meta(model: EncodecModel, bandwidth_kbps: float) -> Callable[[Tensor], list[Tensor]]:
    meta = in_meta(model)
    meta.set_target_bandwidth(bandwidth_kbps)
    return lambda batch: [codes for codes, _ in meta.encode(batch)]


def _transformers(model: EncodecModel, bandwidth_kbps: float) -> Callable[[Tensor], list[Tensor]]:
    transformers = in_transformers(model)
    return lambda batch: list(transformers.encode(batch, bandwidth=bandwidth_kbps).audio_codes)


def one_by_one(encode: Callable[[Tensor], list[Tensor]], clips: Sequence[Tensor]) -> Encoded:
    """Encode clips `[C, n]` with what turns a batch `[B, C, n]` into codes `[B, K, T]` of each window."""
    return [[window[0] for window in encode(clip[None])] for clip in clips]


def in_batches(encode: Callable[[Tensor], list[Tensor]], clips: Sequence[Tensor]) -> Encoded:
    """Encode clips of one length at once, others sorted by length in small batches padded with zeros."""
    lengths = [clip.shape[1] for clip in clips]
    order = sorted(range(len(clips)), key=lambda index: -lengths[index])
    size = len(clips) if len(set(lengths)) == 1 else PADDED_BATCH
    encoded: dict[int, list[Tensor]] = {}
    for batch in (order[first : first + size] for first in range(0, len(order), size)):
        longest = lengths[batch[0]]
        padded = torch.stack([functional.pad(clips[index], (0, longest - lengths[index])) for index in batch])
        windows = encode(padded)
        encoded |= {index: [window[place] for window in windows] for place, index in enumerate(batch)}
    return [encoded[index] for index in range(len(clips))]


def num_differing(ours: Encoded, theirs: Encoded) -> int:
    """Count codes of ours that are not theirs; what a peer adds for padding is not looked at."""
    pairs = [
        (our_window, their_window[:, : our_window.shape[1]])
        for our_item, their_item in zip(ours, theirs, strict=True)
        for our_window, their_window in zip(our_item, their_item, strict=False)
    ]
    assert len(pairs) == sum(len(item) for item in ours), "no peer has fewer windows"
    return sum(int((ours != theirs).sum()) for ours, theirs in pairs)
