"""Group decoded rows into batches, in plan order: a pure function of the rows, never of their arrival."""

from collections.abc import Iterable, Iterator

import numpy as np

from tokenizer_jobs.records import Batch, Decoded, DecodedItem, DecodedStretch, RejectedItem

__all__ = ["ENOUGH_ITEMS", "MAX_BATCH_BYTES", "MAX_BATCH_ITEMS", "auto_batch_seconds", "form_batches"]

MAX_BATCH_ITEMS = 256
"""Rows in a batch, at most: bounds the rows in flight when clips are tiny."""
ENOUGH_ITEMS = 16
"""Long rows share a batch until there are so many: from there on an LSTM takes no less time per row. On a CPU a lone
one of the 24 kHz codec takes a seventh longer than one among four."""
MAX_BATCH_BYTES = 256 << 20
"""Waveforms, as float32, in a batch of several rows: 47 minutes of mono at 24 kHz, 12 of stereo at 48 kHz."""


def auto_batch_seconds(device: str) -> float:
    """Return what `runtime.batch_seconds` is where it is auto: audio in a batch of many rows, at most.

    On a GPU the steps of the LSTM take as long for 240 clips of 10 s as for twelve.
    """
    return 2400.0 if device == "cuda" else 120.0


def form_batches(
    decoded: Iterable[Decoded], *, batch_seconds: float
) -> Iterator[Batch | DecodedStretch | RejectedItem]:
    """Group rows that are encoded whole until a batch holds `batch_seconds` of audio, or 256 MiB.

    A batch may hold rows of several items, and several rows of one. Fewer than 16 rows may be more audio than
    `batch_seconds`; a row of more than 256 MiB is a batch of its own, so that no row is split. Rejects pass through at
    once, even before rows of the same item that wait: those are void, and keep their place in the batch. Stretches of
    recordings too long to be held come in their place, after what waited.

    Args:
        decoded: In plan order.
        batch_seconds: Audio in a batch of many rows, at most.
    """
    waiting: list[DecodedItem] = []
    seconds, size_bytes = 0.0, 0
    for item in decoded:
        if isinstance(item, RejectedItem):
            yield item
            continue
        if isinstance(item, DecodedStretch):
            if waiting:
                yield Batch(items=tuple(waiting))
                waiting, seconds, size_bytes = [], 0.0, 0
            yield item
            continue
        item_seconds, item_bytes = item.facts.duration_seconds, item.waveform.size * np.dtype(np.float32).itemsize
        within_seconds = seconds + item_seconds <= batch_seconds and len(waiting) < MAX_BATCH_ITEMS
        within_bytes = size_bytes + item_bytes <= MAX_BATCH_BYTES
        if waiting and not (within_bytes and (within_seconds or len(waiting) < ENOUGH_ITEMS)):
            yield Batch(items=tuple(waiting))
            waiting, seconds, size_bytes = [], 0.0, 0
        waiting.append(item)
        seconds += item_seconds
        size_bytes += item_bytes
    if waiting:
        yield Batch(items=tuple(waiting))
