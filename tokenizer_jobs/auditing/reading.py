"""A dump of any kind as a list of named arrays, before anything is known of what they hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import ConfigError, ItemError
from tokenizer_jobs.importing.arrays import select_array
from tokenizer_jobs.importing.candidates import Candidate, DumpFiles, candidates_of, list_dump
from tokenizer_jobs.importing.dump import sample_of
from tokenizer_jobs.importing.guessing import Wanted, guess_key
from tokenizer_jobs.importing.inspection import SAMPLED, SAMPLED_AMONG, guess_part
from tokenizer_jobs.importing.layouts import integers, without_batch_axes
from tokenizer_jobs.importing.reading import DumpReader
from tokenizer_jobs.records import Item
from tokenizer_jobs.wording import count_text

__all__ = ["Array", "OpenedDump", "open_dump"]

Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedDump:
    """The arrays of a dump."""

    files: DumpFiles
    column: str | None
    """Of a table's codes."""
    part: str | None
    """Ending of the codes' members in a tar."""
    key: str | None
    """Name of the array inside a file; None: the only one."""
    sample: tuple[Candidate, ...]
    """A few from its beginning, to guess from."""
    sampled: tuple[Array, ...]
    """Their arrays, but for those that cannot be read."""

    def candidates(self) -> Iterator[Candidate]:
        """All of them, in the order of the dump."""
        for candidate in candidates_of(self.files, column=self.column):
            if self.part is None or candidate.part == self.part:
                yield candidate

    def reader(self) -> DumpReader:
        """What `read` reads with; to be closed."""
        return DumpReader(kind=self.files.kind, locations={file.uri: file.location for file, _ in self.files.files})

    def read(self, reader: DumpReader, candidate: Candidate) -> Array:
        """The array of a candidate, as it lies there, without batch axes.

        Raises:
            ItemError: it is damaged, or no array of whole numbers.
        """
        arrays = reader.read(_item(candidate), key=self.column)[0]
        return integers(without_batch_axes(select_array(arrays, self.key)))


def open_dump(paths: Sequence[str], *, key: str | None) -> OpenedDump:
    """Find a dump and look into it.

    Args:
        paths: Folders, globs and files.
        key: Array inside a file, column of a table, or ending of a tar's members; None: guessed.

    Raises:
        ConfigError: nothing is there, or nothing can be read, or there are several arrays that may be codes.
    """
    files = list_dump(tuple(paths))
    column = key if files.kind == "table" else None
    sample = sample_of(files, column=column, number=SAMPLED, among=SAMPLED_AMONG)
    part, sample = guess_part(sample, key) if files.kind == "tar" else (None, sample)
    named = None if part is not None and part == key else key
    locations = {candidate.uri: candidate.location for candidate in sample}
    arrays = list[dict[str, npt.NDArray[Any]]]()
    with DumpReader(kind=files.kind, locations=locations) as reader:
        for candidate in sample:
            try:
                arrays.append(reader.read(_item(candidate), key=column)[0])
            except ItemError:
                continue  # counted when all of the dump is read
    if not arrays:
        raise ConfigError(
            f"none of {count_text(len(sample), 'sampled item')} of {', '.join(paths)} can be read; look at one of "
            f"them: {sample[0].name if sample else 'there is none'}"
        )
    found, _ = guess_key(arrays, Wanted(codebook_size=1 << 16, key=named))
    sampled = list[Array]()
    for each in arrays:
        try:
            sampled.append(integers(without_batch_axes(select_array(each, found))))
        except ItemError:
            continue
    if not sampled:
        raise ConfigError(f"no sampled array of {', '.join(paths)} holds whole numbers; --key names others")
    return OpenedDump(files=files, column=column, part=part, key=found, sample=tuple(sample), sampled=tuple(sampled))


def _item(candidate: Candidate) -> Item:
    return Item(
        id=candidate.name,
        source_uri=candidate.uri,
        source_member=candidate.member,
        source_row=candidate.row,
        source_group=candidate.group,
    )
