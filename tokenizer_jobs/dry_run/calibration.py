"""Do about a minute of the job on this machine and predict the whole.

sample ──▶ `run` on a temporary output, inline ──▶ commits with the seconds of each stage ──▶ costs ──▶ forecast

The sample goes the whole way of the job: read, decode, encode, write, commit, snapshot. What it teaches is fitted by
stage (`costs`) and applied to the units of the real plan; what comes around the units is timed beside it, by the real
command over next to nothing.

By the clock all this is true for as long as the machine is as busy with other work as it was during the sample (the
same job took from 1 to 2.4 times as long on two shared cores). CPU seconds are not, so they tell that part: what the
same work would take on all cores and nothing else on them.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tokenizer_jobs.commits import Commit, read_commits
from tokenizer_jobs.config import JobConfig, Selection, Shards
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.dry_run.costs import (
    ENCODE,
    Machine,
    MeasuredUnit,
    UnitWork,
    fit_with_first,
    job_seconds,
    stage_seconds,
)
from tokenizer_jobs.dry_run.sampling import sample_items, sample_source, unit_minutes
from tokenizer_jobs.dry_run.timing import (
    ASSUMED_RAY_SECONDS,
    Spent,
    command_spent,
    cpu_clock,
    decode_cpu_seconds,
    process_seconds,
    ray_seconds,
)
from tokenizer_jobs.encoding import choose_device, limit_torch_threads
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.executor_choice import uses_ray
from tokenizer_jobs.executors import GPU_LANES
from tokenizer_jobs.item_columns import user_schema_of
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.job import run
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.planning import read_units
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import Item
from tokenizer_jobs.results import Calibration, RunResult
from tokenizer_jobs.source_config import DemoSource
from tokenizer_jobs.sources import Source
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.wording import counts_text

__all__ = ["Workload", "calibrate", "gpus_in_use", "seconds_on"]

SAMPLE_SECONDS = 60.0
"""Of work that the sample should take."""
LEAST_AUDIO_SECONDS = 30.0
SEED = 0
MORE_GPUS = (1, 2, 4, 8)
OTHER = "commit"
"""What a unit takes besides its named stages: publishing its files, above all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be predicted."""

    config: JobConfig
    facts: CodecFacts
    source: Source
    items: ItemTable
    """That are planned."""
    units: Sequence[UnitWork]
    """Of the plan, in order."""
    listing_seconds: float
    """That listing, comparing, selecting and cutting units took."""
    encode_seconds: float
    """Of one second of audio, by a trial; it decides how large the sample is."""

    @property
    def audio_seconds(self) -> float:
        """Of all units."""
        return sum(unit.audio_seconds for unit in self.units)

    @property
    def with_ray(self) -> bool:
        """Whether the job takes Ray."""
        return uses_ray(self.config, seconds_left=self.audio_seconds)

    @property
    def on_gpu(self) -> bool:
        """Whether the job encodes on GPUs."""
        return choose_device(self.config.runtime.device) == "cuda"

    @property
    def machine(self) -> Machine:
        """This one, as the job uses it."""
        encoders, cpus = self.config.runtime.encoders, available_cpus()
        if not self.on_gpu:
            return Machine(lanes=cpus if encoders == "auto" else encoders)
        if self.with_ray:
            return Machine(lanes=cpus, gpus=torch.cuda.device_count())
        return Machine(lanes=GPU_LANES if encoders == "auto" else encoders, gpus=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """The sample's run."""

    result: RunResult
    units: Sequence[MeasuredUnit]
    """In the order in which they began."""
    cpu_seconds: float
    """Of its units."""


def calibrate(work: Workload, *, sample_seconds: float = SAMPLE_SECONDS) -> Calibration:
    """Do a part of the job and predict the whole.

    Args:
        work: The job.
        sample_seconds: Of work that the sample should take.

    Raises:
        ConfigError: there is nothing to do, the run would be refused, or every item of the sample is a reject.
    """
    if not work.units:
        raise ConfigError("--calibrate has nothing to time: no item is new; leave it out")
    budget = max(LEAST_AUDIO_SECONDS, sample_seconds * work.machine.lanes / max(work.encode_seconds, 1e-6))
    sample = sample_items(work.items, audio_seconds=budget, seed=SEED)
    with tempfile.TemporaryDirectory(prefix="tokenizer-jobs-calibration-") as name:
        folder = Path(name)
        start = command_spent(_start_config(work, folder / "start"), folder=folder)
        measured = _measure(work, sample, folder, budget=budget)
    target = AudioTarget.for_codec(work.facts, audio=work.config.recipe.audio, filters=work.config.selection.filters)
    decode_cpu = decode_cpu_seconds(sample, source=work.source, target=target)
    return _forecast(work, measured, start=start, decode_cpu=decode_cpu)


def gpus_in_use(calibration: Calibration, work: Workload) -> int:
    """GPUs of this machine that the job was timed on."""
    return work.machine.gpus if calibration.device == "cuda" else 0


def seconds_on(work: Workload, calibration: Calibration, *, cores: int, gpus: int) -> float | None:
    """How long the job takes with so many cores and GPUs; None where this machine cannot tell."""
    if (gpus > 0) != (calibration.device == "cuda"):
        return None
    lanes = max(1, round(calibration.lanes * cores / available_cpus()))
    return job_seconds(
        work.units,
        calibration.stages,
        machine=Machine(lanes=lanes, gpus=gpus),
        startup_seconds=calibration.startup_seconds,
    )


def _ray_seconds(work: Workload) -> float:
    """What Ray adds to the start: its encoders are processes of their own, which begin when it is there."""
    if not work.with_ray:
        return 0.0
    device = "cuda" if work.on_gpu else "cpu"
    return ray_seconds(work.config.runtime) + process_seconds(work.config.recipe.codec, device=device)


def _start_config(work: Workload, output: Path) -> JobConfig:
    """A job that starts all that the job starts in its process, for a clip or two made by code."""
    lanes = work.machine.lanes
    # Filters, recipes of channels and the like are left out: they could refuse these clips.
    return JobConfig.model_validate(
        {
            "output": str(output),
            "recipe": {"codec": work.config.recipe.codec},
            "selection": Selection(source=DemoSource(), limit=lanes, shards=Shards(unit_minutes=1e-3)),
            "runtime": work.config.runtime.model_copy(update={"executor": "inline", "encoders": lanes}),
        }
    )


def _sample_config(work: Workload, sample: Sequence[Item], folder: Path, *, budget: float) -> JobConfig:
    selection, lanes = work.config.selection, work.machine.lanes
    source = sample_source(
        sample, source=selection.source, user_schema=user_schema_of(work.items.schema), folder=folder
    )
    minutes = unit_minutes(work.audio_seconds / len(work.units), audio_seconds=budget, lanes=lanes)
    runtime = work.config.runtime.model_copy(update={"executor": "inline", "encoders": lanes})
    shards = selection.shards.model_copy(update={"unit_minutes": minutes})
    return work.config.model_copy(
        update={
            "output": str(folder / "output"),
            "selection": Selection(source=source, filters=selection.filters, shards=shards),
            "runtime": runtime,
        }
    )


def _measure(work: Workload, sample: Sequence[Item], folder: Path, *, budget: float) -> _Sample:
    begin = cpu_clock()
    _run(_start_config(work, folder / "around"))
    around = cpu_clock() - begin
    config = _sample_config(work, sample, folder, budget=budget)
    begin = cpu_clock()
    result = _run(config)
    cpu_seconds = cpu_clock() - begin - around
    if not result.rows:
        raise ConfigError(
            f"every one of {result.items} sampled items is a reject ({counts_text(result.rejects_by_reason)}), so "
            "there is nothing to time; mend the source or the filters first"
        )
    storage = Storage.at(config.output)
    audio = {unit.unit_id: unit.estimated_seconds for unit in read_units(storage, 1)}
    commits = sorted(read_commits(storage, 1), key=lambda commit: commit.started_at)
    units = [_measured(commit, audio[commit.unit_id], on_gpu=work.on_gpu) for commit in commits]
    return _Sample(result=result, units=units, cpu_seconds=max(cpu_seconds, 0.0))


def _run(config: JobConfig) -> RunResult:
    before = torch.get_num_threads()
    try:
        return run(config)
    finally:
        limit_torch_threads(before)


def _measured(commit: Commit, audio_seconds: float, *, on_gpu: bool) -> MeasuredUnit:
    stages = {name: seconds for name, seconds in commit.stage_seconds.items() if name != "encode_wait"}
    if not on_gpu:  # where units share a GPU, the rest is mostly waiting for each other
        whole = (commit.finished_at - commit.started_at).total_seconds()
        stages[OTHER] = max(0.0, whole - sum(stages.values()))
    return MeasuredUnit(items=commit.num_items, audio_seconds=audio_seconds, stages=stages)


def _forecast(work: Workload, sample: _Sample, *, start: Spent, decode_cpu: float) -> Calibration:
    machine, result = work.machine, sample.result
    # What a lane's first unit takes beyond the others is waiting for its decoder to start, which `start` has.
    costs, _ = fit_with_first(sample.units, lanes=machine.lanes)
    startup = work.listing_seconds + start.seconds + _ray_seconds(work)
    per_stage = stage_seconds(work.units, costs)
    audio = sum(unit.audio_seconds for unit in sample.units)
    sampled = sum(stage_seconds(sample.units, costs).values())
    work_cpu = sample.cpu_seconds * sum(per_stage.values()) / sampled if sampled else 0.0

    def seconds(
        *, lanes: int = machine.lanes, gpus: int = machine.gpus, stages: frozenset[str] = frozenset(costs)
    ) -> float:
        chosen = {name: cost for name, cost in costs.items() if name in stages}
        return job_seconds(work.units, chosen, machine=Machine(lanes=lanes, gpus=gpus), startup_seconds=startup)

    if machine.gpus:
        by_gpus = {number: seconds(gpus=number) for number in MORE_GPUS}
    else:
        by_gpus = {0: seconds(stages=frozenset(costs) - {ENCODE})}
    return Calibration(
        items=result.items,
        audio_seconds=audio,
        elapsed_seconds=result.elapsed_seconds,
        rejects=result.rejects,
        device="cuda" if machine.gpus else "cpu",
        lanes=machine.lanes,
        startup_seconds=startup,
        stages=costs,
        stage_seconds=per_stage,
        bound_stage=_bound_stage(per_stage, machine),
        decode_cpu_per_audio_second=decode_cpu,
        encode_per_audio_second=sum(unit.stages.get(ENCODE, 0.0) for unit in sample.units) / audio if audio else 0.0,
        predicted_seconds=seconds(),
        alone_seconds=_alone_seconds(work, work_cpu, seconds=seconds(), startup=startup),
        cpu_seconds=work_cpu + start.cpu_seconds + work.listing_seconds,
        twice_cores_seconds=seconds(lanes=2 * machine.lanes),
        gpus_seconds=by_gpus,
        assumptions=_assumptions(work),
    )


def _alone_seconds(work: Workload, work_cpu: float, *, seconds: float, startup: float) -> float | None:
    """The least where nothing else runs: the units' CPU seconds on all cores, and a start as much faster."""
    if work.on_gpu or work.with_ray or work.machine.lanes < available_cpus() or seconds <= startup:
        return None
    faster = min(1.0, work_cpu / available_cpus() / (seconds - startup))
    return faster * seconds


def _bound_stage(per_stage: dict[str, float], machine: Machine) -> str:
    shares = {
        name: seconds / (machine.gpus if name == ENCODE and machine.gpus else machine.lanes)
        for name, seconds in per_stage.items()
    }
    return max(shares, key=lambda name: shares[name])


def _assumptions(work: Workload) -> list[str]:
    found = [
        "the machine stays as busy with other work as it was now",
        "more cores, or GPUs, are as fast as these, and storage keeps up with them",
        "files are written as fast as to this machine's folder for temporary files",
    ]
    if work.with_ray:
        found.append("Ray's workers decode and encode as fast as the threads of this process")
    if work.with_ray and (work.config.runtime.ray_address != "auto"):
        found.append(f"the cluster has one machine like this one, and answers within {ASSUMED_RAY_SECONDS:g} s")
    if not work.on_gpu:
        found.append("with GPUs encoding would cost nothing: a bound, not a prediction")
    return found
