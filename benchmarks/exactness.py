"""How many codes of BatchEncoder are not those of the reference for the same recording alone, on real recordings.

    python -m benchmarks.exactness [--audio FOLDER] [--seconds 600] [--results RESULTS.md]

The reference is `EncodecModel`, whose codes are those of transformers and Meta's encodec (the project's tests say so),
on one thread, one recording at a time. BatchEncoder gets 16 recordings a call, on one thread and on two. The table is
added to `RESULTS.md`.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import soundfile
import soxr
import torch
from torch import Tensor

from benchmarks.machine import RECORDINGS, RESULTS, add_section, describe_machine
from encodec_core import BatchEncoder, Codes, EncodecConfig, EncodecModel, compare_codes
from encodec_core.fast.native import why_absent
from tests.fitted_models import make_fitted_model

CODECS = {
    "24 kHz": (EncodecConfig.encodec_24khz, 24.0),
    "48 kHz": (EncodecConfig.encodec_48khz, 24.0),
    "32 kHz": (EncodecConfig.musicgen_32khz, 2.2),
    "demo": (None, 6.0),
}
"""Configuration and bandwidth in kbps, the highest, whose first codes are those of the others; the published ones get
random weights."""
AT_ONCE = 16
LONGEST_SECONDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """What was found for one codec."""

    num_recordings: int
    num_codes: int
    num_differing: int
    """On one thread."""
    num_wrong_frames: int
    """Frames that differ and are no near tie."""
    num_differing_on_two_threads: int
    """Codes that are not those of one thread."""


def recordings(folder: Path, *, sampling_rate: int, channels: int, seconds: float) -> Iterator[Tensor]:
    """Yield real recordings `[C, n]`, drawn by seed, at most 12 s of each, until there are `seconds`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac", ".ogg", ".mp3"))
    random.Random(1).shuffle(files)
    for file in files:
        audio, rate = soundfile.read(file, dtype="float32", always_2d=True, frames=-1)
        mono = audio.mean(1)[: LONGEST_SECONDS * rate]
        waveform = torch.from_numpy(soxr.resample(mono, rate, sampling_rate) if rate != sampling_rate else mono.copy())
        if len(waveform) == 0:
            continue
        yield waveform.expand(channels, -1).contiguous()
        seconds -= len(waveform) / sampling_rate
        if seconds <= 0:
            return


def compare(model: EncodecModel, waveforms: Sequence[Tensor], *, bandwidth_kbps: float) -> Mismatch:
    """Encode both ways and count."""
    encoder = BatchEncoder(model, bandwidth_kbps, "cpu")
    on_threads: list[list[Codes]] = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        batches = (waveforms[start : start + AT_ONCE] for start in range(0, len(waveforms), AT_ONCE))
        on_threads.append([codes for batch in batches for codes in encoder.encode(batch)])
    torch.set_num_threads(1)
    found = [
        compare_codes(model, waveform, codes, bandwidth_kbps=bandwidth_kbps)
        for waveform, codes in zip(waveforms, on_threads[0], strict=True)
    ]
    return Mismatch(
        num_recordings=len(waveforms),
        num_codes=sum(agreement.num_codes for agreement in found),
        num_differing=sum(agreement.num_codes - agreement.num_equal for agreement in found),
        num_wrong_frames=sum(agreement.num_wrong_frames for agreement in found),
        num_differing_on_two_threads=sum(
            int((one.codes.int() != two.codes.int()).sum()) for one, two in zip(*on_threads, strict=True)
        ),
    )


def _model(name: str) -> EncodecModel:
    make_config, _ = CODECS[name]
    return EncodecModel.from_pretrained("demo") if make_config is None else make_fitted_model(make_config(), seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--audio", type=Path, default=RECORDINGS, help="real recordings")
    parser.add_argument("--seconds", type=float, default=600.0, help="audio for each codec, default %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    lines = []
    for name, (_, bandwidth_kbps) in CODECS.items():
        model = _model(name).requires_grad_(False)
        config = model.config
        waveforms = list(
            recordings(
                arguments.audio,
                sampling_rate=config.sampling_rate,
                channels=config.audio_channels,
                seconds=arguments.seconds,
            )
        )
        found = compare(model, waveforms, bandwidth_kbps=bandwidth_kbps)
        lines.append(
            f"| {name}, {bandwidth_kbps:g} kbps | {found.num_recordings} | {found.num_codes:,} | "
            f"**{found.num_differing}** | {found.num_wrong_frames} | {found.num_differing_on_two_threads} |"
        )
        print(lines[-1], flush=True)
    head = (
        f"\n## Exactness, {date.today()}\n\n`python -m benchmarks.exactness --seconds {arguments.seconds:g}`; "
        f"{describe_machine(packages=('torch',))}; kernels: {why_absent() or 'there'}. Real recordings of up to "
        f"{LONGEST_SECONDS} s, {AT_ONCE} a call, against `EncodecModel` for each alone on one thread. Codecs but the "
        "demo have random weights. Codes that differ, frames that differ and are no near tie, codes that differ "
        "between one thread and two.\n\n"
        "| Codec | Recordings | Codes | Differ | Wrong frames | On two threads |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    add_section(head + "\n".join(lines) + "\n", results=arguments.results)


if __name__ == "__main__":
    main()
