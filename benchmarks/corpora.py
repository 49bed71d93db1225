"""Corpora for the job benchmark, made from a folder of real recordings: `clips`, `podcasts`, `songs` and `tiny`.

The folder's MANIFEST.tsv says what is in it: columns `path` and `seconds`; the first folder of a path is its part. A
file of a corpus is different recordings one after the other, in an order drawn by seed, each at one loudness, cut to
the stated length. The same seed, scale and recordings give the same samples.

| corpus   | at scale 1                 | below                        | of the parts          |
| -------- | -------------------------- | ---------------------------- | --------------------- |
| clips    | 96 × 10 s, mp3, mono, 24, 32, 44.1 and 48 kHz in turn | fewer | speech, music, letters |
| podcasts | 2 × 1 h, Opus, mono        | shorter                      | speech, letters       |
| songs    | 4 × 4 min, FLAC, 44.1 kHz stereo | two, then shorter      | music                 |
| tiny     | 1,000 of the folder's own files, drawn by seed | fewer    | all                   |
"""

import csv
import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

__all__ = ["CORPORA", "Corpus", "Recording", "build_corpus", "read_manifest"]

CORPORA = ("clips", "podcasts", "songs", "tiny")
SEED = 0
RMS = 0.1
"""Of every recording: -20 dB of full scale, as podcasts are; less where a peak would pass `LARGEST_PEAK`."""
LARGEST_PEAK = 0.9
FADE_SECONDS = 0.01
"""At both ends of a recording, so that joints do not click."""
BLOCK_SECONDS = 1
"""Written at once. libsndfile 1.2 dies when it is given a minute of Opus in one call."""
_FORMAT = 1

Samples = npt.NDArray[np.float32]
"""[n, C] in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Files to tokenize."""

    name: str
    folder: Path
    about: str
    """One line: what the files are."""
    num_files: int
    audio_seconds: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One line of the manifest."""

    path: Path
    part: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What the files of a corpus are made into."""

    container: str
    """Of soundfile."""
    subtype: str
    suffix: str
    rates: tuple[int, ...]
    """In turn."""
    channels: int
    parts: tuple[str, ...]
    """Of the recordings; where the folder has none of them, all recordings serve."""


_FORMS = {
    "clips": _Form(
        container="MP3", subtype="MPEG_LAYER_III", suffix="mp3", rates=(24_000, 32_000, 44_100, 48_000), channels=1,
        parts=("speech", "music", "klettres_multi"),
    ),
    "podcasts": _Form(
        container="OGG", subtype="OPUS", suffix="opus", rates=(48_000,), channels=1,
        parts=("speech", "klettres_multi"),
    ),
    "songs": _Form(
        container="FLAC", subtype="PCM_16", suffix="flac", rates=(44_100,), channels=2, parts=("music",)
    ),
}  # fmt: skip


def build_corpus(name: str, *, audio: Path, cache: Path, scale: float) -> Corpus:
    """Make a corpus, or find it made already.

    Args:
        name: one of `CORPORA`.
        audio: folder of real recordings with its MANIFEST.tsv.
        cache: where corpora are kept, each in a folder of its own.
        scale: 1 for the sizes above; less for a quick look.

    Raises:
        SystemExit: the folder has no manifest.
    """
    recordings = read_manifest(audio)
    if name == "tiny":
        count, seconds = min(len(recordings), max(4, round(1000 * scale))), 0.0
    else:
        count, seconds = _shape(name, scale)
    facts = [_FORMAT, SEED, name, count, seconds, [[str(r.path.relative_to(audio)), r.seconds] for r in recordings]]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{digest}"
    made = cache / f"{name}-{digest}.json"
    if not made.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if name == "tiny":
            corpus = _copy_files(recordings, audio=audio, folder=folder, count=count)
        else:
            corpus = _write_files(name, recordings, folder=folder, count=count, seconds=seconds)
        made.write_text(json.dumps(asdict(corpus) | {"folder": None}))  # last: a corpus without it is made again
    return Corpus(**json.loads(made.read_text()) | {"folder": folder})


def read_manifest(audio: Path) -> list[Recording]:
    """Read a folder's MANIFEST.tsv, in the order of paths.

    Raises:
        SystemExit: there is none, or it lacks a column.
    """
    path = audio / "MANIFEST.tsv"
    if not path.exists():
        raise SystemExit(
            f"{path} does not exist; give --audio a folder of real recordings whose MANIFEST.tsv has the columns path "
            "and seconds"
        )
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if not rows or not {"path", "seconds"} <= rows[0].keys():
        raise SystemExit(f"{path} has no rows with the columns path and seconds, separated by tabs")
    return [
        Recording(path=audio / row["path"], part=row["path"].split("/")[0], seconds=float(row["seconds"]))
        for row in sorted(rows, key=lambda row: row["path"])
    ]


def _shape(name: str, scale: float) -> tuple[int, float]:
    """Number of files and seconds of each."""
    if name == "clips":
        return max(4, round(96 * scale)), 10.0
    if name == "podcasts":
        return 2, float(max(1, round(3600 * scale)))
    count = max(2, round(4 * scale))
    return count, min(240.0, float(max(1, round(960 * scale / count))))


def _copy_files(recordings: Sequence[Recording], *, audio: Path, folder: Path, count: int) -> Corpus:
    drawn = sorted(random.Random(SEED).sample(range(len(recordings)), count))
    chosen = [recordings[index] for index in drawn]
    for recording in chosen:
        target = folder / recording.path.relative_to(audio)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recording.path, target)
    longest = max(recording.seconds for recording in chosen)
    shortest = min(recording.seconds for recording in chosen)
    about = f"{count} short files as they are, {shortest:.2g} to {longest:.2g} s"
    seconds = sum(recording.seconds for recording in chosen)
    return Corpus(
        name="tiny",
        folder=folder,
        about=about,
        num_files=count,
        audio_seconds=seconds,
        size_bytes=_size_bytes(folder),
    )


def _write_files(name: str, recordings: Sequence[Recording], *, folder: Path, count: int, seconds: float) -> Corpus:
    form = _FORMS[name]
    material = [recording for recording in recordings if recording.part in form.parts] or list(recordings)
    for index in range(count):
        rate = form.rates[index % len(form.rates)]
        path = folder / f"{name}-{index:04d}.{form.suffix}"
        pieces = _pieces(material, rate=rate, channels=form.channels, draws=random.Random(f"{SEED} {path.name}"))
        with soundfile.SoundFile(
            path, "w", samplerate=rate, channels=form.channels, format=form.container, subtype=form.subtype
        ) as file:
            for block in _cut(pieces, num_samples=round(seconds * rate), block_samples=BLOCK_SECONDS * rate):
                file.write(block)
    rates = ", ".join(f"{rate / 1000:g}" for rate in form.rates)
    about = (
        f"{count} × {seconds:g} s, {form.container}/{form.subtype}, {rates} kHz, "
        f"{'mono' if form.channels == 1 else 'stereo'}"
    )
    return Corpus(
        name=name,
        folder=folder,
        about=about,
        num_files=count,
        audio_seconds=count * seconds,
        size_bytes=_size_bytes(folder),
    )


def _pieces(material: Sequence[Recording], *, rate: int, channels: int, draws: random.Random) -> Iterator[Samples]:
    """Recordings without end, each at the common loudness: all of them in one order, then all in another."""
    while True:
        for recording in draws.sample(material, len(material)):
            yield _at_level(_read(recording.path, rate=rate, channels=channels), rate=rate)


def _read(path: Path, *, rate: int, channels: int) -> Samples:
    samples, source_rate = soundfile.read(path, dtype="float32", always_2d=True)
    if samples.shape[1] > channels:
        samples = samples.mean(axis=1, keepdims=True)
    resampled: Samples = soxr.resample(samples, source_rate, rate)
    return np.repeat(resampled, channels // resampled.shape[1], axis=1)


def _at_level(samples: Samples, *, rate: int) -> Samples:
    rms, peak = float(np.sqrt(np.square(samples).mean())), float(np.abs(samples).max())
    if peak == 0:
        return samples
    samples = samples * np.float32(min(RMS / rms, LARGEST_PEAK / peak))
    fade = min(round(FADE_SECONDS * rate), len(samples))
    ramp = np.linspace(0, 1, fade, dtype=np.float32)[:, None]
    samples[:fade] *= ramp
    samples[len(samples) - fade :] *= ramp[::-1]
    return samples


def _cut(pieces: Iterator[Samples], *, num_samples: int, block_samples: int) -> Iterator[Samples]:
    left = num_samples
    for piece in pieces:
        kept = piece[:left]
        for start in range(0, len(kept), block_samples):
            yield kept[start : start + block_samples]
        left -= len(kept)
        if left == 0:
            return


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
