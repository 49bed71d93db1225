"""A source's audio to the file that training reads from, item by item, going on where an earlier call was interrupted.

    list ──▶ hash, leave out copies ──▶ decode ──▶ samples.i16 ──▶ a line of decoded.jsonl │ … │ ──▶ index.json

The lines are what an interrupted decoding goes on from: what lies in `samples.i16` beyond them is cut off.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.codec_training.waveforms import (
    FULL_SCALE,
    INDEX,
    SAMPLES,
    Recording,
    Undecoded,
    Waveforms,
    open_waveforms,
)
from tokenizer_jobs.decode import AudioTarget, decode_item
from tokenizer_jobs.decode.opened import open_input
from tokenizer_jobs.errors import ConfigError, ItemError
from tokenizer_jobs.records import FULL_SCALE_INT16, Item
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import Source, make_source
from tokenizer_jobs.wording import audio_text, count_text, counts_text

__all__ = ["decode_waveforms"]

JOURNAL = "decoded.jsonl"
READ_BYTES = 1 << 20
BLOCK_SAMPLES = 1 << 20
LINE_SECONDS = 30.0
"""Time between two lines of progress."""


def decode_waveforms(
    folder: Path, *, source: SourceConfig, sample_rate: int, channels: int, say: Callable[[str], None]
) -> Waveforms:
    """Decode a source into `folder`, or open what an earlier call left there.

    Copies of a recording are kept once. Items that cannot be decoded are left out, and listed in index.json.

    Args:
        folder: Of this source alone.
        source: As `selection.source` of a job file.
        sample_rate: Of the codec, in Hz.
        channels: Of the codec.
        say: Gets a line now and then.

    Raises:
        ConfigError: the source holds no audio, or the folder holds other audio.
        TransientError: the storage failed; the next call goes on.
    """
    origin = {"source": source.model_dump(mode="json"), "sample_rate": sample_rate, "channels": channels}
    if not (folder / INDEX).exists():
        target = AudioTarget(sample_rate=sample_rate, channels=channels)
        _decode(folder, make_source(source), target=target, origin=origin, say=say)
    else:
        _check_origin(folder, json.loads((folder / INDEX).read_text())["origin"], wanted=origin)
    waveforms = open_waveforms(folder)
    say(f"{folder.name}: {_described(waveforms, folder)}")
    return waveforms


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """An item with the bytes of another one."""

    id: str


_Outcome = Recording | Undecoded | _Copy
_KINDS: dict[str, type[_Outcome]] = {"recording": Recording, "undecoded": Undecoded, "copy": _Copy}


def _decode(
    folder: Path, source: Source, *, target: AudioTarget, origin: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    items = source.list().items
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = _go_on(folder, origin=origin, channels=target.channels)
    with (folder / SAMPLES).open("ab") as samples, (folder / JOURNAL).open("a") as journal:
        outcomes += _rest(items, source, outcomes, target=target, samples=samples, journal=journal, say=say)
        os.fsync(samples.fileno())
    recordings = [outcome for outcome in outcomes if isinstance(outcome, Recording)]
    undecoded = [outcome for outcome in outcomes if isinstance(outcome, Undecoded)]
    if not recordings:
        (folder / JOURNAL).unlink()  # so that audio that was mended is tried again
        raise ConfigError(
            f"no recording of {origin['source']} could be decoded: {_reasons(undecoded)}; `tokenizer-jobs plan` shows "
            "what is there"
        )
    index = {
        "origin": origin,
        "recordings": [asdict(recording) for recording in recordings],
        "undecoded": [asdict(item) for item in undecoded],
        "num_copies": len(outcomes) - len(recordings) - len(undecoded),
    }
    staged = folder / f"{INDEX}.staged"
    staged.write_text(json.dumps(index, indent=1))
    # A crash before the next line leaves a folder without index: the next call goes on after the last item that the
    # journal names. A crash after it leaves a journal that nobody reads.
    staged.replace(folder / INDEX)
    (folder / JOURNAL).unlink()


def _go_on(folder: Path, *, origin: Mapping[str, Any], channels: int) -> list[_Outcome]:
    """Return what became of the items so far, and cut off samples that belong to none."""
    path = folder / JOURNAL
    lines = (
        [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []
    )
    outcomes: list[_Outcome] = []
    if lines:
        _check_origin(folder, json.loads(lines[0]), wanted=origin)
        outcomes = [_KINDS[kind](**fields) for line in lines[1:] for kind, fields in json.loads(line).items()]
    size = 2 * channels * sum(outcome.num_samples for outcome in outcomes if isinstance(outcome, Recording))
    if not (folder / SAMPLES).exists() or (folder / SAMPLES).stat().st_size < size:
        size, outcomes = 0, []  # never begun, or the machine died before what the journal names was on the disk
    with (folder / SAMPLES).open("ab") as samples:
        samples.truncate(size)
    path.write_text(json.dumps(origin) + "\n" + "".join(_line(outcome) for outcome in outcomes))
    return outcomes


def _line(outcome: _Outcome) -> str:
    (kind,) = (kind for kind, record in _KINDS.items() if isinstance(outcome, record))
    return json.dumps({kind: asdict(outcome)}) + "\n"


def _rest(
    items: Sequence[Item],
    source: Source,
    outcomes: Sequence[_Outcome],
    *,
    target: AudioTarget,
    samples: BinaryIO,
    journal: TextIO,
    say: Callable[[str], None],
) -> Iterator[_Outcome]:
    """Decode the items of which nothing became so far."""
    finished = {outcome.id for outcome in outcomes}
    recordings = [outcome for outcome in outcomes if isinstance(outcome, Recording)]
    hashes = {recording.content_sha256 for recording in recordings}
    start = sum(recording.num_samples for recording in recordings)
    said_at = time.monotonic()
    for number, item in enumerate(items):
        if item.id in finished:
            continue
        if time.monotonic() - said_at > LINE_SECONDS:
            said_at = time.monotonic()
            hours = start / target.sample_rate / 3600
            say(f"decoding, {number} of {count_text(len(items), 'item')}: {audio_text(hours)}")
        outcome = _append(samples, item, source, target=target, start=start, hashes=hashes)
        samples.flush()
        journal.write(_line(outcome))
        journal.flush()
        if isinstance(outcome, Recording):
            hashes.add(outcome.content_sha256)
            start += outcome.num_samples
        yield outcome


def _append(
    samples: BinaryIO, item: Item, source: Source, *, target: AudioTarget, start: int, hashes: Set[str]
) -> _Outcome:
    """Decode one item to the end of the samples, unless its bytes are known."""
    try:
        sha256 = _content_sha256(item, source=source)
        if sha256 in hashes:
            return _Copy(id=item.id)
        decoded = decode_item(item, position=0, source=source, target=target)
    except ItemError as error:
        return Undecoded(id=item.id, reason=error.reason, message=error.message)
    for first in range(0, decoded.facts.num_samples, BLOCK_SAMPLES):
        samples.write(_int16(decoded.waveform[:, first : first + BLOCK_SAMPLES]).tobytes())
    return Recording(id=item.id, content_sha256=sha256, start=start, num_samples=decoded.facts.num_samples)


def _int16(waveform: npt.NDArray[np.generic]) -> npt.NDArray[np.int16]:
    """A waveform [C, n] as it is stored, [n, C]."""
    values = waveform.astype(np.float32)
    if waveform.dtype == np.int16:
        values /= np.float32(FULL_SCALE_INT16)
    stored = (np.clip(values, -1, 1) * FULL_SCALE).round().astype("<i2").T
    return np.ascontiguousarray(stored)


def _content_sha256(item: Item, *, source: Source) -> str:
    digest = hashlib.sha256()
    with open_input(item, source=source) as content:
        for offset in range(0, content.size, READ_BYTES):
            digest.update(content.read_at(offset, READ_BYTES))
    return digest.hexdigest()


def _check_origin(folder: Path, found: Mapping[str, Any], *, wanted: Mapping[str, Any]) -> None:
    if found != wanted:
        raise ConfigError(
            f"{folder} holds audio decoded from {dict(found)}, and wanted is {dict(wanted)}; remove the folder to "
            "decode anew, or give another output"
        )


def _described(waveforms: Waveforms, folder: Path) -> str:
    text = f"{count_text(len(waveforms.recordings), 'recording')}, {audio_text(waveforms.hours)}"
    if waveforms.num_copies:
        text += f", {count_text(waveforms.num_copies, 'item')} left out as copies"
    if waveforms.undecoded:
        text += f"; not decoded: {_reasons(waveforms.undecoded)}, see {folder / INDEX}"
    return text


def _reasons(undecoded: Sequence[Undecoded]) -> str:
    return counts_text(Counter(item.reason for item in undecoded))
