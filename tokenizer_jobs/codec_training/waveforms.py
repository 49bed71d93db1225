"""Audio decoded once: every item of a source as int16 samples at the codec's rate, in one file that is memory-mapped.

WAVEFORMS/
  samples.i16     item after item, [n, C] each, little-endian
  index.json      written last: what was decoded, and where each item lies
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.config import SourceConfig
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.records import DecodedItem, Item
from tokenizer_jobs.sources import Source, make_source

__all__ = ["Recording", "Waveforms", "decode_waveforms"]

FULL_SCALE = 32767
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One item of a source."""

    id: str
    content_sha256: str
    """Of the item's bytes; copies of a recording agree in it."""
    start: int
    """Its first sample in the file, counted in samples per channel."""
    num_samples: int
    """Per channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveforms:
    """The decoded audio of one source."""

    samples: npt.NDArray[np.int16]
    """[n, C], memory-mapped."""
    recordings: tuple[Recording, ...]

    def crop(self, recording: Recording, *, start: int, num_samples: int) -> npt.NDArray[np.float32]:
        """Float32 [C, num_samples] in [-1, 1], from sample `start` of a recording; zeros beyond its end."""
        num_present = max(0, min(num_samples, recording.num_samples - start))
        first = recording.start + start
        present = self.samples[first : first + num_present].T.astype(np.float32) / FULL_SCALE
        return np.pad(present, ((0, 0), (0, num_samples - num_present)))


def decode_waveforms(folder: Path, *, source: SourceConfig, sample_rate: int, channels: int) -> Waveforms:
    """Decode a source into `folder`, or open what an earlier call left there.

    Copies of a recording are kept once; items that cannot be decoded are left out.

    Raises:
        ConfigError: the source holds no audio.
    """
    origin = {"source": source.model_dump(mode="json"), "sample_rate": sample_rate, "channels": channels}
    index = folder / "index.json"
    if not index.exists() or json.loads(index.read_text())["origin"] != origin:
        target = AudioTarget(sample_rate=sample_rate, channels=channels)
        _decode(folder, make_source(source), target=target, origin=origin)
    recordings = tuple(Recording(**fields) for fields in json.loads(index.read_text())["recordings"])
    if not recordings:
        raise ConfigError(f"no recording of {origin['source']} could be decoded; `tokenizer-jobs plan` says why")
    samples = np.memmap(folder / "samples.i16", dtype="<i2", mode="r").reshape(-1, channels)
    return Waveforms(samples=samples, recordings=recordings)


def _decode(folder: Path, source: Source, *, target: AudioTarget, origin: dict[str, object]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "samples.i16").open("wb") as file:
        recordings = list(_append(file.fileno(), source, target=target))
    content = {"origin": origin, "recordings": [asdict(recording) for recording in recordings]}
    staged = folder / "index.json.staged"
    staged.write_text(json.dumps(content, indent=1))
    # A crash before this line leaves a folder without index, which the next call decodes anew.
    staged.replace(folder / "index.json")


def _append(file: int, source: Source, *, target: AudioTarget) -> Iterator[Recording]:
    start, seen = 0, set()
    for item in source.list().items:
        (decoded,) = decode_items([(0, item)], source=source, target=target)
        if not isinstance(decoded, DecodedItem):
            continue
        sha256 = _content_sha256(source, item)
        if sha256 in seen:
            continue
        seen.add(sha256)
        waveform = np.clip(decoded.float_waveform(), -1, 1)
        os.write(file, np.ascontiguousarray((waveform * FULL_SCALE).round().astype("<i2").T).tobytes())
        num_samples = decoded.facts.num_samples
        yield Recording(id=item.id, content_sha256=sha256, start=start, num_samples=num_samples)
        start += num_samples


def _content_sha256(source: Source, item: Item) -> str:
    digest = hashlib.sha256()
    with source.open(item) as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
