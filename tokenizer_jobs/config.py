"""The job file, one frozen pydantic tree.

`recipe` decides an item's codes, `selection` which items and how they are grouped, `runtime` only speed.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.yaml_files import Frozen, OutputFile

__all__ = [
    "AudioRecipe",
    "CodecRecipe",
    "Filters",
    "JobConfig",
    "Recipe",
    "Runtime",
    "Selection",
    "Shards",
    "is_own_codec",
]

Auto = Literal["auto"]

_CLASS = re.compile(r"[^\W\d][\w.]*:\w+")


def is_own_codec(model: str) -> bool:
    """Whether `recipe.codec.model` names a class, `package.module:Class`, in the place of a model of EnCodec."""
    return _CLASS.fullmatch(model) is not None


class CodecRecipe(Frozen):
    """Which codec, and how it is used."""

    model: str = "facebook/encodec_24khz"
    """Hub id, local folder, a `.th` file, `demo` (small, inside the package), or a codec of your own,
    `package.module:Class`."""
    revision: str | None = None
    """Commit or tag of a hub id; null takes the hub's default."""
    bandwidth_kbps: float = Field(default=6.0, gt=0)
    """One of the model's bandwidths in kbit/s; it decides the number of codebooks."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the convolutions; only fp32 gives the reference's codes."""


class AudioRecipe(Frozen):
    """How a file becomes a waveform at the codec's rate."""

    resampler: Literal["soxr_hq", "reference"] = "soxr_hq"
    """soxr's HQ, or the sinc-Hann kernel of EnCodec's own `convert_audio`."""
    channels: Literal["auto", "mono", "stereo", "first", "left", "right", "each"] = "auto"
    """auto: mean to a mono codec, mono duplicated to a stereo codec, more than 2 channels are a reject. each: every
    channel is a row of its own."""
    long_audio: Literal["exact", "restart"] = "exact"
    """exact: codes equal those of the whole file, however long. restart: every slice is encoded afresh."""
    slice_seconds: float | None = Field(default=None, gt=0)
    """Audio in one row, rounded to whole frames (to whole windows of the 48 kHz codec); null: one row per item."""
    on_truncated: Literal["reject", "keep"] = "reject"
    """What to do with audio that is shorter than its header says; kept rows are flagged `truncated`."""

    @model_validator(mode="after")
    def _restart_has_slices(self) -> Self:
        if self.long_audio == "restart" and self.slice_seconds is None:
            raise ValueError("long_audio = restart needs slice_seconds, after which encoding starts afresh")
        return self


class Recipe(Frozen):
    """Everything that decides an item's codes; hashed into every file."""

    codec: CodecRecipe = CodecRecipe()
    audio: AudioRecipe = AudioRecipe()


class Filters(Frozen):
    """Items outside these bounds are rejects of stage `filter`."""

    min_seconds: float | None = Field(default=None, gt=0)
    """Shortest duration that is tokenized; null: any."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Longest duration that is tokenized; null: any."""
    min_sample_rate: int | None = Field(default=None, gt=0)
    """Lowest sample rate of a source in Hz; null: any."""
    max_silent_fraction: float | None = Field(default=None, ge=0, le=1)
    """Largest share of 20 ms blocks below -60 dB; of channels that are rows, the least silent counts. null: any."""
    max_clipped_fraction: float | None = Field(default=None, ge=0, le=1)
    """Largest share of samples at full scale; of channels that are rows, the least clipped counts. null: any."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_seconds is not None and self.max_seconds is not None and self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds = {self.min_seconds} is above max_seconds = {self.max_seconds}")
        return self


class Shards(Frozen):
    """How items are grouped and stored."""

    format: Literal["parquet", "arrow"] = "parquet"
    """parquet, or arrow (IPC files)."""
    unit_minutes: Auto | Annotated[float, Field(gt=0)] = "auto"
    """Minutes of audio in one work unit; auto: total / 1024, kept between 2 minutes and 24 hours."""


class Selection(Frozen):
    """Which items, and how they are grouped."""

    source: SourceConfig
    include: tuple[str, ...] | None = None
    """Globs on ids, such as `books/**`: items that match none are left out; null: all are in."""
    exclude: tuple[str, ...] = ()
    """Globs on ids: items that match one are left out."""
    sample: float | None = Field(default=None, gt=0, le=1)
    """Share of the items, drawn by a hash of their ids, for a trial run; null: all."""
    seed: int = 0
    """Of `sample`: another seed draws other items."""
    limit: int | None = Field(default=None, gt=0)
    """At most so many items in the output in all, the first of the plan's order; null: all."""
    deduplicate: bool = False
    """Whether only the first of items with the same bytes is tokenized; the others are rejects of stage `filter`."""
    filters: Filters = Filters()
    max_reject_fraction: float | None = Field(default=None, ge=0, le=1)
    """The job fails when more than this share of its items are rejects (filtered ones not counted); null: never."""
    shards: Shards = Shards()


class Runtime(Frozen):
    """Changes only speed."""

    executor: Literal["auto", "inline", "ray"] = "auto"
    """inline: this process; ray: pinned actors; auto: ray where it pays."""
    ray_address: str = "auto"
    """auto: RAY_ADDRESS, or the cluster of the Ray job we are in, else a private local Ray."""
    encoders: Auto | Annotated[int, Field(gt=0)] = "auto"
    """Number of encoder actors; more than GPUs share them evenly. auto: one per GPU, else one per CPU."""
    gpus_per_encoder: Auto | Annotated[float, Field(ge=0.01, le=1)] = "auto"
    """Share of a GPU that an encoder takes, for clusters that grow: encoders that find none wait for nodes to come.
    auto: a whole one, or less where `encoders` is more than the GPUs that are there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where encoders run."""
    batch_seconds: Auto | Annotated[float, Field(gt=0)] = "auto"
    """Audio encoded in one call, at most; fewer than 16 long rows may be more. auto: 120 on a CPU, 2400 on a GPU. No
    call holds more than 256 MiB of several rows. What is too long to be held is encoded in stretches, which changes no
    code."""
    decode_tasks: Auto | Annotated[int, Field(gt=0)] = "auto"
    """Decode tasks per work unit in flight, each with a fixed share of the unit."""
    decode_cpus: float = Field(default=0.25, ge=0.25)
    """CPUs that one decode task reserves."""
    decode_gigabytes: float = Field(default=4.0, gt=0)
    """Memory that one decode worker may take before the record in its hands is suspected."""
    decode_seconds: float = Field(default=60.0, gt=0)
    """Time that decoding a record may take, and a second more for every 100 kB of it, before it is suspected."""
    max_infrastructure_failures: int = Field(default=20, ge=0)
    """Lost workers and nodes that one work unit may meet before the job gives it up."""
    placement_timeout_seconds: float = Field(default=50.0, gt=0)
    """How long to wait for the first encoder before saying what is missing."""
    grace_seconds: float = Field(default=30.0, ge=0)
    """After SIGTERM or SIGINT: time for units in flight to finish before they are abandoned."""


class JobConfig(OutputFile):
    """One job."""

    output: str = Field(min_length=1)
    """Local path or fsspec URL; it is the dataset's identity: run again to resume, or to add what is new."""
    recipe: Recipe = Recipe()
    selection: Selection
    runtime: Runtime = Runtime()
