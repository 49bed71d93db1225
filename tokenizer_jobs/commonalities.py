"""What rejects have in common that other items do not: folder, extension, archive, size, worker.

The rejects of the most frequent reason are looked up in the plan. Every trait that nearly all of them share is then
counted over everything that was tokenized; one that the other items share as well explains nothing and is left out.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_jobs.commit_records import Commit
from tokenizer_jobs.errors import RejectReason
from tokenizer_jobs.planning import read_item_columns
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.wording import bytes_text, count_text

__all__ = ["common_traits", "describe_rejects"]

MOST_REJECTS = 5000
"""Looked at, of the most frequent reason."""
SHARED = 0.8
"""Share of the rejects that must have a trait."""
TELLING = 1.5
"""How many times as often a trait must be among the rejects as among all items."""

ITEM_COLUMNS = ("id", "source_uri", "source_member", "source_row", "source_size")
_FILTERED = frozenset(
    (
        RejectReason.TOO_SHORT,
        RejectReason.TOO_LONG,
        RejectReason.SILENT,
        RejectReason.CLIPPED,
        RejectReason.LOW_SAMPLE_RATE,
        RejectReason.DUPLICATE,
    )
)

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Trait:
    """Something that items may have in common."""

    text: str
    """Follows the number of items that have it."""
    found_in: Callable[[pa.Table], _Mask]
    """Which rows have it."""


def describe_rejects(storage: Storage, commits: Sequence[Commit]) -> str:
    """Say of what reason most rejects are and what these have in common; empty where there are none.

    Args:
        storage: The output.
        commits: Of the units to look at.

    Raises:
        IntegrityError: a file of the output is damaged.
    """
    reasons: Counter[str] = Counter()
    for commit in commits:
        reasons.update({r: n for r, n in commit.rejects_by_reason.items() if r not in _FILTERED})
    if not reasons.total():
        return ""
    reason, count = reasons.most_common(1)[0]
    ids = pa.array(islice(_ids_of(storage, commits, reason), MOST_REJECTS), pa.string())
    hosts = {commit.unit_id: commit.host for commit in commits}
    generations = sorted({commit.generation for commit in commits})

    def items() -> Iterator[pa.Table]:
        for table in read_item_columns(storage, generations, columns=("unit_id", *ITEM_COLUMNS)):
            worker = pa.array([hosts.get(unit_id) for unit_id in table.column("unit_id").to_pylist()], pa.string())
            yield table.append_column("host", worker).filter(pc.is_valid(worker))

    found = [table.filter(pc.is_in(table.column("id"), ids)) for table in items()]
    head = f"{count:,} of {reasons.total():,} are of reason {reason}"
    if not sum(map(len, found)):
        return head  # its plan is not there any more
    rejected = pa.concat_tables(found)
    traits = common_traits(rejected, items)
    seen = "of those" if len(rejected) >= count else f"of {len(rejected):,} of those"
    return "; ".join([head, *([f"{seen} {', '.join(traits)}"] if traits else [])])


def common_traits(rejected: pa.Table, items: Callable[[], Iterable[pa.Table]]) -> list[str]:
    """Say what rejects have in common, the most telling first.

    Args:
        rejected: Rows of the plan, with the columns of `ITEM_COLUMNS` and `host`.
        items: Gives such rows of everything that was tokenized, rejects among it.
    """
    traits = [trait for trait in _candidates(rejected) if trait.found_in(rejected).mean() >= SHARED]
    totals, num_items = Counter[str](), 0
    for table in items():
        num_items += len(table)
        for trait in traits:
            totals[trait.text] += int(trait.found_in(table).sum())
    found = list[tuple[float, str]]()
    for trait in traits:
        having = int(trait.found_in(rejected).sum())
        telling = (having / len(rejected)) / (totals[trait.text] / num_items)
        if telling >= TELLING:
            number = "all" if having == len(rejected) else f"{having:,}"
            among = f"{count_text(totals[trait.text], 'item')} of {num_items:,} in all"
            found.append((telling, f"{number} {trait.text} ({among})"))
    return [text for _, text in sorted(found, key=lambda pair: -pair[0])]


def _ids_of(storage: Storage, commits: Iterable[Commit], reason: str) -> Iterator[str]:
    for commit in commits:
        if reason in commit.rejects_by_reason:
            for file in commit.rejects:
                for batch in read_batches(storage, file.path, columns=["id", "reason"]):
                    yield from batch.filter(pc.equal(batch.column("reason"), reason)).column("id").to_pylist()


def _candidates(rejected: pa.Table) -> Iterator[_Trait]:
    if not len(rejected):
        return
    # Ids are paths wherever files have none of their own, and shorter than the paths themselves.
    column = "id" if any("/" in item_id for item_id in rejected.column("id").to_pylist()) else "source_uri"
    prefix = _shared_folder(rejected.column(column).to_pylist())
    if prefix:
        yield _Trait(f"lie under {prefix}", lambda table: _mask(pc.starts_with(table.column(column), prefix)))
    extension, _ = Counter(_extensions(rejected)).most_common(1)[0]
    if extension:
        yield _Trait(f"are {extension}", lambda table: np.array([e == extension for e in _extensions(table)], np.bool_))
    inside = rejected.filter(pc.or_(pc.is_valid(rejected["source_member"]), pc.is_valid(rejected["source_row"])))
    if len(inside):
        archive, _ = Counter(inside.column("source_uri").to_pylist()).most_common(1)[0]
        yield _Trait(f"are in {archive}", lambda table: _mask(pc.equal(table.column("source_uri"), archive)))
    sizes = rejected.column("source_size").drop_null().to_numpy()
    if len(sizes):
        yield _within(*(int(size) for size in np.quantile(sizes, (0.05, 0.95), method="nearest")))
    host, _ = Counter(rejected.column("host").to_pylist()).most_common(1)[0]
    yield _Trait(f"were decoded on {host}", lambda table: _mask(pc.equal(table.column("host"), host)))


def _within(least: int, most: int) -> _Trait:
    def found_in(table: pa.Table) -> _Mask:
        sizes = table.column("source_size").fill_null(-1).to_numpy()
        return np.asarray((sizes >= least) & (sizes <= most), np.bool_)

    span = bytes_text(least) if least == most else f"{bytes_text(least)} to {bytes_text(most)}"
    return _Trait(f"have a size of {span}", found_in)


def _shared_folder(paths: Sequence[str]) -> str:
    """The deepest folder, with a slash at its end, that holds the share of the paths that is asked for."""
    prefix = ""
    while True:
        depth = len(prefix)
        deeper = Counter(
            path[: path.index("/", depth) + 1] for path in paths if path.startswith(prefix) and "/" in path[depth:]
        )
        best, count = max(deeper.items(), key=lambda pair: pair[1], default=("", 0))
        if count < SHARED * len(paths):
            return prefix
        prefix = best


def _extensions(table: pa.Table) -> Iterator[str]:
    members, uris = table.column("source_member").to_pylist(), table.column("source_uri").to_pylist()
    for member, uri in zip(members, uris, strict=True):
        yield os.path.splitext((member or uri).rpartition("/")[2])[1].lower()  # noqa: PTH122  # may be a URL


def _mask(column: pa.ChunkedArray) -> _Mask:
    return np.asarray(pc.fill_null(column, fill_value=False).to_numpy(), np.bool_)
