"""How close encoding comes to what one core can do, and where the rest goes.

    python -m benchmarks.roofline [--quick] [--repeats N] [--audio DIR] [--models MODEL ...] [--results FILE]

The ceilings of the machine are measured in the same run, in turn with the encoder. A busy neighbour lowers both; the
best try of the ceilings and the median of the encoder count, so that the share is never flattered. Times are CPU time,
on one thread. The section is added to `RESULTS.md`, with a plot.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.breakdown import Breakdown, elu_nanoseconds, timed_kernels
from benchmarks.encode import CLIPS, make_models
from benchmarks.flops import count_flops
from benchmarks.machine import RECORDINGS, RESULTS, busy_core_seconds
from benchmarks.peaks import try_bandwidths, try_fp32
from benchmarks.recordings import load_recordings
from benchmarks.roofline_results import CodecShare, Share, section, write_plot
from encodec_core import BatchEncoder, EncodecModel
from encodec_core.fast.native import why_absent
from encodec_core.spans import window_spans

SETTINGS = ("16 × 10 s", "8 × 5 s", "1 × 10 s")
"""Of `benchmarks.encode`; where the time goes is said for the first one."""
QUICK_SETTINGS = ("8 × 5 s", "1 × 10 s")
N_Q = 8


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best tries so far, by way."""

    fp32: dict[str, float] = field(default_factory=dict)
    """GFLOP/s."""
    bandwidths: dict[str, float] = field(default_factory=dict)
    """GB/s."""

    def try_again(self) -> float:
        """Try all once more, and return the highest GFLOP/s of these tries."""
        now = try_fp32()
        _raise(self.fp32, now)
        _raise(self.bandwidths, try_bandwidths())
        return max(now.values())


def _raise(best: dict[str, float], found: dict[str, float]) -> None:
    best.update({name: max(value, best.get(name, 0.0)) for name, value in found.items()})


@torch.inference_mode()
def measure_codec(
    model: EncodecModel, *, ceilings: Ceilings, names: Sequence[str], arguments: argparse.Namespace
) -> CodecShare:
    """Encode in turn with tries of the ceilings."""
    config = model.config
    rate, seconds = config.sampling_rate, {name: CLIPS[name] for name in names}
    bandwidth_kbps = next(kbps for kbps in config.target_bandwidths if config.n_q_for(kbps) == N_Q)
    recordings = load_recordings(
        arguments.audio,
        seconds=max(sum(clips) for clips in seconds.values()),
        sampling_rate=rate,
        num_channels=config.audio_channels,
    )
    encoder = BatchEncoder(model, bandwidth_kbps, "cpu")
    clips = {name: _clips(recordings.waveform, lengths, rate=rate) for name, lengths in seconds.items()}
    for waveforms in clips.values():
        encoder.encode(waveforms)
    times: dict[str, list[float]] = {name: [] for name in names}
    peaks: list[float] = []
    breakdown, broken_down = Breakdown(), 0.0
    for _ in range(arguments.repeats):
        peaks.append(ceilings.try_again())
        for name, waveforms in clips.items():
            times[name].append(_cpu_seconds(encoder, waveforms))
        if why_absent() is None:
            with timed_kernels(breakdown):
                broken_down += _cpu_seconds(encoder, clips[names[0]])
    flops = count_flops(config, n_q=N_Q)
    shares = [
        Share(
            name=name,
            audio_seconds=sum(seconds[name]),
            gflop=1e-9 * flops.total * _encoded_seconds(model, clips[name]),
            cpu_seconds=times[name],
            peaks=peaks,
        )
        for name in names
    ]
    return CodecShare(
        sampling_rate=rate,
        audio=recordings.about,
        flops=flops,
        overlap=_encoded_seconds(model, clips[names[0]]) / sum(seconds[names[0]]),
        shares=shares,
        breakdown=breakdown if why_absent() is None else None,
        breakdown_seconds=broken_down - breakdown.timing_seconds,
        breakdown_audio_seconds=arguments.repeats * sum(seconds[names[0]]),
        elu_nanoseconds=elu_nanoseconds(tries=100) if why_absent() is None else 0.0,
    )


def _clips(waveform: Tensor, seconds: Sequence[float], *, rate: int) -> list[Tensor]:
    lengths = [round(clip_seconds * rate) for clip_seconds in seconds]
    return [clip.contiguous() for clip in torch.split(waveform[:, : sum(lengths)], lengths, 1)]


def _cpu_seconds(encoder: BatchEncoder, waveforms: Sequence[Tensor]) -> float:
    start = time.process_time()
    encoder.encode(waveforms)
    return time.process_time() - start


def _encoded_seconds(model: EncodecModel, waveforms: Sequence[Tensor]) -> float:
    """Seconds that the encoder sees, those twice that two windows share."""
    config = model.config
    spans = [
        span
        for waveform in waveforms
        for span in window_spans(waveform.shape[1], length=config.chunk_length, stride=config.chunk_stride)
    ]
    num_samples = sum(int(span.stop) - int(span.start) for span in spans)
    return num_samples / config.sampling_rate


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="without the longest clips, two turns")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--audio", type=Path, default=RECORDINGS, help="real recordings")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="folders or hub ids; default: random weights")
    parser.add_argument("--results", type=Path, default=RESULTS, help="takes the section; the plot goes beside it")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = min(arguments.repeats, 2)
    torch.set_num_threads(1)
    if why_absent() is not None:
        print(f"no kernels, so no account of where the time goes: {why_absent()}")
    ceilings = Ceilings()
    names = QUICK_SETTINGS if arguments.quick else SETTINGS
    start, own, busy = time.perf_counter(), time.process_time(), busy_core_seconds()
    with tempfile.TemporaryDirectory() as folder:
        codecs = [
            measure_codec(
                EncodecModel.from_pretrained(model).requires_grad_(False),
                ceilings=ceilings,
                names=names,
                arguments=arguments,
            )
            for model in arguments.models or make_models(Path(folder))
        ]
    neighbours = (busy_core_seconds() - busy - time.process_time() + own) / (time.perf_counter() - start)
    text = section(
        codecs,
        fp32=ceilings.fp32,
        bandwidths=ceilings.bandwidths,
        command=f"python -m benchmarks.roofline {' '.join(sys.argv[1:])}".rstrip(),
        neighbour_cores=max(0.0, neighbours),
    )
    print(text)
    has_plot = write_plot(
        codecs, fp32=ceilings.fp32, path=arguments.results.resolve().parent / "plots" / "roofline.png"
    )
    with arguments.results.open("a", encoding="utf-8") as file:
        file.write(text)
        if has_plot:
            file.write("\n![Where the time of encoding goes, and the fp32 wall](plots/roofline.png)\n")
        else:
            print("no plot: matplotlib is missing, or there are no kernels; matplotlib is in the extra `report`")


if __name__ == "__main__":
    main()
