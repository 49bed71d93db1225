"""`drop`: rows and items taken out of an output on purpose, with a receipt, and the snapshot without them."""

import re
import uuid
from collections.abc import Iterable
from functools import partial
from itertools import product

from tokenizer_jobs.catalog import check_receipts, newest_snapshot, publish_snapshot
from tokenizer_jobs.commits import committed_unit_ids
from tokenizer_jobs.errors import ConfigError, OutputBusyError
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.planning import list_generations, read_plan_summary, read_user_schema
from tokenizer_jobs.receipts import Receipts, read_receipts, read_removed, receipt_path
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.removal.removing import MatchingRows, NamedItems, UnitRemoval, find_removals, remove
from tokenizer_jobs.report import publish_card
from tokenizer_jobs.results import DropResult
from tokenizer_jobs.row_filter import RowFilter
from tokenizer_jobs.schema import row_schema
from tokenizer_jobs.steps import Steps, untold
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.sweeping import sweep_orphans

__all__ = ["drop"]

SHOWN = 5


def drop(
    output: str,
    *,
    ids: Iterable[str] | None = None,
    where: str | None = None,
    missing_ok: bool = False,
    dry_run: bool = False,
    report: Steps = untold,
) -> DropResult:
    """Take items out of an output, and publish the snapshot without them.

    They stay known: no later run plans them again, also where their inputs change. To have them again, write to a new
    output. Doing the same again finishes a drop that died, and is else harmless.

    Args:
        output: Local path or fsspec URL.
        ids: Of items, which go with all their rows or as rejects; or of rows.
        where: Instead of ids: a condition on rows in SQL, see `row_filter`.
        missing_ok: Whether ids may be given that the output does not have.
        dry_run: Whether to count only; nothing is written.
        report: Told how many `units` were looked at.

    Raises:
        ConfigError: the output has open units, an id is not there, or the condition is not understood.
        OutputBusyError: a live run holds the output.
        IntegrityError: what is stored contradicts itself.
    """
    if (ids is None) == (where is None):
        raise ConfigError("drop takes --ids FILE or --where SQL: give one of the two")
    storage = Storage.at(output)
    read_recipe(storage)  # an output, before anything is written to it
    wanted = None if ids is None else frozenset(ids)
    if dry_run:
        return _drop(storage, wanted=wanted, where=where, missing_ok=missing_ok, lease=None, report=report)
    storage = Storage.open(output)
    with Lease(storage, uuid.uuid4().hex[:12]) as lease:
        return _drop(storage, wanted=wanted, where=where, missing_ok=missing_ok, lease=lease, report=report)


def _drop(
    storage: Storage,
    *,
    wanted: frozenset[str] | None,
    where: str | None,
    missing_ok: bool,
    lease: Lease | None,
    report: Steps,
) -> DropResult:
    receipts, recipe_id = read_receipts(storage), read_recipe(storage).recipe_id
    newest = newest_snapshot(storage)
    check_receipts(receipts, newest)
    _refuse_open_units(storage, receipts)
    condition = None
    if wanted is None and where is not None:
        condition = RowFilter.parse(where, schema=row_schema(read_user_schema(storage, list_generations(storage)[0])))
    matcher = MatchingRows(condition) if condition is not None else named(wanted or frozenset())
    removals = list(find_removals(storage, matcher, receipts=receipts, report=report))
    already = 0
    if wanted is not None:
        already = _account_for(wanted, removals, storage=storage, receipts=receipts, missing_ok=missing_ok)
    receipt = None
    if lease is not None:
        if removals:
            receipt = remove(
                storage,
                removals,
                receipts=receipts,
                cause="drop",
                recipe_id=recipe_id,
                base_snapshot=None if newest is None else newest.number,
                still_ours=partial(_check_lease, lease, storage),
                condition=where,
            )
        # Killed before these: the newest snapshot still lists the old files, which are still there. The next run, or
        # the same drop again, goes on from here.
        if newest is not None:
            publish_card(storage, publish_snapshot(storage, recipe_id=recipe_id))
        sweep_orphans(storage, still_ours=partial(_check_lease, lease, storage))
    newest = newest_snapshot(storage)
    num_rejects = sum(removal.removed.column("codes_sha256").null_count for removal in removals)
    return DropResult(
        output=storage.name,
        items=sum(removal.items_removed for removal in removals),
        rows=sum(removal.removed.num_rows for removal in removals) - num_rejects,
        rejects=num_rejects,
        units=len(removals),
        already=already,
        receipt=None if receipt is None else receipt_path(receipt.number),
        snapshot=None if newest is None else newest.number,
        dry_run=lease is None,
    )


def named(ids: frozenset[str]) -> NamedItems:
    """What ids name: items; or rows, for which the ids of their items are found by all readings of their endings."""
    owners = set[str]()
    for row_id in ids:
        slices, channels = {row_id, re.sub(r"#s\d+$", "", row_id)}, (r"$", r"#c\d+$")
        owners |= {re.sub(ending, "", text) for text, ending in product(slices, channels)}
    return NamedItems(ids, row_owners=owners - ids or frozenset({""}))


def _account_for(
    wanted: frozenset[str], removals: list[UnitRemoval], *, storage: Storage, receipts: Receipts, missing_ok: bool
) -> int:
    """Refuse ids that are not there; how many were dropped before.

    Raises:
        ConfigError: naming some of them.
    """
    found = {value for removal in removals for name in ("id", "item_id") for value in removal.removed[name].to_pylist()}
    missing = wanted - found
    if not missing:
        return 0
    before = set[str]()
    for receipt in receipts.all:
        if receipt.cause == "drop":
            table = read_removed(storage, receipt)
            before |= {value for name in ("id", "item_id") for value in table[name].to_pylist() if value in missing}
    unknown = sorted(missing - before)
    if unknown and not missing_ok:
        shown = ", ".join(map(repr, unknown[:SHOWN])) + (", …" if len(unknown) > SHOWN else "")
        raise ConfigError(
            f"{len(unknown)} of {len(wanted)} ids are not in output {storage.name!r}: {shown}; nothing was dropped. "
            "Ids are those of the column `id` in codes/ and rejects/; --missing-ok goes on without them"
        )
    return len(before)


def _refuse_open_units(storage: Storage, receipts: Receipts) -> None:
    generations = list_generations(storage)
    if not generations:
        raise ConfigError(f"output {storage.name!r} has no items yet, so nothing can be dropped; run its job first")
    for generation in generations:
        plan = read_plan_summary(storage, generation)
        num_open = plan.num_units - len(committed_unit_ids(storage, generation))
        if num_open > 0 or (plan.takes_over and not receipts.has_taken_over(generation)):
            raise ConfigError(
                f"generation {generation} of output {storage.name!r} is not finished ({max(0, num_open)} of "
                f"{plan.num_units} units are open); run its job again, then drop"
            )


def _check_lease(lease: Lease, storage: Storage) -> None:
    lease.look()
    if lease.lost is not None:
        raise OutputBusyError(f"this drop lost the output {storage.name!r}: {lease.lost}; nothing was dropped")
