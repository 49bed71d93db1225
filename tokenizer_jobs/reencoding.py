"""Encoding a sample of an output's items again, with the plain reference model, and comparing the codes.

An item that is decoded whole is compared whole. A recording that comes in stretches would not fit into the plain model:
its first ten minutes are compared. Their codes are those of the whole recording, because a codec that is streamed looks
no further ahead than a frame, or a window. Of an item with many rows, rows are compared until ten minutes are reached.
"""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import numpy as np
from pydantic import BaseModel, ConfigDict

from encodec_core import Agreement
from tokenizer_jobs.commits import read_commit
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.encoding import EncodecCodec, Waveform, load_codec
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason
from tokenizer_jobs.planning import list_generations, read_plan_summary, read_units
from tokenizer_jobs.receipts import Receipts, read_receipts
from tokenizer_jobs.recipe import ResolvedRecipe, read_recipe
from tokenizer_jobs.records import (
    Decoded,
    DecodedItem,
    DecodedStretch,
    EncodedItem,
    Item,
    RejectedItem,
    RowPlace,
    WorkUnit,
)
from tokenizer_jobs.row_places import PlacedRow, placed_row
from tokenizer_jobs.shards import read_rows
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import make_source
from tokenizer_jobs.steps import Steps, untold
from tokenizer_jobs.storage import Storage

__all__ = ["ReencodeResult", "reencode_sample"]

COMPARED_SECONDS = 600.0
"""Of a recording that comes in stretches, and of an item with many rows."""

_GONE = frozenset({RejectReason.VANISHED, RejectReason.CHANGED})


class ReencodeResult(BaseModel):
    """How the codes of a sample of items compare with those that the reference model gives their audio now."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    items: int
    """Encoded again."""
    partly: int
    """Of these, compared over about ten minutes only, because they are longer."""
    seconds: float
    """Of audio that was compared."""
    gone: int
    """In the sample, but the input has vanished or changed since, so nothing can be said."""
    codes: int
    """Compared."""
    equal: int
    near_tie_frames: int
    """Frames whose first differing codebook is a near tie of the reference itself."""
    wrong_frames: int
    """Frames that differ otherwise: faults."""
    problems: tuple[str, ...]
    """One line for each item with a fault."""


@dataclass(slots=True)
class _Sums:
    items: int = 0
    partly: int = 0
    seconds: float = 0.0
    gone: int = 0
    codes: int = 0
    equal: int = 0
    near_tie_frames: int = 0
    wrong_frames: int = 0
    problems: list[str] = field(default_factory=list)

    def result(self) -> ReencodeResult:
        problems = list(self.problems)
        if self.items == 0 and self.gone:
            problems.append(
                f"none of {self.gone} sampled items could be encoded again: their inputs vanished or changed"
            )
        return ReencodeResult(
            items=self.items,
            partly=self.partly,
            seconds=self.seconds,
            gone=self.gone,
            codes=self.codes,
            equal=self.equal,
            near_tie_frames=self.near_tie_frames,
            wrong_frames=self.wrong_frames,
            problems=tuple(problems),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredItem:
    item: Item
    rows: Sequence[tuple[PlacedRow, EncodedItem]]
    """In plan order."""


@dataclass(slots=True, kw_only=True)
class _Recording:
    """What is encoded in one go: one row, or all rows of a channel that comes in stretches."""

    place: RowPlace
    """Of its first row."""
    is_one_row: bool
    pieces: list[Waveform] = field(default_factory=list)
    """From its beginning on."""
    num_samples: int = 0
    """In the pieces."""
    is_whole: bool = False
    """Or only its beginning."""


def reencode_sample(
    storage: Storage, *, fraction: float, model: str | None = None, report: Steps = untold
) -> ReencodeResult:
    """Decode and encode a sample of committed items again and compare.

    The sample is a function of the ids, so that everybody checks the same items.

    Args:
        storage: The output.
        fraction: Share of the items, in (0, 1]; at least one item of every output is taken.
        model: Where the codec is now; None: where the recipe says.
        report: Told how many `units` were looked at.

    Raises:
        ConfigError: the codec cannot be loaded, or has other weights than the output's.
    """
    recipe = read_recipe(storage)
    codec = _load_same_codec(recipe, model=model)
    receipts = read_receipts(storage)
    sums = _Sums()
    num_units = sum(read_plan_summary(storage, generation).num_units for generation in list_generations(storage))
    for number, (unit, target, source_config) in enumerate(_committed_units(storage, recipe, codec), start=1):
        source = make_source(source_config)
        per_channel = recipe.audio.channels == "each"
        for stored in _stored_items(storage, unit, receipts=receipts, per_channel=per_channel):
            if sums.items > 0 and _draw(stored.item.id) >= fraction:
                continue
            steps = decode_items([(0, stored.item)], source=source, target=target)
            with closing(cast(Generator[Decoded, None, None], steps)) as decoded:
                _compare_item(stored, decoded, codec=codec, target=target, sums=sums)
        report("units", number, num_units)
    return sums.result()


def _compare_item(
    stored: _StoredItem, decoded: Iterator[Decoded], *, codec: EncodecCodec, target: AudioTarget, sums: _Sums
) -> None:
    """Compare the codes of one item, and add up what was found."""
    found: list[Agreement] = []
    num_samples, is_partly = 0, False
    limit_samples = round(COMPARED_SECONDS * target.sample_rate)
    recordings = _recordings(decoded, restarts=target.long_audio == "restart", limit_samples=limit_samples)
    try:
        for recording in recordings:
            rows = _rows_of(recording, stored)
            agreement = _compare_recording(recording, rows, codec=codec) if rows else None
            if agreement is not None:
                found.append(agreement)
                num_samples += recording.num_samples
            is_partly = is_partly or not recording.is_whole
            if recording.is_one_row and num_samples >= limit_samples and recording.place != stored.rows[-1][0].place:
                is_partly = True
                break
    except ItemError as error:
        if error.reason in _GONE:
            sums.gone += 1
        else:
            sums.problems.append(f"{stored.item.id}: has rows, but now is a reject ({error.reason}: {error.message})")
        return
    if found:
        sums.items += 1
        sums.partly += is_partly
        sums.seconds += num_samples / target.sample_rate
        _add_up(found, item_id=stored.item.id, sums=sums)


def _add_up(found: Sequence[Agreement], *, item_id: str, sums: _Sums) -> None:
    num_wrong = sum(agreement.num_wrong_frames for agreement in found)
    num_frames = sum(agreement.num_frames for agreement in found)
    sums.codes += sum(agreement.num_codes for agreement in found)
    sums.equal += sum(agreement.num_equal for agreement in found)
    sums.near_tie_frames += sum(agreement.num_near_tie_frames for agreement in found)
    sums.wrong_frames += num_wrong
    if num_wrong:
        sums.problems.append(
            f"{item_id}: {num_wrong} of {num_frames} frames are not what the codec gives its audio; do not train on "
            "this output, and run it anew elsewhere"
        )


def _recordings(decoded: Iterator[Decoded], *, restarts: bool, limit_samples: int) -> Iterator[_Recording]:
    """Put together what an item decodes to; of what comes in stretches the beginning, and no more of it is decoded.

    Raises:
        ItemError: the item is a reject now.
    """
    begun: dict[tuple[int | None, int], _Recording] = {}
    for step in decoded:
        if isinstance(step, RejectedItem):
            raise ItemError(step.message, stage=step.stage, reason=step.reason)
        if isinstance(step, DecodedItem):
            recording = _Recording(place=step.place, is_one_row=True, is_whole=True)
            _add_piece(recording, step, limit_samples=None)
            yield recording
            continue
        key = (step.place.channel, step.place.slice_index if restarts else 0)
        recording = begun.setdefault(key, _Recording(place=step.place, is_one_row=restarts))
        has_room = recording.num_samples < limit_samples
        _add_piece(recording, step, limit_samples=limit_samples)
        if restarts and step.facts is not None:
            recording.is_whole = has_room and recording.num_samples == step.facts.num_samples
            yield begun.pop(key)
        elif not step.is_last and all(each.num_samples >= limit_samples for each in begun.values()):
            break
        elif step.is_last:
            for each in begun.values():
                each.is_whole = each.num_samples < limit_samples
    yield from begun.values()


def _add_piece(recording: _Recording, step: DecodedItem | DecodedStretch, *, limit_samples: int | None) -> None:
    waveform = step.float_waveform()
    if limit_samples is not None:
        waveform = waveform[:, : max(0, limit_samples - recording.num_samples)]
    recording.pieces.append(waveform)
    recording.num_samples += waveform.shape[1]


def _rows_of(recording: _Recording, stored: _StoredItem) -> list[tuple[PlacedRow, EncodedItem]]:
    """The rows that a recording begins with: up to the first that is not in the output any more."""
    place = recording.place
    rows = {row.place.slice_index: (row, codes) for row, codes in stored.rows if row.place.channel == place.channel}
    found: list[tuple[PlacedRow, EncodedItem]] = []
    while (slice_index := place.slice_index + len(found)) in rows and not (recording.is_one_row and found):
        found.append(rows[slice_index])
    return found


def _compare_recording(
    recording: _Recording, rows: Sequence[tuple[PlacedRow, EncodedItem]], *, codec: EncodecCodec
) -> Agreement | None:
    """Compare a recording with its rows; None where what is left of it is too short for that."""
    waveform = np.concatenate(recording.pieces, axis=1)
    encoded = _joined([codes for _, codes in rows])
    if recording.is_whole and (recording.is_one_row or len(rows) == rows[0][0].slice_count):
        return codec.compare(waveform, encoded)
    return codec.compare_beginning(waveform, encoded)


def _joined(pieces: Sequence[EncodedItem]) -> EncodedItem:
    scales = [piece.scales for piece in pieces if piece.scales is not None]
    window_frames = [piece.window_frames for piece in pieces if piece.window_frames is not None]
    return EncodedItem(
        codes=np.concatenate([piece.codes for piece in pieces], axis=1),
        scales=np.concatenate(scales) if scales else None,
        window_frames=np.concatenate(window_frames) if window_frames else None,
    )


def _load_same_codec(recipe: ResolvedRecipe, *, model: str | None) -> EncodecCodec:
    if recipe.is_imported:
        raise ConfigError(
            "the codes of this output were imported, so that it knows no audio to encode again; `verify` without "
            "--reencode checks what is stored"
        )
    codec_recipe = recipe.codec if model is None else recipe.codec.model_copy(update={"model": model, "revision": None})
    codec = load_codec(codec_recipe, device="auto")
    found = codec.describe().weights_sha256
    if found != recipe.weights_sha256:
        raise ConfigError(
            f"{codec_recipe.model!r} has weights {found[:16]}…, the output needs {recipe.weights_sha256[:16]}…; "
            "give the codec that made it"
        )
    return codec


def _committed_units(
    storage: Storage, recipe: ResolvedRecipe, codec: EncodecCodec
) -> Iterator[tuple[WorkUnit, AudioTarget, SourceConfig]]:
    facts = codec.describe()
    for generation in list_generations(storage):
        selection = read_plan_summary(storage, generation).read_selection()
        target = AudioTarget.for_codec(facts, audio=recipe.audio, filters=selection.filters)
        for unit in read_units(storage, generation):
            yield unit, target, selection.source


def _stored_items(storage: Storage, unit: WorkUnit, *, receipts: Receipts, per_channel: bool) -> Iterator[_StoredItem]:
    """The items of a unit that have rows, one at a time: an item's rows follow one another."""
    commit = read_commit(storage, generation=unit.generation, unit_id=unit.unit_id, receipts=receipts)
    if commit is None or not receipts.is_live(commit):
        return
    items = {item.id: item for item in unit.items}
    for shard in commit.shards:
        placed = (
            (placed_row(row.columns, per_channel=per_channel), row.encoded) for row in read_rows(storage, shard.path)
        )
        for item_id, rows in groupby(placed, key=lambda pair: pair[0].item_id):
            yield _StoredItem(item=items[item_id], rows=list(rows))


def _draw(item_id: str) -> float:
    """A number in [0, 1) that the id alone decides."""
    return int.from_bytes(hashlib.sha256(item_id.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
