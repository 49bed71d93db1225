"""Opening a planned file: the bytes are those that were planned, or there are none."""

from typing import IO

from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Item
from tokenizer_jobs.storage import open_source, stat_source

__all__ = ["open_planned"]


def open_planned(item: Item, *, location: str) -> IO[bytes]:
    """Open the file of an item; where its version was known when it was planned, that version.

    Args:
        item: As it was planned.
        location: What opens its file.

    Raises:
        ItemError: it is another version now.
        OSError, TransientError: as `open_source`.
    """
    file = open_source(location)
    if item.source_etag is None:
        return file
    try:
        etag = stat_source(location).etag
    except BaseException:
        file.close()
        raise
    if etag != item.source_etag:
        file.close()
        raise ItemError(
            f"version {etag}, {item.source_etag} when it was planned; the item keeps what this output has, "
            "write to a new output to take the new input",
            stage=Stage.READ,
            reason=RejectReason.CHANGED,
        )
    return file
