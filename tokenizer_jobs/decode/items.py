"""Decode the items of a unit, one after the other: each becomes its rows' waveforms, or a reject with its reason."""

import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import soundfile

from tokenizer_jobs.decode.parts import rejected
from tokenizer_jobs.decode.readers import ffmpeg_is_installed
from tokenizer_jobs.decode.recordings import decode_recording
from tokenizer_jobs.decode.target import AudioTarget
from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Decoded, DecodedItem, Item, RejectedItem
from tokenizer_jobs.sources import Source

__all__ = ["decode_item", "decode_items", "decoder_versions", "opened_items"]


def decode_items(items: Sequence[tuple[int, Item]], *, source: Source, target: AudioTarget) -> Iterator[Decoded]:
    """Decode items in the order given; one that cannot be decoded is a reject in its place.

    All of one item comes before anything of the next, and its last piece says so; a reject ends its item and voids what
    came of it. Neighbours that are parts of one recording are decoded in one pass over it.

    Args:
        items: Pairs of position in the unit and item.
        source: Opens the items.
        target: What they are made into.

    Raises:
        TransientError: the storage failed; nothing is said about the item.
    """
    for recording, neighbours in groupby(items, key=_recording):
        if recording is None:
            for position, item in neighbours:
                if item.duplicate_of is None:
                    yield from decode_recording([(position, item)], source=source, target=target)
                else:
                    yield rejected(position, _duplicate(item))
        else:
            yield from decode_recording(list(neighbours), source=source, target=target)


def opened_items(items: Iterable[tuple[int, Item]]) -> Iterator[Item]:
    """The items that `decode_items` opens of those that it is given, in order: of one recording it opens the first."""
    for recording, neighbours in groupby(items, key=_recording):
        if recording is None:
            yield from (item for _, item in neighbours if item.duplicate_of is None)
        else:
            yield next(neighbours)[1]


def decode_item(item: Item, *, position: int, source: Source, target: AudioTarget) -> DecodedItem:
    """Decode one item to one waveform [C, n] at the codec's rate, however long it is and whatever slices are asked for.

    Args:
        item: The item.
        position: In its unit.
        source: Opens it.
        target: What it is made into; its channels are one row.

    Raises:
        ItemError: why it becomes a reject.
        TransientError: the storage failed; trying again may work.
    """
    assert target.channel_policy != "each", "an item is one row here"
    whole = replace(target, slice_samples=None, long_audio="exact", streamed=False)
    (decoded,) = decode_items([(position, item)], source=source, target=whole)
    if isinstance(decoded, RejectedItem):
        raise ItemError(decoded.message, stage=decoded.stage, reason=decoded.reason)
    assert isinstance(decoded, DecodedItem), "stretches are for codecs that stream"
    return decoded


def decoder_versions() -> dict[str, str]:
    """Versions of everything between bytes and waveform; `av` is "absent" without the extra."""
    return {
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": importlib.metadata.version("soxr"),
        "av": importlib.metadata.version("av") if ffmpeg_is_installed() else "absent",
    }


def _recording(numbered: tuple[int, Item]) -> tuple[str, str | None, int | None] | None:
    """What neighbours share that are parts of one recording; None: the item is decoded on its own."""
    _, item = numbered
    if item.duplicate_of is not None or (item.start_seconds is None and item.channel is None):
        return None
    return item.source_uri, item.source_member, item.source_row


def _duplicate(item: Item) -> ItemError:
    return ItemError(
        f"the same bytes as {item.duplicate_of!r}, which has the row (selection.deduplicate)",
        stage=Stage.FILTER,
        reason=RejectReason.DUPLICATE,
    )
