"""The job of `benchmarks.gpu`: songs to codes on this machine's GPU, beside how fast the cores alone can decode them.

    python -m benchmarks.gpu_job --audio FOLDER [--songs 256] [--distinct 8]

Songs are 4 minutes of 44.1 kHz stereo FLAC each (`benchmarks.corpora`). Some are made, and the others are links to
them, which are read and decoded like any file. The rows of a table come out as each run ends.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml

from benchmarks.ceilings import Share, measure_ceiling
from benchmarks.corpora import build_corpus
from benchmarks.machine import PROJECT
from benchmarks.process_tree import run_in_tree
from encodec_core import EncodecConfig
from tests.fitted_models import make_fitted_model
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.storage import Storage

__all__ = ["clone_songs", "job_lines"]

HEADER = (
    "| Units | × real time, first unit to last commit | and from start to exit | share of decoding alone | "
    "seconds before the first unit | devices | seconds in each stage, all units |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
UNITS_MINUTES: tuple[str | float, ...] = ("auto", 60.0)
"""As the job file comes, and as units are in a large job: one of so few songs has short ones."""
BANDWIDTH_KBPS = 6.0


def clone_songs(songs: Path, folder: Path, *, count: int) -> Path:
    """Fill `folder` with `count` files, links to those of `songs` in turn, or copies where nothing can be linked."""
    folder.mkdir(parents=True)
    originals = sorted(path for path in songs.rglob("*") if path.is_file())
    for number in range(count):
        original = originals[number % len(originals)]
        place = folder / f"{number:05d}{original.suffix}"
        try:
            os.link(original, place)
        except OSError:
            shutil.copyfile(original, place)
    return folder


def job_lines(audio: Path, *, folder: Path, num_songs: int, num_distinct: int, device: str = "cuda") -> Iterator[str]:
    """Yield a table: decoding alone, then a job for each size of unit.

    Args:
        audio: recordings with a manifest.
        folder: takes songs, codec and outputs.
        num_songs: in the corpus.
        num_distinct: of them that are made; the others are links.
        device: `runtime.device`.

    Raises:
        SystemExit: there are no recordings, or a job fails.
    """
    yield from HEADER
    corpus = build_corpus("songs", audio=audio, cache=folder / "corpora", scale=num_distinct / 4)
    songs = clone_songs(corpus.folder, folder / "songs", count=num_songs)
    seconds = corpus.audio_seconds / corpus.num_files * num_songs
    model = folder / "model"
    make_fitted_model(EncodecConfig.encodec_24khz(), seed=0).save_pretrained(model)
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "RAY_USAGE_STATS_ENABLED": "0"}
    share = Share(corpus=str(songs), model=str(model), index=0, num_processes=available_cpus())
    decoding = measure_ceiling("decode", share, environment=environment).times_real_time
    yield f"| decoding alone, {available_cpus()} cores | {decoding:,.0f} | | | | | {seconds / 3600:.1f} h in all |"
    for unit_minutes in UNITS_MINUTES:
        output = folder / f"output-{unit_minutes}"
        job = {
            "output": str(output),
            "recipe": {"codec": {"model": str(model), "bandwidth_kbps": BANDWIDTH_KBPS}},
            "selection": {
                "source": {"kind": "files", "paths": [str(songs)]},
                "shards": {"unit_minutes": unit_minutes},
            },
            "runtime": {"device": device},
        }
        path = folder / f"job-{unit_minutes}.yaml"
        path.write_text(yaml.safe_dump(job))
        command = [sys.executable, "-m", "tokenizer_jobs", "run", str(path)]
        usage = run_in_tree(command, environment=environment, log=folder / f"job-{unit_minutes}.log")
        commits = list(read_commits(Storage.at(str(output)), 1))
        began = min(commit.started_at.timestamp() for commit in commits)
        ended = max(commit.finished_at.timestamp() for commit in commits)
        at_work = sum(commit.audio_seconds for commit in commits) / (ended - began)
        stages: dict[str, float] = {}
        for commit in commits:
            for stage, taken in commit.stage_seconds.items():
                stages[stage] = stages.get(stage, 0.0) + taken
        cells = [
            f"{len(commits)} of {unit_minutes} minutes",
            f"{at_work:,.0f}",
            f"{seconds / usage.wall_seconds:,.0f}",
            f"{at_work / decoding:.0%}",
            f"{began - usage.started_at:.1f}",
            ", ".join(sorted({commit.device for commit in commits})),
            ", ".join(f"{stage} {taken:.1f}" for stage, taken in stages.items()),
        ]
        yield f"| {' | '.join(cells)} |"
        shutil.rmtree(output)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_job", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=Path, required=True, help="recordings with a MANIFEST.tsv")
    parser.add_argument("--songs", type=int, default=256)
    parser.add_argument("--distinct", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, suppress(BrokenPipeError):
        for line in job_lines(
            arguments.audio.resolve(),
            folder=Path(folder),
            num_songs=arguments.songs,
            num_distinct=arguments.distinct,
            device=arguments.device,
        ):
            print(line, flush=True)


if __name__ == "__main__":
    main()
