"""Everything that is promised of a GPU, on a machine with one: the checks, then encoding, precisions, and a job.

    python -m benchmarks.gpu [--quick] [--only tests|encode|precision|stages|job ...] [--job-scale 32]

Weights are random with fitted codebooks and audio is made by code, so the repository is all that it needs; peers that
are not installed are named as absent. `--quick` stays below nine minutes; without it every part does, called by itself
with `--only`. Each part prints its section and adds it to `RESULTS.md` as soon as it is measured.
"""

import argparse
import csv
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import torch
from torch import Tensor

from benchmarks.gpu_rows import (
    Timing,
    agreement,
    agreement_with_peer,
    best_batch,
    clips,
    fp32_ceiling,
    ours,
    peer_names,
    peers,
    ratios,
    skewed_clips,
    take_turns,
)
from benchmarks.gpu_stages import stage_lines
from benchmarks.machine import PROJECT, RECORDINGS, RESULTS, describe_machine
from encodec_core import EncodecModel
from encodec_core.fast.precision import Precision
from tests.fitted_models import PRESETS, make_fitted_model, synthetic_waveform

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
JOB_TIMEOUT_SECONDS = 480
QUICK_JOB_SCALE = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was asked for."""

    device: str
    repeats: int
    quick: bool
    audio: Path
    job_scale: float
    results: Path
    """Takes the sections."""
    num_clips: int = NUM_CLIPS

    def limit(self, share: float) -> float:
        """Return the seconds after which a row makes no more turns."""
        return (8 if self.quick else 25) * share


@cache
def _model(preset: str) -> EncodecModel:
    return make_fitted_model(PRESETS[preset](), seed=0).requires_grad_(False)


def checks_section(run: Run) -> Iterator[str]:
    """Run the checks that need a GPU; a skip is a failure there."""
    assert torch.device(run.device).type == "cuda", "there is nothing to check"
    command = [sys.executable, "-m", "pytest", "-q", "--gpu", "tests/encodec_core/test_gpu.py"]
    result = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout, flush=True)
    outcome = "passed" if result.returncode == 0 else "**FAILED**"
    yield f"GPU checks {outcome}: {result.stdout.strip().splitlines()[-1]}"


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
    for num_clips, seconds in SAME_BATCH_QUICK if run.quick else SAME_BATCH:
        yield from _same_batch(run, "encodec_24khz", num_clips=num_clips, seconds=seconds, ceiling=ceiling)
    yield from _same_batch(run, "encodec_48khz", num_clips=16, seconds=10, ceiling=ceiling)
    audio = {f"{seconds} s": clips(model, run.num_clips, seconds) for seconds in CLIP_SECONDS}
    audio["0.5 to 30 s, most short"] = skewed_clips(model, run.num_clips)
    for name, waveforms in audio.items():
        yield from _any_batch(run, name, waveforms, ceiling=ceiling)


def _same_batch(run: Run, preset: str, *, num_clips: int, seconds: float, ceiling: float) -> Iterator[str]:
    """Compare ours and the peers with equal batches."""
    model, kbps = _model(preset), BANDWIDTHS_KBPS[preset]
    waveforms = clips(model, num_clips, seconds)
    contenders = [
        ours(model, waveforms, bandwidth_kbps=kbps, device=run.device),
        *peers(model, waveforms, bandwidth_kbps=kbps, device=run.device, batch_size=num_clips),
    ]
    timings = take_turns(contenders, device=run.device, repeats=run.repeats, limit_seconds=run.limit(1))
    audio = f"{num_clips} × {seconds} s" + (", 48 kHz stereo" if preset == "encodec_48khz" else "")
    found = contenders[0].run()
    shares = {peer.name: agreement_with_peer(found, peer.run()) for peer in contenders[1:]}
    yield from _lines(
        audio, timings, timings, batch=str(num_clips), preset=preset, ceiling=ceiling, equal_shares=shares
    )


def _any_batch(run: Run, audio: str, waveforms: list[Tensor], *, ceiling: float) -> Iterator[str]:
    """Compare ours, given all clips in one call, and the peers at batch 1 and at the batch that suits them best."""
    model, kbps = _model("encodec_24khz"), BANDWIDTHS_KBPS["encodec_24khz"]
    contender = ours(model, waveforms, bandwidth_kbps=kbps, device=run.device)
    own = take_turns([contender], device=run.device, repeats=run.repeats, limit_seconds=run.limit(0.5))
    batch = f"{len(waveforms)} in a call"
    yield from _lines(audio, own, own, batch=batch, preset="encodec_24khz", ceiling=ceiling)
    if all(peer_names().values()):
        return
    for kind, count in NUM_PEER_CLIPS.items():
        few, size = waveforms[:count], 1
        if kind == "best batch":
            size = best_batch(model, few, bandwidth_kbps=kbps, device=run.device)
        contenders = list(peers(model, few, bandwidth_kbps=kbps, device=run.device, batch_size=size))
        theirs = take_turns(contenders, device=run.device, repeats=run.repeats, limit_seconds=run.limit(1))
        yield from _lines(audio, theirs, own, batch=f"{kind}: {size}", preset="encodec_24khz", ceiling=ceiling)


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


def precision_section(run: Run) -> Iterator[str]:
    """Time the precisions, at each number of codebooks, with the share of codes that are those of fp32."""
    yield "| Model | n_q | Precision | × real time | slowest to fastest | turns | codes equal to fp32's |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for preset, kbps_of_n_q in KBPS_OF_N_Q.items():
        model = _model(preset)
        waveforms = clips(model, run.num_clips if preset == "encodec_24khz" else run.num_clips // 4, 10)
        for n_q, kbps in kbps_of_n_q.items():
            precisions: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
            contenders = [
                ours(model, waveforms, bandwidth_kbps=kbps, device=run.device, precision=precision)
                for precision in precisions
                if precision != "tf32" or torch.device(run.device).type == "cuda"
            ]
            exact = contenders[0].run()
            timings = take_turns(contenders, device=run.device, repeats=run.repeats, limit_seconds=run.limit(1.5))
            for one in contenders:
                share = agreement(one.run(), exact)
                precision = one.name.removeprefix("ours ")
                yield f"| {preset} | {n_q} | {precision} | {_cells(timings[one.name])} | {share:.4%} |"


def stages_section(run: Run) -> Iterator[str]:
    """Say where the time goes."""
    model = _model("encodec_24khz")
    yield "| Precision | n_q | Stage | microseconds per second of audio | share |"
    yield "| --- | --- | --- | --- | --- |"
    settings: tuple[tuple[Precision, int], ...] = (("fp32", 8), ("fp32", 32), ("tf32", 8), ("bf16", 8))
    for precision, n_q in settings:
        if precision == "tf32" and torch.device(run.device).type != "cuda":
            continue
        yield from stage_lines(
            model,
            clips(model, run.num_clips, 10),
            n_q=n_q,
            device=run.device,
            precision=precision,
            repeats=run.repeats,
        )


def job_section(run: Run) -> Iterator[str]:
    """Run the job benchmark on songs; it adds its own section."""
    missing = [
        name
        for name in ("ray", "pydantic", "soundfile", "soxr", "datasets", "pyarrow", "fsspec", "transformers", "encodec")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        yield f"The job from `songs`: absent, because of missing packages: {', '.join(missing)}."
        return
    with tempfile.TemporaryDirectory() as folder:
        audio = run.audio if (run.audio / "MANIFEST.tsv").exists() else _made_audio(Path(folder))
        scale = min(run.job_scale, QUICK_JOB_SCALE) if run.quick else run.job_scale
        command = ["benchmarks.job", "songs", "--audio", str(audio), "--scale", str(scale)]
        command += ["--results", str(run.results)]
        command += ["--repeats", "1", "--systems", "ours"] if run.quick else []
        try:
            result = subprocess.run(
                [sys.executable, "-m", *command], cwd=PROJECT, timeout=JOB_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            yield f"The job from `songs`: not done after {JOB_TIMEOUT_SECONDS} s; lower --job-scale."
            return
    source = "real recordings" if audio == run.audio else "audio made by code"
    outcome = "the section above" if result.returncode == 0 else f"**FAILED** with exit code {result.returncode}"
    yield f"The job from `songs` ({source}, scale {scale:g}): {outcome}."


def _made_audio(folder: Path) -> Path:
    import soundfile

    rate, rows = 44_100, []
    (folder / "music").mkdir()
    for index in range(16):
        samples = synthetic_waveform(20 * rate, num_channels=2, sampling_rate=rate, seed=index)
        path = Path("music", f"{index}.flac")
        soundfile.write(folder / path, samples.t().numpy(), rate)
        rows.append((str(path), 20.0))
    with (folder / "MANIFEST.tsv").open("w", newline="", encoding="utf-8") as manifest:
        csv.writer(manifest, delimiter="\t").writerows([("path", "seconds"), *rows])
    return folder


def _cells(timing: Timing) -> str:
    return f"{timing.median:,.0f} | {timing.slowest:,.0f} to {timing.fastest:,.0f} | {timing.num_turns}"


PARTS: dict[str, Callable[[Run], Iterator[str]]] = {
    "tests": checks_section,
    "encode": encode_section,
    "precision": precision_section,
    "stages": stages_section,
    "job": job_section,
}


def measure(parts: list[str], run: Run, *, command: str) -> None:
    """Measure parts, and add each to the results as it is printed."""
    present = [name for name in ("torch", "triton", "transformers", "encodec") if importlib.util.find_spec(name)]
    name = torch.cuda.get_device_name() if run.device == "cuda" else run.device
    absent = [f"{peer}: {reason}" for peer, reason in peer_names().items() if reason is not None]
    head = [
        f"\n## GPU, {date.today()}",
        f"`{command}`; {name}; {describe_machine(packages=present)}. Random weights, synthetic audio, n_q = 8 "
        "where nothing else is said; waveforms on the host to codes on the host. "
        f"Absent: {'; '.join(absent) if absent else 'nothing'}.",
    ]
    with run.results.open("a", encoding="utf-8") as file:
        for line in head:
            _add(line + "\n", file)
        for part in parts:
            _add(f"### {part}\n", file)
            for line in PARTS[part](run):
                _add(line, file)
                if not line.startswith("|"):
                    _add("", file)
            _add("", file)


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
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--audio", type=Path, default=RECORDINGS, help="real recordings")
    parser.add_argument("--job-scale", type=float, default=32.0, help="32 are 128 songs of 4 minutes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="takes the sections")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(
            1,
            f"benchmarks.gpu measures a GPU, and torch {torch.__version__} sees none here. Run it on a machine with "
            "one; where there is one, install a CUDA build of torch. On a CPU: python -m benchmarks.encode\n",
        )
    run = Run(
        device="cuda",
        repeats=arguments.repeats,
        quick=arguments.quick,
        audio=arguments.audio,
        job_scale=arguments.job_scale,
        results=arguments.results.resolve(),
    )
    command = f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".rstrip()
    measure(arguments.only, run, command=command)


if __name__ == "__main__":
    main()
