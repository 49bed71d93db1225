"""Which new items a job takes: `include`, `exclude`, `sample` and `limit`, then the search for duplicates.

new items ──include──▶ ──exclude──▶ ──sample──▶ ──limit──▶ ──deduplicate──▶ planned items

Only new items are judged: what the output has already stays, and what is left out now is new again next time. All but
`limit` look at an item's id alone. So a sample of 10 % holds every item of a sample of 1 %, and of a source that grows
the same items are drawn as if it had been whole from the beginning.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.config import Selection
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.globs import any_glob
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning.deduplication import OpenItem, find_duplicates
from tokenizer_jobs.planning.stored import read_item_columns
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.wording import count_text, counts_text

__all__ = ["Selected", "select_items", "select_new"]

NOT_INCLUDED, EXCLUDED, NOT_SAMPLED, BEYOND_LIMIT = "not included", "excluded", "not in the sample", "beyond the limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Of a listing's new items, those that are planned, and what became of the others."""

    items: ItemTable
    left_out: Mapping[str, int]
    """Counted by the first step that left them out."""


def select_new(
    new: ItemTable,
    *,
    selection: Selection,
    num_known: int,
    storage: Storage,
    generations: tuple[int, ...],
    open_item: OpenItem,
) -> Selected:
    """Select among the items that the output does not have, and mark duplicates where the job asks for it.

    Args:
        new: Items that the output does not have.
        selection: Of the job.
        num_known: Items that the output has; they count for `limit`.
        storage: The output.
        generations: Its plans.
        open_item: Opens an item's bytes, as `Source.open`; called by several threads, for `deduplicate` only.

    Raises:
        ConfigError: nothing is left, and the output has nothing either.
    """
    selected = select_items(new, selection=selection, num_known=num_known)
    if new and not selected.items and not num_known:
        raise ConfigError(
            f"the selection leaves none of {count_text(len(new), 'item')} ({counts_text(selected.left_out)}); globs "
            "match whole ids, such as 'books/**': mend selection.include and exclude, or take a larger sample"
        )
    if not selection.deduplicate:
        return selected
    duplicates = find_duplicates(
        selected.items, known=lambda: read_item_columns(storage, generations), open_item=open_item
    )
    return Selected(items=selected.items.with_duplicates(duplicates), left_out=selected.left_out)


def select_items(new: ItemTable, *, selection: Selection, num_known: int = 0) -> Selected:
    """Select items by their ids, then the first of them up to the limit.

    Args:
        new: Items that the output does not have.
        selection: `include`, `exclude`, `sample` with `seed`, and `limit`.
        num_known: Items that the output has: with them it holds no more than `limit` in all.
    """
    left_out: Counter[str] = Counter()
    kept = np.ones(len(new), np.bool_)
    if selection.include is not None or selection.exclude or selection.sample is not None:
        kept = np.fromiter(_kept(new, selection, left_out), np.bool_, len(new))
    if selection.limit is not None:
        places = np.flatnonzero(kept)
        beyond = places[max(0, selection.limit - num_known) :]
        kept[beyond] = False
        left_out[BEYOND_LIMIT] += len(beyond)
    return Selected(items=new if kept.all() else new.where(kept), left_out={k: n for k, n in left_out.items() if n})


def _kept(new: ItemTable, selection: Selection, left_out: Counter[str]) -> Iterator[bool]:
    included = None if selection.include is None else any_glob(selection.include)
    excluded = any_glob(selection.exclude)
    for batch in new.batches(["id"]):
        ids: list[str] = batch.column("id").to_pylist()
        in_sample = _in_sample(ids, share=selection.sample, seed=selection.seed)
        for item_id, is_drawn in zip(ids, in_sample, strict=True):
            if included is not None and not included.fullmatch(item_id):
                left_out[NOT_INCLUDED] += 1
            elif excluded.fullmatch(item_id):
                left_out[EXCLUDED] += 1
            elif not is_drawn:
                left_out[NOT_SAMPLED] += 1
            else:
                yield True
                continue
            yield False


def _in_sample(ids: list[str], *, share: float | None, seed: int) -> npt.NDArray[np.bool_]:
    """Whether the hash of seed and id, as a number in [0, 1), is below the share."""
    if share is None or share >= 1:
        return np.ones(len(ids), np.bool_)
    key = str(seed).encode()
    digests = b"".join(blake2b(text.encode(), digest_size=8, key=key).digest() for text in ids)
    drawn: npt.NDArray[np.bool_] = np.frombuffer(digests, np.dtype("<u8")) < np.uint64(int(share * 2.0**64))
    return drawn
