"""Memory of whole jobs on hard inputs: one file of ten hours, 100,000 tiny clips, a Parquet file of 1 GB.

    python -m benchmarks.memory [long tiny parquet] [--hours 10] [--clips 100000] [--gigabytes 1] [--executor ray]

Inputs are made by code. Each job runs as a command of its own with the codec inside the package; memory is sampled of
every process that it starts, as proportional set sizes. Each has a stated limit for the largest process, and is
verified. The codes of the long file are compared with those of its beginning encoded whole. The table is added to
`RESULTS.md`.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import yaml

from benchmarks.machine import RESULTS, add_section, describe_machine
from benchmarks.process_tree import Usage, run_in_tree
from encodec_core import BatchEncoder, EncodecModel
from tokenizer_jobs.shards import read_rows
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification import verify

RATE = 24_000
LOOP_SECONDS = 97
"""The long file is different audio for so long, again and again with another loudness."""
COMPARED_SECONDS = 600
SPARED_FRAMES = 32
"""At the end of what is encoded whole, where its end shows."""
CLIP_SECONDS = 30
"""Of one row of the Parquet file: 16 bits at 44.1 kHz, 2.6 MB."""
LIMITS = {"long": 1.5e9, "tiny": 1.5e9, "parquet": 1.5e9}
"""Bytes that the largest process may hold."""

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one job took."""

    name: str
    about: str
    usage: Usage
    rows: int
    hours: float
    remark: str


def _noise(seed: int, *, seconds: float, rate: int) -> Samples:
    """Audio that changes all the time: a wavering tone in noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (generator.uniform(100, 900) * time + 3 * np.sin(time * generator.uniform(1, 5))))
    mixed = 0.3 * tone + 0.05 * generator.standard_normal(len(time))
    samples: Samples = (mixed * 32767).clip(-32768, 32767).astype(np.int16)
    return samples


def make_long(folder: Path, *, hours: float) -> tuple[Mapping[str, Any], str]:
    """One FLAC file."""
    folder.mkdir()
    loop = _noise(0, seconds=LOOP_SECONDS, rate=RATE)
    left, turn = round(hours * 3600 * RATE), 0
    with soundfile.SoundFile(folder / "long.flac", "w", RATE, 1, subtype="PCM_16") as file:
        while left:
            loudness = 0.5 + 0.5 * np.cos(turn)
            part = (loop[:left] * loudness).astype(np.int16)
            file.write(part)
            left, turn = left - len(part), turn + 1
    size = (folder / "long.flac").stat().st_size
    return {"kind": "files", "paths": [str(folder)]}, f"one FLAC file of {hours:g} hours, {size / 1e6:,.0f} MB"


def make_tiny(folder: Path, *, clips: int) -> tuple[Mapping[str, Any], str]:
    """Very many WAV files of 0.1 to 0.3 s."""
    loop = _noise(1, seconds=LOOP_SECONDS, rate=RATE)
    lengths = np.random.default_rng(2).integers(RATE // 10, 3 * RATE // 10, clips)
    for number, length in enumerate(lengths):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03d}").mkdir(parents=True)
        start = number * 977 % (len(loop) - length)
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.wav"
        soundfile.write(path, loop[start : start + length], RATE, subtype="PCM_16")
    return {"kind": "files", "paths": [str(folder)]}, f"{clips:,} WAV files of 0.1 to 0.3 s"


def make_parquet(folder: Path, *, gigabytes: float) -> tuple[Mapping[str, Any], str]:
    """One Parquet file with audio inside, in row groups of 100 rows as `datasets` writes them."""
    folder.mkdir()
    schema = pa.schema([("name", pa.string()), ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    path, number = folder / "train.parquet", 0
    with pq.ParquetWriter(path, schema) as writer:
        while path.stat().st_size < gigabytes * 1e9:
            names = [f"clip-{number + place:05d}.wav" for place in range(100)]
            audio = [{"bytes": _wav(number + place), "path": name} for place, name in enumerate(names)]
            writer.write_table(pa.table({"name": names, "audio": audio}, schema=schema), row_group_size=100)
            number += 100
    size = path.stat().st_size
    about = f"one Parquet file of {size / 1e9:.2f} GB with {number} recordings of {CLIP_SECONDS} s inside"
    return {"kind": "parquet", "paths": [str(path)], "id_column": "name"}, about


def _wav(seed: int) -> bytes:
    content = BytesIO()
    soundfile.write(content, _noise(seed, seconds=CLIP_SECONDS, rate=44_100), 44_100, format="WAV", subtype="PCM_16")
    return content.getvalue()


def compare_beginning(folder: Path, output: Path) -> str:
    """Compare the long file's first codes with those of its beginning encoded at once."""
    samples, _ = soundfile.read(folder / "long.flac", frames=COMPARED_SECONDS * RATE, dtype="float32")
    encoder = BatchEncoder(EncodecModel.from_pretrained("demo"), 6.0, "cpu")
    (expected,) = encoder.encode([torch.from_numpy(samples)[None]])
    storage = Storage.at(str(output))
    (path,) = (f"codes/{file.name}" for file in (output / "codes").iterdir())
    (row,) = read_rows(storage, path)
    frames = expected.codes.shape[1] - SPARED_FRAMES
    differing = int((row.encoded.codes[:, :frames] != expected.codes[:, :frames].numpy()).sum())
    compared, whole = frames * len(expected.codes), row.encoded.codes.shape[1]
    return f"{differing} of {compared:,} codes of its first {COMPARED_SECONDS} s differ; {whole:,} frames"


def run_job(name: str, source: Mapping[str, Any], about: str, *, folder: Path, executor: str) -> Found:
    """Run one job to its end and verify it."""
    output, job_file = folder / f"out-{name}", folder / f"{name}.yaml"
    job = {
        "output": str(output),
        "recipe": {"codec": {"model": "demo"}},
        "selection": {"source": dict(source)},
        "runtime": {"executor": executor},
    }
    job_file.write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "tokenizer_jobs", "run", str(job_file)]
    usage = run_in_tree(command, environment=os.environ, log=folder / f"{name}.log")
    checked = verify(str(output))
    problems = "; ".join(checked.problems)
    return Found(
        name=name,
        about=about,
        usage=usage,
        rows=checked.rows,
        hours=checked.hours,
        remark=problems or "verified",
    )


def section(found: Sequence[Found], *, command: str) -> str:
    """The text for `RESULTS.md`."""
    machine = describe_machine(packages=["torch", "ray", "pyarrow", "soundfile"])
    lines = [
        f"\n## Memory, {date.today().isoformat()}\n",
        f"`{command}`; {machine}. Proportional set sizes, sampled twice a second, codec `demo`.\n",
        "| Job | Rows | Hours | Largest process MB | limit | All processes MB | Wall s | CPU s | Remarks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        usage = one.usage
        lines.append(
            f"| {one.about} | {one.rows:,} | {one.hours:.2f} | **{usage.largest_process_bytes / 1e6:,.0f}** | "
            f"{LIMITS[one.name] / 1e6:,.0f} | {usage.peak_bytes / 1e6:,.0f} | {usage.wall_seconds:,.0f} | "
            f"{usage.cpu_seconds:,.0f} | {one.remark} |"
        )
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Make the inputs, run the jobs, add the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"{', '.join(LIMITS)} (default: all)")
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--executor", default="inline", help="runtime.executor of the jobs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="takes the section")
    arguments = parser.parse_args(words)
    if unknown := [job for job in arguments.jobs if job not in LIMITS]:
        parser.error(f"no job {unknown[0]!r}; choose from {', '.join(LIMITS)}")
    makers: dict[str, Callable[[Path], tuple[Mapping[str, Any], str]]] = {
        "long": lambda folder: make_long(folder, hours=arguments.hours),
        "tiny": lambda folder: make_tiny(folder, clips=arguments.clips),
        "parquet": lambda folder: make_parquet(folder, gigabytes=arguments.gigabytes),
    }
    found = list[Found]()
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        folder = Path(name)
        for job in arguments.jobs or LIMITS:
            source, about = makers[job](folder / job)
            one = run_job(job, source, about, folder=folder, executor=arguments.executor)
            if job == "long":
                remark = f"{one.remark}; {compare_beginning(folder / job, folder / f'out-{job}')}"
                one = replace(one, remark=remark)
            found.append(one)
            print(json.dumps({"job": job, "largest_process_bytes": one.usage.largest_process_bytes}), flush=True)
    options = sys.argv[1:] if words is None else list(words)
    text = section(found, command=" ".join(["python -m benchmarks.memory", *options]))
    print(text)
    add_section(text, results=arguments.results)


if __name__ == "__main__":
    main()
