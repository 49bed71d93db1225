"""What the roofline benchmark found, as a section of `RESULTS.md` and as a plot."""

import importlib.util
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.breakdown import Breakdown
from benchmarks.flops import Flops
from benchmarks.machine import describe_machine

__all__ = ["CodecShare", "Share", "section", "write_plot"]

NUM_LAYERS = 8
"""Listed, those that take most time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Clips of one setting, encoded once a turn."""

    name: str
    audio_seconds: float
    gflop: float
    """Of one call."""
    cpu_seconds: Sequence[float]
    peaks: Sequence[float]
    """GFLOP/s of the best multiply-adds that were tried in the same turn."""

    @property
    def milliseconds(self) -> float:
        """Median, per second of audio."""
        return 1000 * statistics.median(self.cpu_seconds) / self.audio_seconds

    @property
    def gflops(self) -> float:
        """Median of GFLOP/s."""
        return self.gflop / statistics.median(self.cpu_seconds)

    @property
    def share_in_turn(self) -> float:
        """Median of the shares of what the same turn's tries reached."""
        pairs = zip(self.cpu_seconds, self.peaks, strict=True)
        return statistics.median(self.gflop / seconds / peak for seconds, peak in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecShare:
    """All settings of one codec."""

    sampling_rate: int
    audio: str
    flops: Flops
    overlap: float
    """Seconds that the encoder sees, over seconds of audio."""
    shares: Sequence[Share]
    breakdown: Breakdown | None
    """Of the first setting; None without kernels."""
    breakdown_seconds: float
    """CPU time of all that was broken down."""
    breakdown_audio_seconds: float
    elu_nanoseconds: float
    """Of one number, in the first cache."""

    def parts(self) -> dict[str, tuple[float, float]]:
        """Return of each part milliseconds, and GFLOP, per second of audio."""
        assert self.breakdown is not None, "there are kernels"
        per_second = {part: spent / self.breakdown_audio_seconds for part, spent in self.breakdown.seconds.items()}
        per_second["Python and copies"] = self.breakdown_seconds / self.breakdown_audio_seconds - sum(
            per_second.values()
        )
        # Where there are norms, they apply the ELU, and else convolutions do.
        inside = 1e-9 * self.elu_nanoseconds * self.breakdown.num_activated / self.breakdown_audio_seconds
        per_second["norms" if "norms" in per_second else "convolutions"] -= inside
        per_second["ELU"] = per_second.get("ELU", 0.0) + inside
        gflop = {
            "convolutions": self.flops.convolutions,
            "LSTM": self.flops.lstm,
            "RVQ": self.flops.quantizer,
        }
        return {part: (1e3 * s, 1e-9 * self.overlap * gflop.get(part, 0.0)) for part, s in per_second.items()}


def section(
    codecs: Sequence[CodecShare],
    *,
    fp32: Mapping[str, float],
    bandwidths: Mapping[str, float],
    command: str,
    neighbour_cores: float,
) -> str:
    """The text for `RESULTS.md`."""
    peak = max(fp32.values())
    malloc = ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_"))
    head = (
        f"\n## Roofline, {date.today()}\n\n`{command}`; {describe_machine(packages=('torch',))}. fp32, n_q = 8, one "
        f"thread, CPU time, {f'allocator with {malloc}' if malloc else 'default allocator'}; other work took "
        f"{neighbour_cores:.1f} of {os.cpu_count()} cores meanwhile. Ceilings are the best of tries in every turn, the "
        "encoder is the median of its turns, so that a neighbour makes the share smaller and never larger; beside it "
        "the share of what the tries of the same turn reached.\n\n"
        f"| Ceiling of one core | |\n| --- | --- |\n"
    )
    ceilings = [f"| fp32, {way} | {value:.1f} GFLOP/s |" for way, value in fp32.items()]
    ceilings += [f"| {way} | {value:.1f} GB/s |" for way, value in bandwidths.items()]
    return head + "\n".join(ceilings) + "\n" + "".join(_codec(codec, peak=peak) for codec in codecs)


def _codec(codec: CodecShare, *, peak: float) -> str:
    flops = codec.flops
    again = "" if codec.overlap < 1.0001 else f" Windows overlap: it sees {codec.overlap:.3f} s for a second of audio."
    head = (
        f"\n### {codec.sampling_rate // 1000} kHz\n\n{codec.audio[:1].upper()}{codec.audio[1:]}. A second that the "
        f"encoder sees takes {1e-9 * flops.encoder:.2f} GFLOP (convolutions {1e-9 * flops.convolutions:.2f}, LSTM "
        f"{1e-9 * flops.lstm:.2f}), the quantizer {1e-9 * flops.quantizer:.2f}.{again}\n\n"
        "| Clips | ms/s | × real time | Wall ms/s | GFLOP/s | Share of the wall | of the same turn's |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    lines = [
        f"| {share.name} | {share.milliseconds:.1f} | {1000 / share.milliseconds:.1f} "
        f"| {1000 * share.gflop / share.audio_seconds / peak:.1f} | {share.gflops:.1f} "
        f"| **{share.gflops / peak:.0%}** | {share.share_in_turn:.0%} |"
        for share in codec.shares
    ]
    return head + "\n".join(lines) + "\n" + ("" if codec.breakdown is None else _parts(codec, peak=peak))


def _parts(codec: CodecShare, *, peak: float) -> str:
    parts = codec.parts()
    total = sum(milliseconds for milliseconds, _ in parts.values())
    lines = [
        f"\nWhere the time of {codec.shares[0].name} goes; the ELU inside convolutions or norms is counted in numbers, "
        f"at {codec.elu_nanoseconds:.3f} ns each in the first cache, and taken from them.\n",
        "| Part | ms/s | of the time | GFLOP/s | of the wall |\n| --- | --- | --- | --- | --- |",
    ]
    for part, (milliseconds, gflop) in sorted(parts.items(), key=lambda item: -item[1][0]):
        rate = 1000 * gflop / milliseconds
        reached = f"{rate:.1f} | {rate / peak:.0%}" if gflop else " | "
        lines.append(f"| {part} | {milliseconds:.2f} | {milliseconds / total:.0%} | {reached} |")
    lines.append(f"\nSlowest convolutions, ELU included where one follows.\n\n{_layers(codec, peak=peak)}")
    return "\n".join(lines)


def _layers(codec: CodecShare, *, peak: float) -> str:
    assert codec.breakdown is not None, "there are kernels"
    seconds, flops = codec.breakdown.layer_seconds, codec.breakdown.layer_flops
    lines = ["| Channels, kernel / stride | ms/s | GFLOP/s | of the wall |\n| --- | --- | --- | --- |"]
    for layer in sorted(seconds, key=lambda name: -seconds[name])[:NUM_LAYERS]:
        rate = 1e-9 * flops[layer] / seconds[layer]
        milliseconds = 1000 * seconds[layer] / codec.breakdown_audio_seconds
        lines.append(f"| {layer} | {milliseconds:.2f} | {rate:.1f} | {rate / peak:.0%} |")
    return "\n".join(lines) + "\n"


def write_plot(codecs: Sequence[CodecShare], *, fp32: Mapping[str, float], path: Path) -> bool:
    """Draw the milliseconds of each part, one bar a codec, and the wall as a line across it.

    Returns:
        False where matplotlib is missing, or there were no kernels to time.
    """
    if importlib.util.find_spec("matplotlib") is None or any(codec.breakdown is None for codec in codecs):
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.6 * len(codecs)), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(part for codec in codecs for part in codec.parts()))
    for place, codec in enumerate(codecs):
        left = 0.0
        for color, name in enumerate(names):
            milliseconds, _ = codec.parts().get(name, (0.0, 0.0))
            axes.barh(place, milliseconds, left=left, color=f"C{color}", label=name if place == 0 else "_")
            left += milliseconds
        wall = 1e-6 * codec.overlap * codec.flops.total / max(fp32.values())
        axes.vlines(wall, place - 0.4, place + 0.4, colors="black", label="fp32 wall" if place == 0 else "_")
    axes.set_yticks(range(len(codecs)), [f"{codec.sampling_rate // 1000} kHz" for codec in codecs])
    axes.set_xlabel("CPU ms per second of audio")
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return True
