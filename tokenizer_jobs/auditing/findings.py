"""A finding in words: how many, of how many, which, why, and what to do."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.auditing.kinds import EXPLAINED, NOTES, Kind

__all__ = ["Finding", "finding", "such_as"]

EXAMPLES = 3


class Finding(BaseModel):
    """Something that was found."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind
    is_fault: bool
    """Or only worth knowing."""
    count: int
    """Items, or groups of them, that it was found in."""
    of: int
    """Looked at."""
    in_sample: bool
    """Whether it was looked for in the sample, or in everything."""
    examples: tuple[str, ...]
    """Ids of a few."""
    text: str
    """What was found."""
    cause: str
    """What likely made it."""
    remedy: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.text}{such_as(self.examples)}; likely: {self.cause}; do: {self.remedy}"


def finding(
    kind: Kind, text: str, *, count: int, of: int, examples: Sequence[str] = (), in_sample: bool = False
) -> Finding:
    """A finding of a kind, with what is known of the kind."""
    return Finding(
        kind=kind,
        is_fault=kind not in NOTES,
        count=count,
        of=of,
        in_sample=in_sample,
        examples=tuple(examples[:EXAMPLES]),
        text=text,
        cause=EXPLAINED[kind].cause,
        remedy=EXPLAINED[kind].remedy,
    )


def such_as(ids: Sequence[str]) -> str:
    """Examples in brackets; nothing where there are none."""
    return f" (such as {', '.join(map(repr, ids))})" if ids else ""
