"""Files to codes: a job of ours against what a user would write today, on corpora made from real audio.

    python -m benchmarks.job clips podcasts songs tiny [--scale 0.1] [--repeats 3] [--cache FOLDER]
                            [--systems SYSTEM ...] [--allocators ALLOCATOR ...]

For each corpus (`benchmarks.corpora`) the systems take turns: `tokenizer-jobs run` on a job file, and the three scripts
of `benchmarks.peers` under glibc's default allocator and under a tuned one. Beside them, in the same turns, stand the
ceilings: BatchEncoder alone on decoded audio, and decoding alone, each with all cores. Every run is a command of its
own from start to exit, imports and loading included, and every time is taken of its whole process tree. The section is
added to `RESULTS.md` with a plot beside it.

Scale 1 takes about five minutes a turn for each corpus on two cores (podcasts, of an hour each, half an hour).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import torch
import yaml

from benchmarks import peers
from benchmarks.ceilings import Ceiling, Share, measure_ceiling
from benchmarks.corpora import CORPORA, Corpus, build_corpus
from benchmarks.encode import ALLOCATORS
from benchmarks.job_codes import differing_codes, read_codes
from benchmarks.job_results import OURS, CorpusResult, Run, System, section, write_plot
from benchmarks.machine import PROJECT, RECORDINGS, RESULTS, add_section
from benchmarks.process_tree import run_in_tree
from encodec_core import EncodecConfig
from tests.encodec_core.models import in_meta
from tests.fitted_models import make_fitted_model
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.storage import Storage

STAND_INS = PROJECT / "tests" / "stand_ins"
"""Holds the torchaudio that Meta's package imports and never calls."""
TRIAL_SECONDS = 60
BATCH_PIECES = (1, 4, 16)
"""Files, or pieces of them, of mean length in a batch of a peer, tried."""
WHOLE_SECONDS = 300.0
"""Longest recording that a peer encodes at once: Meta's package takes 16 MB for each second."""
BANDWIDTH_KBPS = 6.0
_QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def compare(
    corpus: Corpus,
    *,
    model: Path,
    scratch: Path,
    repeats: int,
    chosen: list[str],
    allocators: list[str],
    executor: str,
) -> CorpusResult:
    """Let the systems take turns on a corpus."""
    peers_there = _tuned_peers(corpus, model=model, chosen=chosen, allocators=allocators)
    systems = [system for system in [_ours(), *peers_there] if system.name in chosen]
    runs: dict[System, list[Run]] = {system: [] for system in systems}
    ceilings: dict[str, list[Ceiling]] = {"encode": [], "decode": []}
    differing: dict[System, tuple[int, int]] = {}
    share = Share(corpus=str(corpus.folder), model=str(model), index=0, num_processes=available_cpus())
    for turn in range(repeats):
        for task, found in ceilings.items():
            found.append(measure_ceiling(task, share, environment=_environment()))
            _say(f"{corpus.name}, turn {turn + 1}: {task} alone: {found[-1]}")
        ours_codes: dict[str, Any] = {}
        order = systems if turn == 0 else systems[turn % len(systems) :] + systems[: turn % len(systems)]
        for system in order:
            output = scratch / "output"
            shutil.rmtree(output, ignore_errors=True)
            runs[system].append(_run(system, corpus, model=model, output=output, executor=executor))
            _say(f"{corpus.name}, turn {turn + 1}: {system.name}, {system.allocator} malloc: {runs[system][-1]}")
            if turn == 0 and system.name == OURS:
                ours_codes = dict(read_codes(OURS, output, corpus=corpus.folder))
            elif turn == 0 and ours_codes:
                differing[system] = differing_codes(ours_codes, read_codes(system.name, output, corpus=corpus.folder))
    return CorpusResult(corpus=corpus, runs=runs, ceilings=ceilings, differing=differing)


def _ours() -> System:
    return System(name=OURS, allocator="default")


def _tuned_peers(corpus: Corpus, *, model: Path, chosen: list[str], allocators: list[str]) -> list[System]:
    """Every peer under these allocators, each with the batch and the cut that encoded a part of the corpus fastest.

    The scripts that call transformers share their trials. Meta's loop encodes one piece at a time, so only the cut is
    tried for it.
    """
    systems = []
    longest = max(soundfile.info(path).duration for path in corpus.folder.rglob("*") if path.is_file())
    cuts = [WHOLE_SECONDS, 0.0] if peers.PIECE_SECONDS < longest <= WHOLE_SECONDS else [WHOLE_SECONDS]
    piece = min(float(peers.PIECE_SECONDS), corpus.audio_seconds / corpus.num_files)
    for allocator in allocators:
        for encoder, names in (("datasets", ("datasets", "ray_data")), ("loop", ("loop",))):
            if not set(names) & set(chosen):
                continue
            settings = [
                System(name=encoder, allocator=allocator, batch_seconds=count * piece, whole_seconds=cut)
                for cut in cuts
                # Long recordings that stay whole are alone in their batches, as all are in Meta's loop.
                for count in (BATCH_PIECES[:1] if encoder == "loop" or (cut and len(cuts) > 1) else BATCH_PIECES)
            ]
            costs = {system: _trial(system, corpus, model=model, longest=longest) for system in settings}
            best = min(costs, key=lambda system: costs[system])
            systems += [replace(best, name=name) for name in names]
    return sorted(systems, key=lambda system: (list(peers.PEERS).index(system.name), system.allocator))


def _trial(system: System, corpus: Corpus, *, model: Path, longest: float) -> float:
    """CPU seconds per second of audio, of encoding alone."""
    task = _peer_task(system, corpus, model=model, output=Path())
    # A whole song costs more for each second than a part of it.
    seconds = longest if system.whole_seconds and longest <= WHOLE_SECONDS else 0.0
    seconds = max(seconds, min(TRIAL_SECONDS, corpus.audio_seconds / 2))
    command = peers.command("trial", task)
    command[-1:-1] = [system.name]
    result = subprocess.run(
        [*command, str(seconds)], env=_environment(system), cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True
    )
    cost = float(result.stdout)
    _say(
        f"{corpus.name}, trial: {system.name}, {system.allocator} malloc, {system.describe()}: "
        f"{1000 * cost:.1f} CPU ms per second of audio"
    )
    return cost


def _run(system: System, corpus: Corpus, *, model: Path, output: Path, executor: str) -> Run:
    log = output.parent / f"{system.name}.log"
    if system.name == OURS:
        job = _job_file(corpus, model=model, output=output, executor=executor)
        command = [sys.executable, "-m", "tokenizer_jobs", "run", str(job)]
    else:
        output.mkdir()
        command = peers.command(system.name, _peer_task(system, corpus, model=model, output=output))
    usage = run_in_tree(command, environment=_environment(system), log=log)
    size_bytes = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    commits = list(read_commits(Storage.at(output), 1)) if system.name == OURS else []
    stages: dict[str, float] = {}
    for commit in commits:
        for stage, seconds in commit.stage_seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    ended_at = usage.started_at + usage.wall_seconds
    return Run(
        usage=usage,
        size_bytes=size_bytes,
        stage_seconds=stages,
        start_seconds=min((c.started_at.timestamp() for c in commits), default=ended_at) - usage.started_at,
        end_seconds=ended_at - max((c.finished_at.timestamp() for c in commits), default=ended_at),
        num_rows=sum(commit.num_rows for commit in commits),
    )


def _job_file(corpus: Corpus, *, model: Path, output: Path, executor: str) -> Path:
    path = output.parent / "job.yaml"
    job = {
        "output": str(output),
        "recipe": {"codec": {"model": str(model), "bandwidth_kbps": BANDWIDTH_KBPS}},
        "selection": {"source": {"kind": "files", "paths": [str(corpus.folder)]}},
        "runtime": {"executor": executor},
    }
    path.write_text(yaml.safe_dump(job))
    return path


def _peer_task(system: System, corpus: Corpus, *, model: Path, output: Path) -> peers.PeerTask:
    assert system.batch_seconds is not None
    assert system.whole_seconds is not None
    return peers.PeerTask(
        corpus=str(corpus.folder),
        output=str(output),
        model=str(model),
        whole_seconds=system.whole_seconds,
        batch_seconds=system.batch_seconds,
    )


def _environment(system: System | None = None) -> Mapping[str, str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)} | _QUIET
    if system is None:
        return environment
    if system.name == "loop":
        environment["PYTHONPATH"] += f"{os.pathsep}{STAND_INS}"
    return environment | ALLOCATORS[system.allocator]


def _make_model(folder: Path) -> None:
    model = make_fitted_model(EncodecConfig.encodec_24khz(), seed=0)
    model.save_pretrained(folder)
    torch.save(in_meta(model).state_dict(), folder / peers.META_CHECKPOINT)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.job", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    systems = [OURS, *peers.PEERS]
    parser.add_argument("corpora", nargs="+", choices=CORPORA, metavar="CORPUS", help=", ".join(CORPORA))
    parser.add_argument("--audio", type=Path, default=RECORDINGS, help="real recordings")
    parser.add_argument("--scale", type=float, default=1.0, help="of the corpora; 0.1 is a quick look")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="keeps corpora and model between calls; default: a temporary folder")
    parser.add_argument("--systems", nargs="+", choices=systems, default=systems, help="default: all")
    parser.add_argument("--allocators", nargs="+", choices=ALLOCATORS, default=[*ALLOCATORS], help="of the peers; all")
    parser.add_argument("--executor", default="auto", help="runtime.executor of our job")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="takes the section; its plot goes to plots/ beside"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = arguments.cache or Path(scratch, "cache")
        model = cache / "model-24khz"
        if not (model / peers.META_CHECKPOINT).exists():
            _make_model(model)
        found = [
            compare(
                build_corpus(name, audio=arguments.audio.resolve(), cache=cache.resolve(), scale=arguments.scale),
                model=model.resolve(),
                scratch=Path(scratch),
                repeats=arguments.repeats,
                chosen=arguments.systems,
                allocators=arguments.allocators,
                executor=arguments.executor,
            )
            for name in arguments.corpora
        ]
    text = section(found, command=f"python -m benchmarks.job {' '.join(sys.argv[1:])}")
    plot = arguments.results.parent / "plots" / "job.png"
    if write_plot(found, path=plot):
        text += f"\n![Times real time of each system on each corpus](plots/{plot.name})\n"
    else:
        _say("no plot: matplotlib is missing; pip install 'tokenizer-jobs[report]'")
    add_section(text, results=arguments.results)
    print(text)


if __name__ == "__main__":
    main()
