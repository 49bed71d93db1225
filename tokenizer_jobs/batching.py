"""Group decoded items into batches, in plan order: a pure function of the items, never of their arrival."""

from collections.abc import Iterable, Iterator

import numpy as np

from tokenizer_jobs.records import Batch, Decoded, DecodedItem, DecodedStretch, RejectedItem

__all__ = ["ENOUGH_ITEMS", "MAX_BATCH_ITEMS", "MAX_LONG_BATCH_BYTES", "form_batches"]

MAX_BATCH_ITEMS = 256
"""Items in a batch, at most: bounds the rows in flight when clips are tiny."""
ENOUGH_ITEMS = 16
"""Long items share a batch until there are so many: from there on an LSTM takes no less time per item. On a CPU a lone
item of the 24 kHz codec takes a seventh longer than one of four."""
MAX_LONG_BATCH_BYTES = 256 << 20
"""Waveforms, as float32, that long items may bring into one batch: 47 minutes of mono at 24 kHz."""


def form_batches(
    decoded: Iterable[Decoded], *, batch_seconds: float
) -> Iterator[Batch | DecodedStretch | RejectedItem]:
    """Group items until a batch holds `batch_seconds` of audio; rejects pass through at once, stretches in their place.

    Fewer than 16 items may be more audio than that, up to 256 MiB. An item longer than both budgets is a batch of its
    own, so that an item is never split.

    Args:
        decoded: Items and rejects in plan order.
        batch_seconds: Audio in a batch of many items, at most.
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
        among_few = len(waiting) < ENOUGH_ITEMS and size_bytes + item_bytes <= MAX_LONG_BATCH_BYTES
        if waiting and not within_seconds and not among_few:
            yield Batch(items=tuple(waiting))
            waiting, seconds, size_bytes = [], 0.0, 0
        waiting.append(item)
        seconds += item_seconds
        size_bytes += item_bytes
    if waiting:
        yield Batch(items=tuple(waiting))
