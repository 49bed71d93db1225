"""Generations of items that were known before (`retry`, `run --replace`): how they take the place of what was there.

units committed, one by one ─▶ receipt: old rows and rejects are out, the new units count ─▶ snapshot ─▶ sweep

Until the receipt, nothing of such a generation counts for any reader; with it all of it does. A run that dies in
between is finished by the next.
"""

from collections.abc import Callable, Sequence

from tokenizer_jobs.commit_records import Commit
from tokenizer_jobs.planning import PlanSummary
from tokenizer_jobs.receipts import Receipt, Receipts
from tokenizer_jobs.removal.removing import NamedItems, UnitRemoval, find_removals, remove
from tokenizer_jobs.storage import Storage

__all__ = ["take_over"]


def take_over(
    storage: Storage,
    plan: PlanSummary,
    commits: Sequence[Commit],
    *,
    receipts: Receipts,
    base_snapshot: int | None,
    still_ours: Callable[[], object],
) -> Receipt:
    """Take what a generation supersedes out of the earlier ones and let it count.

    A reject that was tried again and failed again has the attempts of both. What had a row and is a reject now loses
    the row: the audio is no more what its codes stood for.

    Crash points: as `remove` and `publish_receipt` say.

    Args:
        storage: The output.
        plan: Of the generation.
        commits: Of all its units.
        receipts: Of the output until now.
        base_snapshot: The newest.
        still_ours: Raises when the output is another run's by now.

    Raises:
        IntegrityError: a file is damaged.
    """
    assert plan.cause != "growth"
    superseded = frozenset(item_id for commit in commits for item_id in commit.supersedes)
    removals = list(find_removals(storage, NamedItems(superseded), receipts=receipts))
    attempts = {item_id: tried for removal in removals for item_id, tried in removal.attempts.items()}
    failed_again = [
        UnitRemoval(commit=commit, more_attempts=attempts)
        for commit in commits
        if plan.cause == "retry" and commit.rejects and attempts
    ]
    return remove(
        storage,
        [*removals, *failed_again],
        receipts=receipts,
        cause=plan.cause,
        recipe_id=plan.recipe_id,
        base_snapshot=base_snapshot,
        still_ours=still_ours,
        generation=plan.generation,
    )
