"""Group decoded items into batches, in plan order: a pure function of the items, never of their arrival."""

from collections.abc import Iterable, Iterator

from tokenizer_jobs.records import Batch, Decoded, DecodedItem, RejectedItem

__all__ = ["MAX_BATCH_ITEMS", "form_batches"]

MAX_BATCH_ITEMS = 256
"""Items in a batch, at most: bounds the rows in flight when clips are tiny."""


def form_batches(decoded: Iterable[Decoded], *, batch_seconds: float) -> Iterator[Batch | RejectedItem]:
    """Group items until a batch holds `batch_seconds` of audio; rejects pass through at once.

    An item longer than the budget is a batch of its own, so that an item is never split.

    Args:
        decoded: Items and rejects in plan order.
        batch_seconds: Audio in a batch, at most.
    """
    waiting: list[DecodedItem] = []
    seconds = 0.0
    for item in decoded:
        if isinstance(item, RejectedItem):
            yield item
            continue
        duration = item.facts.duration_seconds
        if waiting and (seconds + duration > batch_seconds or len(waiting) == MAX_BATCH_ITEMS):
            yield Batch(items=tuple(waiting))
            waiting, seconds = [], 0.0
        waiting.append(item)
        seconds += duration
    if waiting:
        yield Batch(items=tuple(waiting))
