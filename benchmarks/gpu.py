"""All that is promised of a GPU, on a machine with one: checks, encoding, precisions, stages, and a job from files.

    python3 -m venv .venv && make .venv/.installed-dev       # once; the default index has a CUDA build of torch
    .venv/bin/python -m benchmarks.gpu --quick
    .venv/bin/python -m benchmarks.gpu [--only tests|encode|precision|stages|job ...] [--songs 256] [--minutes 9]

Weights are random with fitted codebooks and audio is made by code, so the repository is all that it needs. torch,
numpy, safetensors, huggingface_hub and pytest are enough for all but the job; peers that are not installed are named
as absent. It takes about `--minutes`, of which the job has the last four; rows for which there was no time are named:
call those parts by themselves. A row that fails says so, and the others go on. Each part prints its section and adds it
to `RESULTS.md` row by row.
"""

import argparse
import importlib.metadata
import importlib.util
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import torch
from torch import Tensor

from benchmarks.gpu_commands import made_audio, output_of
from benchmarks.gpu_rows import (
    Timing,
    able,
    agreement,
    agreement_with_peer,
    best_batch,
    clips,
    fp32_ceiling,
    in_a_cell,
    ours,
    peer_names,
    peers,
    ratios,
    skewed_clips,
    take_turns,
)
from benchmarks.gpu_stages import stage_lines
from benchmarks.machine import RECORDINGS, RESULTS, describe_machine
from encodec_core import EncodecModel
from encodec_core.fast.placement import why_not_faster
from encodec_core.fast.precision import Precision
from tests.fitted_models import PRESETS, make_fitted_model

BANDWIDTHS_KBPS = {"encodec_24khz": 6.0, "encodec_48khz": 12.0}
"""At which eight codebooks are in use."""
GFLOP = {"encodec_24khz": 2.98, "encodec_48khz": 5.98}
"""Of the encoder, per second of audio."""
GFLOP_PER_CODEBOOK = {"encodec_24khz": 0.0197, "encodec_48khz": 0.0393}
"""Frames per second times entries times channels, multiplied and added."""
SAME_BATCH = ((1, 1), (1, 10), (1, 30), (8, 5), (16, 10), (64, 10))
SAME_BATCH_QUICK = ((1, 10), (16, 10), (64, 10))
CLIP_SECONDS = (1, 5, 10, 30)
NUM_CLIPS = 256
NUM_PEER_CLIPS = {"batch 1": 16, "best batch": 64}
"""Peers encode fewer: speeds are per second of audio."""
KBPS_OF_N_Q = {"encodec_24khz": {2: 1.5, 8: 6.0, 32: 24.0}, "encodec_48khz": {8: 12.0}}
JOB_SECONDS = 240.0
"""Kept for the job where other parts come before it."""
ROW_SECONDS = 60.0
"""That the last row may still take."""
CHECKS_SECONDS = 240.0
"""That the checks may take."""
LACKING = ("FAILED", "not begun", "not done in time", "absent, because")
"""What a line says that stands for something not measured."""
QUICK_SONGS = 128
JOB_PACKAGES = ("ray", "pydantic", "soundfile", "soxr", "datasets", "pyarrow", "fsspec", "rich", "yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was asked for."""

    device: str
    repeats: int
    quick: bool
    audio: Path
    num_songs: int
    results: Path
    """Takes the sections."""
    deadline: float
    """On the monotonic clock: no row begins after it."""
    num_clips: int = NUM_CLIPS

    def limit(self, share: float) -> float:
        """Return the seconds after which a row makes no more turns."""
        return min((8 if self.quick else 25) * share, max(1.0, self.seconds_left()))

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"


@cache
def _model(preset: str) -> EncodecModel:
    return make_fitted_model(PRESETS[preset](), seed=0).requires_grad_(False)


def guarded(run: Run, what: str, rows: Callable[[], Iterator[str]]) -> Iterator[str]:
    """Yield rows; say so where there is no time for them, or where they fail, and come back all the same."""
    if run.seconds_left() <= 0:
        yield f"| {what} | not begun: the time was up |"
        return
    try:
        yield from rows()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a row must not take the others along
        traceback.print_exc()
        yield f"| {what} | **FAILED**: {in_a_cell(error)} |"
        # Where the device itself is lost, the next row says so too.
        if run.on_gpu and not isinstance(error, torch.AcceleratorError):
            torch.cuda.empty_cache()


def checks_section(run: Run) -> Iterator[str]:
    """Run the checks that need a GPU; a skip is a failure there."""
    assert run.on_gpu, "there is nothing to check"
    options = ["-q", "-p", "no:cacheprovider", "--gpu", "tests/encodec_core/test_gpu.py"]
    command = [sys.executable, "-m", "pytest", *options]
    code, lines = output_of(command, seconds=min(CHECKS_SECONDS, run.seconds_left()))
    outcome = {0: "passed", None: "**not done in time**"}.get(code, "**FAILED**")
    yield f"GPU checks {outcome}: {lines[-1] if lines else 'no output'}"


def encode_section(run: Run) -> Iterator[str]:
    """Time fp32 against the peers."""
    model = _model("encodec_24khz")
    ceiling = fp32_ceiling(run.device)
    yield f"fp32 ceiling of the device: {ceiling:.1f} TFLOP/s (one product of 8192 × 8192 matrices, TF32 off)."
    yield (
        "| Audio | Contender | Batch | × real time | slowest to fastest | turns | ours over it | share of ceiling | "
        "codes equal to ours |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    same_batch = [("encodec_24khz", *shape) for shape in (SAME_BATCH_QUICK if run.quick else SAME_BATCH)]
    for preset, num_clips, seconds in [*same_batch, ("encodec_48khz", 16, 10)]:
        rows = partial(_same_batch, run, preset, num_clips=num_clips, seconds=seconds, ceiling=ceiling)
        yield from guarded(run, f"{num_clips} × {seconds} s, {preset}", rows)
    audio = {f"{seconds} s": partial(clips, model, run.num_clips, seconds) for seconds in CLIP_SECONDS}
    audio["0.5 to 30 s, most short"] = partial(skewed_clips, model, run.num_clips)
    for name, make in audio.items():
        yield from guarded(run, name, partial(_any_batch, run, name, make, ceiling=ceiling))


def _same_batch(run: Run, preset: str, *, num_clips: int, seconds: float, ceiling: float) -> Iterator[str]:
    """Compare ours and the peers with equal batches."""
    model, kbps = _model(preset), BANDWIDTHS_KBPS[preset]
    waveforms = clips(model, num_clips, seconds)
    own = [
        ours(model, waveforms, bandwidth_kbps=kbps, device=run.device, precision=precision)
        for precision in _precisions(run)
        if precision != "bf16"
    ]
    theirs, failures = able(list(peers(model, waveforms, bandwidth_kbps=kbps, device=run.device, batch_size=num_clips)))
    timings = take_turns([*own, *theirs], device=run.device, repeats=run.repeats, limit_seconds=run.limit(1))
    audio = f"{num_clips} × {seconds} s" + (", 48 kHz stereo" if preset == "encodec_48khz" else "")
    found = own[0].run()
    shares = {peer.name: agreement_with_peer(found, peer.run()) for peer in theirs}
    shares |= {one.name: agreement(one.run(), found) for one in own[1:]}
    yield from _lines(
        audio, timings, timings, batch=str(num_clips), preset=preset, ceiling=ceiling, equal_shares=shares
    )
    yield from (f"| {audio} | {name} | {num_clips} | **FAILED**: {why} |" for name, why in failures.items())


def _any_batch(run: Run, audio: str, make: Callable[[], list[Tensor]], *, ceiling: float) -> Iterator[str]:
    """Compare ours, given all clips in one call, and the peers at batch 1 and at the batch that suits them best."""
    model, kbps, waveforms = _model("encodec_24khz"), BANDWIDTHS_KBPS["encodec_24khz"], make()
    contender = ours(model, waveforms, bandwidth_kbps=kbps, device=run.device)
    own = take_turns([contender], device=run.device, repeats=run.repeats, limit_seconds=run.limit(0.5))
    batch = f"{len(waveforms)} in a call"
    yield from _lines(audio, own, own, batch=batch, preset="encodec_24khz", ceiling=ceiling)
    if all(peer_names().values()):
        return
    for kind, count in NUM_PEER_CLIPS.items():
        rows = partial(_peer_rows, run, audio, waveforms[:count], own, kind=kind, ceiling=ceiling)
        yield from guarded(run, f"{audio}, peers, {kind}", rows)


def _peer_rows(
    run: Run, audio: str, few: list[Tensor], own: dict[str, Timing], *, kind: str, ceiling: float
) -> Iterator[str]:
    model, kbps, size = _model("encodec_24khz"), BANDWIDTHS_KBPS["encodec_24khz"], 1
    if kind == "best batch":
        size = best_batch(model, few, bandwidth_kbps=kbps, device=run.device)
    contenders, failures = able(list(peers(model, few, bandwidth_kbps=kbps, device=run.device, batch_size=size)))
    theirs = take_turns(contenders, device=run.device, repeats=run.repeats, limit_seconds=run.limit(1))
    yield from _lines(audio, theirs, own, batch=f"{kind}: {size}", preset="encodec_24khz", ceiling=ceiling)
    yield from (f"| {audio} | {name} | {kind}: {size} | **FAILED**: {why} |" for name, why in failures.items())


def _lines(
    audio: str,
    timings: dict[str, Timing],
    own: dict[str, Timing],
    *,
    batch: str,
    preset: str,
    ceiling: float,
    equal_shares: Mapping[str, float | None] = MappingProxyType({}),
) -> Iterator[str]:
    gflop = GFLOP[preset] + 8 * GFLOP_PER_CODEBOOK[preset]
    over = ratios(own | timings, of="ours fp32")
    for name, timing in timings.items():
        ratio = f"**{over[name]:.2f}**" if name in over else ""
        share = f"{timing.median * gflop / 1000 / ceiling:.0%}"
        equal = equal_shares.get(name)
        cells = [audio, name, batch, _cells(timing), ratio, share, "" if equal is None else f"{equal:.4%}"]
        yield f"| {' | '.join(cells)} |"


def _precisions(run: Run) -> tuple[Precision, ...]:
    if not run.on_gpu:
        return "fp32", "bf16"
    return ("fp32", "tf32", "bf16") if why_not_faster(torch.device(run.device)) is None else ("fp32",)


def precision_section(run: Run) -> Iterator[str]:
    """Time the precisions, at each number of codebooks, with the share of codes that are those of fp32."""
    yield "| Model | n_q | Precision | × real time | slowest to fastest | turns | codes equal to fp32's |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for preset, kbps_of_n_q in KBPS_OF_N_Q.items():
        for n_q, kbps in kbps_of_n_q.items():
            rows = partial(_precision_rows, run, preset, n_q=n_q, kbps=kbps)
            yield from guarded(run, f"{preset}, n_q = {n_q}", rows)


def _precision_rows(run: Run, preset: str, *, n_q: int, kbps: float) -> Iterator[str]:
    model = _model(preset)
    waveforms = clips(model, run.num_clips if preset == "encodec_24khz" else run.num_clips // 4, 10)
    contenders, failures = able(
        [
            ours(model, waveforms, bandwidth_kbps=kbps, device=run.device, precision=precision)
            for precision in _precisions(run)
        ]
    )
    timings = take_turns(contenders, device=run.device, repeats=run.repeats, limit_seconds=run.limit(1.5))
    exact = contenders[0].run()
    for one in contenders:
        share, precision = agreement(one.run(), exact), one.name.removeprefix("ours ")
        yield f"| {preset} | {n_q} | {precision} | {_cells(timings[one.name])} | {share:.4%} |"
    yield from (f"| {preset} | {n_q} | {name} | **FAILED**: {why} |" for name, why in failures.items())


def stages_section(run: Run) -> Iterator[str]:
    """Say where the time goes."""
    yield "| Precision | n_q | Stage | microseconds per second of audio | share |"
    yield "| --- | --- | --- | --- | --- |"
    settings: tuple[tuple[Precision, int], ...] = (("fp32", 8), ("fp32", 32), ("tf32", 8), ("bf16", 8))
    for precision, n_q in settings:
        if precision in _precisions(run):
            yield from guarded(run, precision, partial(_stage_rows, run, precision, n_q=n_q))


def _stage_rows(run: Run, precision: Precision, *, n_q: int) -> Iterator[str]:
    model, turns = _model("encodec_24khz"), (run.repeats, run.limit(2))
    yield from stage_lines(
        model, clips(model, run.num_clips, 10), n_q=n_q, device=run.device, precision=precision, turns=turns
    )


def job_section(run: Run) -> Iterator[str]:
    """Run jobs on songs."""
    missing = [name for name in JOB_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield (
            f"The job from `songs`: absent, because of missing packages: {', '.join(missing)}; "
            "`pip install -c constraints.txt -e .` brings them."
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        audio = run.audio if (run.audio / "MANIFEST.tsv").exists() else made_audio(Path(folder))
        num_songs = min(run.num_songs, QUICK_SONGS) if run.quick else run.num_songs
        command = [sys.executable, "-m", "benchmarks.gpu_job", "--audio", str(audio), "--songs", str(num_songs)]
        command += ["--device", "cuda" if run.on_gpu else "cpu"]
        code, lines = output_of(command, seconds=run.seconds_left())
    yield from (line for line in lines if line.startswith("|"))
    source = "real recordings" if audio == run.audio else "audio made by code"
    outcome = {0: "done", None: "**not done in time**; lower --songs, or call it by itself"}.get(code, "**FAILED**")
    yield f"The job from {num_songs} songs of 4 minutes ({source}): {outcome}."


def _cells(timing: Timing) -> str:
    return f"{timing.median:,.0f} | {timing.slowest:,.0f} to {timing.fastest:,.0f} | {timing.num_turns}"


PARTS: dict[str, Callable[[Run], Iterator[str]]] = {
    "tests": checks_section,
    "encode": encode_section,
    "precision": precision_section,
    "stages": stages_section,
    "job": job_section,
}


def measure(parts: list[str], run: Run, *, command: str) -> bool:
    """Measure parts, and add each row to the results as it is printed; return whether all of it could be measured."""
    is_whole = True
    with run.results.open("a", encoding="utf-8") as file:
        for line in _head(run, command=command):
            _add(line + "\n", file)
        for part in parts:
            _add(f"### {part}\n", file)
            kept = 0.0 if part == "job" else JOB_SECONDS if "job" in parts else ROW_SECONDS
            own = replace(run, deadline=run.deadline - kept)
            for line in guarded(own, part, partial(PARTS[part], own)):
                _add(line, file)
                is_whole = is_whole and not any(word in line for word in LACKING)
                if not line.startswith("|"):
                    _add("", file)
            _add("", file)
    return is_whole


def _head(run: Run, *, command: str) -> Iterator[str]:
    present = [name for name in ("torch", "triton", "transformers", "encodec") if _is_installed(name)]
    name = run.device
    if run.on_gpu:
        facts = torch.cuda.get_device_properties(run.device)
        name = f"{facts.name} ({facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda})"
    absent = [f"{peer}: {reason}" for peer, reason in peer_names().items() if reason is not None]
    yield f"\n## GPU, {date.today()}"
    yield (
        f"`{command}`; {name}; {describe_machine(packages=present)}. Random weights, synthetic audio, n_q = 8 "
        "where nothing else is said; waveforms on the host to codes on the host. "
        f"Absent: {'; '.join(absent) if absent else 'nothing'}."
    )


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec(name) is not None


def _add(line: str, file: TextIO) -> None:
    print(line, flush=True)
    file.write(line + "\n")
    file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="fewer rows, and fewer turns of slow ones")
    parser.add_argument("--minutes", type=float, default=9.0, help="that all of it may take")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--audio", type=Path, default=RECORDINGS, help="real recordings")
    parser.add_argument("--songs", type=int, default=256, help="of 4 minutes each, in the job")
    parser.add_argument("--results", type=Path, default=RESULTS, help="takes the sections")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, f"{_why_no_gpu()} On a CPU: python -m benchmarks.encode\n")
    run = Run(
        device="cuda",
        repeats=arguments.repeats,
        quick=arguments.quick,
        audio=arguments.audio,
        num_songs=arguments.songs,
        results=arguments.results.resolve(),
        deadline=time.monotonic() + 60 * arguments.minutes,
    )
    command = f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".rstrip()
    sys.exit(0 if measure(arguments.only, run, command=command) else 1)


def _why_no_gpu() -> str:
    text = f"benchmarks.gpu measures a GPU, and torch {torch.__version__} sees none here."
    if torch.version.cuda is None:
        return (
            f"{text} It is a CPU build; where there is a GPU: pip uninstall -y torch && pip install torch==2.13.0 (the "
            "default index has the CUDA build, and pip keeps a CPU build that is there already)."
        )
    return f"{text} `nvidia-smi` says whether the driver works, and `tokenizer-jobs doctor` what else is missing."


if __name__ == "__main__":
    main()
