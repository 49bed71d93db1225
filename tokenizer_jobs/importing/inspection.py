"""Looking into a dump: what is said of it, a sample, and from both how all of it is read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.errors import ConfigError, ItemError
from tokenizer_jobs.importing.candidates import Candidate, DumpFiles
from tokenizer_jobs.importing.codecs import CodecClaim
from tokenizer_jobs.importing.dump import DumpFormat, guess_ids, sample_of, user_columns_of
from tokenizer_jobs.importing.guessing import Offsets, Wanted, guess_key, guess_layout
from tokenizer_jobs.importing.layouts import Axes
from tokenizer_jobs.importing.reading import DumpReader
from tokenizer_jobs.records import Item
from tokenizer_jobs.wording import count_text

__all__ = ["SAMPLED", "SAMPLED_AMONG", "DumpSaid", "Inspected", "guess_part", "inspect_dump"]

SAMPLED = 64
SAMPLED_AMONG = 4096
"""The first so many candidates are listed to draw the sample from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpSaid:
    """What the user says of a dump; None: to be guessed."""

    axes: Axes | None = None
    num_codebooks: int | None = None
    offsets: Offsets | None = None
    key: str | None = None
    """Array inside a file, column of a table, or ending of a tar's members."""
    ids: str | None = None
    """`path`, `name`, or `field:NAME`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """How a dump is read, and why."""

    format: DumpFormat
    user_schema: pa.Schema
    evidence: tuple[str, ...]


def inspect_dump(files: DumpFiles, *, paths: Sequence[str], codec: CodecClaim, said: DumpSaid) -> Inspected:
    """Settle how a dump is read, from what is said and a sample of it.

    Raises:
        ConfigError: there is more than one way, or none; the message names the flags that tell.
    """
    offered = codec.offered()
    wanted = Wanted(
        codebook_size=codec.size(offered),
        axes=said.axes,
        num_codebooks=said.num_codebooks,
        offsets=said.offsets,
        key=said.key,
        offered=tuple(offered),
    )
    column = said.key if files.kind == "table" else None
    sample = sample_of(files, column=column, number=SAMPLED, among=SAMPLED_AMONG)
    part, sample = guess_part(sample, said.key) if files.kind == "tar" else (None, sample)
    if part is not None and part == said.key:
        wanted = replace(wanted, key=None)
    with DumpReader(kind=files.kind, locations={c.uri: c.location for c in sample}) as reader:
        arrays = [found for candidate in sample if (found := _arrays(reader, candidate, column)) is not None]
    if not arrays:
        raise ConfigError(
            f"none of {count_text(len(sample), 'sampled item')} of {', '.join(paths)} can be read; look at one of "
            f"them: {sample[0].name if sample else 'there is none'}"
        )
    key, key_evidence = guess_key(arrays, wanted)
    guess = guess_layout([each[name] for each in arrays if (name := key or next(iter(each), "")) in each], wanted)
    ids, why = guess_ids(sample, said.ids)
    form = DumpFormat(
        paths=tuple(paths),
        axes=guess.layout.axes,
        num_codebooks=guess.layout.num_codebooks,
        codebook_size=guess.layout.codebook_size,
        has_offsets=guess.layout.has_offsets,
        key=key,
        part=part,
        ids=ids,
    )
    skipped = "".join(f", {count} {what} skipped" for what, count in files.skipped.items())
    evidence = (
        f"{count_text(len(files.files), 'file')} of kind {files.kind}{skipped}; {len(arrays)} of "
        f"{count_text(len(sample), 'sampled item')} could be read",
        *((f"members are those that end in .{part}",) if part is not None else ()),
        *key_evidence,
        *guess.evidence,
        f"ids are {ids}: {why}",
    )
    return Inspected(format=form, user_schema=user_columns_of(files, sample, ids=ids, codes=key), evidence=evidence)


def guess_part(sample: Sequence[Candidate], said: str | None) -> tuple[str, list[Candidate]]:
    """Which of a tar's members are the codes, and those of the sample.

    Raises:
        ConfigError: several may be.
    """
    counts = Counter(candidate.part for candidate in sample)
    if not counts:
        raise ConfigError("the tars of the dump hold no .npy, .npz or .pt members; expected KEY.npy or the like")
    part = said if said in counts else next(iter(counts))
    if len(counts) > 1 and said not in counts:
        raise ConfigError(
            f"samples of the dump have several arrays: {', '.join(sorted(counts))}; say which are the codes by --key, "
            f"such as --key {min(counts)}"
        )
    assert part is not None
    return part, [candidate for candidate in sample if candidate.part == part]


def _arrays(reader: DumpReader, candidate: Candidate, column: str | None) -> Mapping[str, npt.NDArray[Any]] | None:
    """The arrays of a candidate; None where it is damaged, which a guess does without."""
    item = Item(
        id=candidate.name,
        source_uri=candidate.uri,
        source_member=candidate.member,
        source_row=candidate.row,
        source_group=candidate.group,
    )
    try:
        return reader.read(item, key=column)[0]
    except ItemError:
        return None
