"""Audio and dumps for audits: made-up speech, its codes by the demo codec, and dumps in the manner of other tools."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from tokenizer_jobs.auditing import AuditResult, Finding, Kind, audit
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding import EncodecCodec, load_codec

RATE = 24_000
Codes = dict[str, npt.NDArray[Any]]


@cache
def demo() -> EncodecCodec:
    return load_codec(CodecRecipe(model="demo", bandwidth_kbps=6.0), device="cpu")


def encode(waveform: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Codes [8, T] of one channel [n]."""
    return demo().encode([np.ascontiguousarray(waveform[None], dtype=np.float32)])[0].codes


def voice(num_samples: int, *, seed: int, rate: int = RATE) -> npt.NDArray[np.float32]:
    """One channel [n]: a gliding harmonic tone that comes and goes, with breath."""
    generator = np.random.default_rng(seed)
    time = np.arange(num_samples) / rate
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * (0.7 + generator.random()) * time)
    pitch = generator.uniform(100, 300) * (1 + 0.2 * np.sin(2 * np.pi * generator.uniform(1, 3) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 8))
    return np.asarray(tone * envelope * 0.15 + 0.02 * generator.normal(size=num_samples), np.float32)


@dataclass(frozen=True)
class Corpus:
    """A folder of recordings, their samples [n] or [n, 2], and the codes that they have."""

    folder: Path
    rate: int
    waveforms: Mapping[str, npt.NDArray[np.float32]]
    codes: Codes

    @property
    def ids(self) -> list[str]:
        return sorted(self.waveforms)


def make_corpus(folder: Path, *, number: int, rate: int = RATE, stereo: bool = False) -> Corpus:
    """Recordings from 1 to 2.5 s, no two of one length, as 32-bit floats; codes where no resampling is needed."""
    folder.mkdir(parents=True)
    waveforms = dict[str, npt.NDArray[np.float32]]()
    for place in range(number):
        num_samples = rate + (1111 + 7 * (place % 3)) * place * rate // 24_000
        left = voice(num_samples, seed=place, rate=rate)
        samples = np.stack([left, voice(num_samples, seed=place + 500, rate=rate)], 1) if stereo else left
        waveforms[f"c{place:02}"] = samples
        soundfile.write(folder / f"c{place:02}.wav", samples, rate, subtype="FLOAT")
    mono = {name: samples.mean(1) if stereo else samples for name, samples in waveforms.items()}
    codes = {name: encode(samples) for name, samples in mono.items()} if rate == RATE else {}
    return Corpus(folder=folder, rate=rate, waveforms=waveforms, codes=codes)


def audit_arrays(corpus: Corpus, folder: Path, codes: Mapping[str, npt.NDArray[Any]], **options: Any) -> AuditResult:
    """Store codes as `.npy` files and audit them."""
    folder.mkdir(parents=True)
    for name, array in codes.items():
        np.save(folder / f"{name}.npy", array)
    return audit(str(folder), audio=str(corpus.folder), **{"codec": "demo", **options})


def only_fault(result: AuditResult) -> Finding:
    """The one fault that was found, notes aside."""
    faults = [found for found in result.findings if found.is_fault]
    assert len(faults) == 1, [found.line for found in faults]
    return faults[0]


def fault_of(result: AuditResult, kind: Kind) -> Finding:
    """The fault of a kind."""
    assert result.exit_code == 1
    (found,) = [found for found in result.findings if found.kind is kind]
    return found


def no_fault(result: AuditResult) -> AuditResult:
    """The result, in which nothing is wrong."""
    assert result.problems == ()
    assert result.exit_code == 0
    return result
