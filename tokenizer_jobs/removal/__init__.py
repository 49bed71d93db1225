"""Taking rows out of an output: on request, and where a retried or replaced item took their place."""

from tokenizer_jobs.removal.dropping import drop
from tokenizer_jobs.removal.removing import MatchingRows, NamedItems, UnitRemoval, find_removals, remove
from tokenizer_jobs.removal.takeover import take_over

__all__ = ["MatchingRows", "NamedItems", "UnitRemoval", "drop", "find_removals", "remove", "take_over"]
