"""What the job benchmark found, as a section of `RESULTS.md` and as a plot."""

import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.ceilings import Ceiling
from benchmarks.corpora import Corpus
from benchmarks.machine import describe_machine
from benchmarks.peers import PIECE_SECONDS
from benchmarks.process_tree import Usage
from tokenizer_jobs.machine import available_cpus

__all__ = ["OURS", "CorpusResult", "Run", "System", "section", "write_plot"]

OURS = "ours"
_TITLES = {
    OURS: "**ours**",
    "datasets": "datasets.map, transformers",
    "loop": "loop, encodec",
    "ray_data": "Ray Data, transformers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One competitor, set up."""

    name: str
    allocator: str
    batch_seconds: float | None = None
    """Padded audio in a batch; None: not ours to say."""
    whole_seconds: float | None = None
    """Longer recordings are cut into pieces; 0 cuts all that are longer than a piece."""

    def describe(self) -> str:
        """Say how it was set up."""
        if self.batch_seconds is None or self.whole_seconds is None:
            return "as it comes"
        cut = f"cut above {self.whole_seconds:g} s" if self.whole_seconds else f"cut into {PIECE_SECONDS} s"
        return f"one at a time, {cut}" if self.name == "loop" else f"batches of {self.batch_seconds:.3g} s, {cut}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a system over a corpus."""

    usage: Usage
    size_bytes: int
    """Of what it wrote."""
    stage_seconds: Mapping[str, float]
    """Wall time in each stage, over all units; ours alone."""
    start_seconds: float
    """From the start of the command to that of the first unit; ours alone."""
    end_seconds: float
    """From the last commit to the end of the command; ours alone."""
    num_rows: int
    """Items that have codes; ours alone."""

    @property
    def start_cpu_seconds(self) -> float:
        """CPU time until the first unit began, to half a second."""
        return self.usage.cpu_seconds_until(self.start_seconds)

    def __str__(self) -> str:
        usage = self.usage
        stages = "".join(f", {stage} {seconds:.1f} s" for stage, seconds in self.stage_seconds.items())
        return (
            f"{usage.wall_seconds:.1f} s, CPU {usage.cpu_seconds:.1f} s, peak {usage.peak_bytes / 1e6:.0f} MB, "
            f"{self.size_bytes / 1e3:.0f} kB, neighbours {usage.neighbour_cores:.1f} cores{stages}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusResult:
    """One corpus, all systems, all turns."""

    corpus: Corpus
    runs: Mapping[System, Sequence[Run]]
    ceilings: Mapping[str, Sequence[Ceiling]]
    """Of `encode` and `decode`, one a turn."""
    differing: Mapping[System, tuple[int, int]]
    """Codes that differ from ours, of how many."""

    def median(self, system: System, value: Callable[[Run], float]) -> float:
        """Median over the turns."""
        return statistics.median(value(run) for run in self.runs[system])

    def stage_seconds(self, system: System, stage: str) -> float:
        """Median of the time in one stage."""
        return self.median(system, lambda run: run.stage_seconds.get(stage, 0.0))

    def ceiling(self, stage: str) -> float:
        """Times real time of one stage alone, the median."""
        return statistics.median(found.times_real_time for found in self.ceilings[stage])

    def ceiling_cpu(self, stage: str) -> float:
        """CPU milliseconds per second of audio of one stage alone, the median."""
        return statistics.median(found.cpu_milliseconds for found in self.ceilings[stage])


def section(results: Sequence[CorpusResult], *, command: str) -> str:
    """The text for `RESULTS.md`."""
    machine = describe_machine(
        packages=("torch", "transformers", "encodec", "datasets", "ray", "soundfile", "soxr", "pyarrow")
    )
    cores = available_cpus()
    head = (
        f"\n## Files to codes, {date.today()}\n\n`{command}`; {machine}. 24 kHz model with random weights, 6 kbps "
        f"(n_q = 8), fp32, {cores} cores. Every run is a command from start to exit with everything it starts. Wall "
        "seconds, median (least to most) of the turns; seconds of audio per second; wall time over ours, within each "
        "turn; CPU ms of all processes per second of audio, and CPU time over ours; highest sum of proportional set "
        "sizes; kB written; codes that are not ours, of those of the files. A peer that cuts gives the codes of the "
        "pieces, not of the file; its batch and cut are those that encoded a part of the corpus fastest.\n"
    )
    return head + "".join(_corpus_section(result, cores=cores) for result in results)


def _corpus_section(result: CorpusResult, *, cores: int) -> str:
    corpus = result.corpus
    head = (
        f"\n### {corpus.name}\n\n{corpus.about}: {corpus.num_files} files, {corpus.audio_seconds / 3600:.3g} hours, "
        f"{corpus.size_bytes / 1e6:.1f} MB.\n\n"
        "| System | Allocator | Set up | Wall s | × real time | over ours | CPU ms/s | over ours | Peak MB | kB "
        f"| differ |\n|{' --- |' * 11}\n"
    )
    lines = [_line(result, system) for system in result.runs]
    taken = statistics.median(run.usage.neighbour_cores for runs in result.runs.values() for run in runs)
    ours = next((system for system in result.runs if system.name == OURS), None)
    lines.append(f"\nOther work on the machine took {taken:.1f} of {cores} cores meanwhile (median of the runs).\n")
    return head + "".join(lines) + ("" if ours is None else _about_ours(result, ours, cores=cores))


def _line(result: CorpusResult, system: System) -> str:
    seconds, runs = result.corpus.audio_seconds, result.runs[system]
    walls = [run.usage.wall_seconds for run in runs]
    cpu = 1000 * result.median(system, lambda run: run.usage.cpu_seconds) / seconds
    cells = [
        _TITLES[system.name],
        system.allocator,
        system.describe(),
        _spread(walls, digits=1),
        f"{seconds / statistics.median(walls):.1f}",
        _over_ours(result, system, lambda run: run.usage.wall_seconds),
        f"{cpu:.0f}",
        _over_ours(result, system, lambda run: run.usage.cpu_seconds),
        f"{result.median(system, lambda run: run.usage.peak_bytes) / 1e6:.0f}",
        f"{result.median(system, lambda run: run.size_bytes) / 1e3:.0f}",
        "{} of {}".format(*result.differing[system]) if system in result.differing else "",
    ]
    return f"| {' | '.join(cells)} |\n"


def _over_ours(result: CorpusResult, system: System, value: Callable[[Run], float]) -> str:
    ours = next((runs for other, runs in result.runs.items() if other.name == OURS), None)
    if ours is None or system.name == OURS:
        return ""
    ratios = [value(their) / value(our) for their, our in zip(result.runs[system], ours, strict=True)]
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def _about_ours(result: CorpusResult, ours: System, *, cores: int) -> str:
    seconds = result.corpus.audio_seconds
    wall = result.median(ours, lambda run: run.usage.wall_seconds)
    start = result.median(ours, lambda run: run.start_seconds)
    end = result.median(ours, lambda run: run.end_seconds)
    stages = ", ".join(
        f"{stage} {result.stage_seconds(ours, stage):.1f} s" for stage in result.runs[ours][0].stage_seconds
    )
    encode_seconds = result.stage_seconds(ours, "encode")
    encode, decode = result.ceiling("encode"), result.ceiling("decode")
    bound = "encode" if encode <= decode else "decode"
    alone = result.ceiling_cpu("encode") + result.ceiling_cpu("decode")
    cpu = 1000 * result.median(ours, lambda run: run.usage.cpu_seconds - run.start_cpu_seconds) / seconds
    while_units = seconds / (wall - start - end)
    start_cpu = result.median(ours, lambda run: run.start_cpu_seconds)
    rows = result.median(ours, lambda run: run.num_rows)
    core_seconds = cores * (wall - start - end)
    return (
        f"\nOurs: {rows:.0f} rows; {start:.1f} s (CPU {start_cpu:.1f} s) until the first unit, {end:.1f} s after "
        f"the last commit; stages, added over units: {stages}; encoding {encode_seconds:.1f} s of {core_seconds:.1f} s "
        f"that the cores had meanwhile. Alone, on {cores} cores: encode {encode:.1f} × real time "
        f"(CPU {result.ceiling_cpu('encode'):.1f} ms/s), decode {decode:.0f} × "
        f"(CPU {result.ceiling_cpu('decode'):.1f} ms/s). Bound by **{bound}**: ours reaches "
        f"**{seconds / wall / min(encode, decode):.0%}** of it over the whole command, "
        f"**{while_units / min(encode, decode):.0%}** while units run, "
        f"{while_units * (1 / encode + 1 / decode):.0%} of what decoding on the same cores leaves of it. CPU time from "
        f"the first unit on: {cpu:.1f} ms/s, {cpu / alone - 1:+.0%} on encode and decode alone.\n"
    )


def _spread(values: Sequence[float], *, digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def write_plot(results: Sequence[CorpusResult], *, path: Path) -> bool:
    """Draw times real time of each system, peers under their better allocator, the bound as a line over each corpus.

    Returns:
        False where matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    names = [name for name in _TITLES if any(system.name == name for system in results[0].runs)]
    figure = Figure(figsize=(1.5 + 1.6 * len(results), 2.8), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        heights = [_best_rate(result, name) for result in results]
        positions = [index + (place - (len(names) - 1) / 2) * width for index in range(len(results))]
        axes.bar(positions, heights, width, label=_TITLES[name].strip("*"))
    for index, result in enumerate(results):
        bound = min(result.ceiling("encode"), result.ceiling("decode"))
        label = "encode or decode alone" if index == 0 else "_"  # the legend names it once
        axes.hlines(bound, index - 0.45, index + 0.45, colors="black", linestyles="dashed", label=label)
    axes.set_xticks(range(len(results)), [result.corpus.name for result in results])
    axes.set_ylabel("× real time")
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return True


def _best_rate(result: CorpusResult, name: str) -> float:
    walls = [result.median(system, lambda run: run.usage.wall_seconds) for system in result.runs if system.name == name]
    return result.corpus.audio_seconds / min(walls)
