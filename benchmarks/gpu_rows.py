"""What `benchmarks.gpu` times: BatchEncoder and its peers from waveforms on the host to codes on the host.

A contender is a function that encodes a fixed amount of audio. Contenders of a row take turns; a time is that of the
wall, with the device synchronised at both ends. Peers run with TF32 off, as ours does, and as torch comes, which is
with TF32 in convolutions and the LSTM.
"""

import importlib.util
import itertools
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from encodec_core import BatchEncoder, Codes, EncodecModel
from encodec_core.fast.gpu.memory import is_out_of_memory
from encodec_core.fast.precision import Precision, exact_float32
from tests.fitted_models import synthetic_waveform

__all__ = [
    "Contender",
    "Timing",
    "able",
    "agreement",
    "agreement_with_peer",
    "best_batch",
    "clips",
    "fp32_ceiling",
    "in_a_cell",
    "ours",
    "peer_names",
    "peers",
    "ratios",
    "skewed_clips",
    "take_turns",
]

BATCH_SIZES = (4, 16, 64)
"""Tried for a peer's best batch, after 1."""
NUM_SOURCES = 16
"""Different recordings; more clips are these, started elsewhere."""
SOURCE_SECONDS = 30
CEILING_SIZE = 8192
CEILING_TURNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One that encodes."""

    name: str
    audio_seconds: float
    """Encoded by one call."""
    run: Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How fast a contender was, in seconds of audio per second."""

    median: float
    slowest: float
    fastest: float
    num_turns: int


def clips(model: EncodecModel, count: int, seconds: float) -> list[Tensor]:
    """Return `count` clips `[C, n]` of audio that keeps changing; no two are equal."""
    rate = model.config.sampling_rate
    sources = _sources(model.config.audio_channels, rate)
    num_samples = round(seconds * rate)
    # A prime step, so that few clips begin alike.
    return [
        sources[index % len(sources)].roll(-7919 * (index // len(sources)), dims=-1)[:, :num_samples].contiguous()
        for index in range(count)
    ]


def skewed_clips(model: EncodecModel, count: int) -> list[Tensor]:
    """Return clips of which most are short and few are long: 0.5 to 30 s, 6 s on average."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.empty(count).log_normal_(mean=1.4, std=0.9, generator=generator).clamp(0.5, SOURCE_SECONDS)
    rate = model.config.sampling_rate
    longest = clips(model, count, SOURCE_SECONDS)
    return [
        clip[:, : round(seconds * rate)].contiguous() for clip, seconds in zip(longest, lengths.tolist(), strict=True)
    ]


def ours(
    model: EncodecModel,
    waveforms: Sequence[Tensor],
    *,
    bandwidth_kbps: float,
    device: str,
    precision: Precision = "fp32",
) -> Contender:
    encoder = _encoder(model, bandwidth_kbps, device, precision)
    return Contender(
        name=f"ours {precision}",
        audio_seconds=_seconds(model, waveforms),
        run=lambda: encoder.encode(waveforms),
    )


def peer_names() -> dict[str, str | None]:
    """Return the peers, each with why it is absent, or None."""
    missing = {name: importlib.util.find_spec(name) is None for name in ("transformers", "encodec", "einops")}
    needs = {"transformers": ("transformers",), "encodec": ("transformers", "encodec", "einops")}
    absent = {peer: [name for name in names if missing[name]] for peer, names in needs.items()}
    return {peer: f"{', '.join(names)} missing" if names else None for peer, names in absent.items()}


def peers(
    model: EncodecModel, waveforms: Sequence[Tensor], *, bandwidth_kbps: float, device: str, batch_size: int
) -> Iterator[Contender]:
    """Yield each peer that is installed, under both regimes, with batches of equal or zero-padded length."""
    batches = [torch.stack(_padded(batch)) for batch in _batched(waveforms, batch_size)]
    seconds = _seconds(model, waveforms)
    for name, reason in peer_names().items():
        if reason is not None:
            continue
        encode = _peer(name, model, bandwidth_kbps=bandwidth_kbps, device=device)
        for regime in ("TF32 off", "as torch comes"):

            def run(encode: Callable[[Tensor], Tensor] = encode, regime: str = regime) -> list[Tensor]:
                with exact_float32() if regime == "TF32 off" else nullcontext(), torch.inference_mode():
                    return [encode(batch.to(device)).cpu() for batch in batches]

            yield Contender(name=f"{name}, {regime}", audio_seconds=seconds, run=run)


def best_batch(model: EncodecModel, waveforms: Sequence[Tensor], *, bandwidth_kbps: float, device: str) -> int:
    """Return the batch size at which the peers together are fastest with TF32 off; what runs out of memory loses."""
    speeds: dict[int, float] = {}
    for batch_size in (1, *BATCH_SIZES):
        if batch_size > len(waveforms):
            break
        contenders = peers(model, waveforms, bandwidth_kbps=bandwidth_kbps, device=device, batch_size=batch_size)
        try:
            timings = take_turns([one for one in contenders if "off" in one.name], device=device, repeats=2)
        except RuntimeError as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            break
        speeds[batch_size] = sum(timing.median for timing in timings.values())
    return max(speeds, key=lambda batch_size: speeds[batch_size])


def able(contenders: Sequence[Contender]) -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders whose first call succeeds, and of the others why not: one that fails takes no other along.

    What a failed one held on the device is free again.
    """
    found: list[Contender] = []
    failures: dict[str, str] = {}
    for one in contenders:
        try:
            one.run()
            found.append(one)
        except Exception as error:  # noqa: BLE001 - whatever another package does on somebody's machine
            traceback.print_exc()
            failures[one.name] = in_a_cell(error)
    if failures and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return found, failures


def in_a_cell(error: BaseException) -> str:
    """Name an error on one line, fit for a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".replace("|", "/")


def take_turns(
    contenders: Sequence[Contender], *, device: str, repeats: int, limit_seconds: float = 60
) -> dict[str, Timing]:
    """Time contenders in turn, after a first call of each that is not counted.

    Args:
        contenders: their order changes from turn to turn.
        device: synchronised around each call.
        repeats: turns.
        limit_seconds: no turn begins after it, from the third on.
    """
    for one in contenders:
        one.run()
    seconds: dict[str, list[float]] = {one.name: [] for one in contenders}
    begin = time.perf_counter()
    for turn in range(repeats):
        if turn > 2 and time.perf_counter() - begin > limit_seconds:
            break
        first = turn % len(contenders)
        for one in [*contenders[first:], *contenders[:first]]:
            _synchronise(device)
            start = time.perf_counter()
            one.run()
            _synchronise(device)
            seconds[one.name].append(time.perf_counter() - start)
    return {one.name: _timing(one, seconds[one.name]) for one in contenders}


def agreement(found: Sequence[Codes], expected: Sequence[Codes]) -> float:
    """Return the share of codes that are equal."""
    equal = sum(int((a.codes.int() == b.codes.int()).sum()) for a, b in zip(found, expected, strict=True))
    return equal / sum(codes.codes.numel() for codes in expected)


def agreement_with_peer(found: Sequence[Codes], theirs: Sequence[Tensor]) -> float | None:
    """Return the share of codes that are equal; None where a peer fills up windows, so that frames do not match.

    Args:
        found: ours, of waveforms of one length.
        theirs: one batch, `[..., items, K, T]`.
    """
    batch = theirs[0].flatten(0, -3)
    if batch.shape != (len(found), *found[0].codes.shape):
        return None
    return float((torch.stack([codes.codes.long() for codes in found]) == batch).double().mean())


def ratios(timings: Mapping[str, Timing], *, of: str) -> dict[str, float]:
    """Return how many times faster `of` is than each other one."""
    return {name: timings[of].median / timing.median for name, timing in timings.items() if name != of}


def fp32_ceiling(device: str) -> float:
    """Return the TFLOP/s of the largest plain thing, a product of two large matrices in true float32."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(CEILING_SIZE, CEILING_SIZE, generator=generator).to(device) for _ in range(2))
    contender = Contender(name="product", audio_seconds=2 * CEILING_SIZE**3 / 1e12, run=lambda: a @ b)
    with exact_float32():
        return take_turns([contender], device=device, repeats=CEILING_TURNS)["product"].median


def _timing(contender: Contender, seconds: Sequence[float]) -> Timing:
    speeds = sorted(contender.audio_seconds / taken for taken in seconds)
    return Timing(median=statistics.median(speeds), slowest=speeds[0], fastest=speeds[-1], num_turns=len(speeds))


@cache
def _encoder(model: EncodecModel, bandwidth_kbps: float, device: str, precision: Precision) -> BatchEncoder:
    return BatchEncoder(model, bandwidth_kbps, device, precision)


@cache
def _peer(name: str, model: EncodecModel, *, bandwidth_kbps: float, device: str) -> Callable[[Tensor], Tensor]:
    # Imported here, because the machine may lack them.
    from tests.encodec_core.models import in_meta, in_transformers

    if name == "transformers":
        transformers = in_transformers(model).to(device)
        return lambda batch: transformers.encode(batch, bandwidth=bandwidth_kbps).audio_codes
    meta = in_meta(model).to(device)
    meta.set_target_bandwidth(bandwidth_kbps)
    return lambda batch: torch.cat([codes for codes, _ in meta.encode(batch)], -1)


@cache
def _sources(num_channels: int, rate: int) -> list[Tensor]:
    return [
        synthetic_waveform(SOURCE_SECONDS * rate, num_channels=num_channels, sampling_rate=rate, seed=7000 + index)
        for index in range(NUM_SOURCES)
    ]


def _batched(waveforms: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    by_length = iter(sorted(waveforms, key=lambda waveform: -waveform.shape[-1]))
    while batch := list(itertools.islice(by_length, size)):
        yield batch


def _padded(batch: Sequence[Tensor]) -> list[Tensor]:
    longest = batch[0].shape[-1]
    return [torch.nn.functional.pad(waveform, (0, longest - waveform.shape[-1])) for waveform in batch]


def _seconds(model: EncodecModel, waveforms: Sequence[Tensor]) -> float:
    return sum(waveform.shape[-1] for waveform in waveforms) / model.config.sampling_rate


def _synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
