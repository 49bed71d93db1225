"""What a dump holds that may be an item: one file of arrays, one sample of a tar, one row of a table or an index."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.importing.archives import samples_of
from tokenizer_jobs.importing.arrays import ARRAY_SUFFIXES, suffix_of
from tokenizer_jobs.importing.tables import table_rows
from tokenizer_jobs.storage import SkippedEntry, SourceFile, list_source_files, local_path, open_source
from tokenizer_jobs.wording import counts_text

__all__ = ["INDEX_NAME", "Candidate", "DumpFiles", "candidates_of", "list_dump"]

INDEX_NAME = "index.jsonl"
"""Of an export in format numpy: a JSON object a line, with the path of its array under `file`."""

TABLE_SUFFIXES = (".parquet", ".arrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One item to be, without its codes."""

    uri: str
    location: str = field(repr=False)
    """What opens its file."""
    name: str
    """Its path below the dump's root without the ending of arrays; members and rows come behind `#`."""
    size: int | None
    """Of its file, in bytes."""
    etag: str | None
    member: str | None = None
    """Name inside a tar; or, with an index, path of the array from the index's folder on."""
    row: int | None = None
    """Row of a table; or, with an index, where its line begins, in bytes."""
    group: int | None = None
    """Row group of a table."""
    part: str = ""
    """What tells several arrays of one sample of a tar apart: the ending behind the key."""
    size_bytes: int | None = None
    """Of its array."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What the dump says of it besides the codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpFiles:
    """The files of a dump, all of one kind."""

    kind: str
    """`arrays`, `tar`, `table` or `index`."""
    files: tuple[tuple[SourceFile, str], ...]
    """In order, each with its path below the root that it was found at."""
    skipped: Mapping[str, int]


def list_dump(paths: tuple[str, ...]) -> DumpFiles:
    """Find the files of a dump.

    Raises:
        ConfigError: nothing is there, or files of several kinds.
    """
    found = dict[str, dict[str, tuple[SourceFile, str]]]()
    skipped = dict[str, int]()
    for path in paths:
        for entry in list_source_files(path):
            if isinstance(entry, SkippedEntry):
                continue
            kind = _kind_of(entry.uri)
            if kind is None:
                ending = re.search(r"\.\w+$", entry.uri)
                what = f"{ending[0] if ending else 'other'} files"
                skipped[what] = skipped.get(what, 0) + 1
                continue
            found.setdefault(kind, {})[entry.uri] = (entry, _below(entry.uri, path))
    if "index" in found:  # which names the arrays
        skipped["files that the index names"] = len(found.pop("arrays", {}))
    if not found:
        raise ConfigError(
            f"{', '.join(paths)} holds no dump of codes; expected {', '.join(ARRAY_SUFFIXES)}, .tar, "
            f"{' or '.join(TABLE_SUFFIXES)} files, found {counts_text(skipped) if skipped else 'nothing'}"
        )
    if len(found) > 1:
        counts = ", ".join(f"{len(files)} of {kind}" for kind, files in sorted(found.items()))
        raise ConfigError(f"{', '.join(paths)} holds files of several kinds ({counts}); name one kind by a glob")
    ((kind, files),) = found.items()
    return DumpFiles(
        kind=kind,
        files=tuple(files[uri] for uri in sorted(files)),
        skipped={name: count for name, count in skipped.items() if count},
    )


def candidates_of(dump: DumpFiles, *, column: str | None) -> Iterator[Candidate]:
    """All candidates of a dump, in the order of its files.

    Args:
        dump: From `list_dump`.
        column: Of a table's codes; None: the only one that can hold them.
    """
    for file, below in dump.files:
        facts: dict[str, Any] = {
            "uri": file.uri,
            "location": file.location,
            "size": file.size_bytes,
            "etag": file.etag,
        }
        match dump.kind:
            case "arrays":
                suffix = suffix_of(below)
                yield Candidate(**facts, name=below.removesuffix(suffix), size_bytes=file.size_bytes)
            case "tar":
                for sample in samples_of(file.location):
                    yield Candidate(
                        **facts,
                        name=f"{below}#{sample.key}",
                        member=sample.member,
                        part=sample.part,
                        size_bytes=sample.size_bytes,
                        fields=sample.fields,
                    )
            case "table":
                for row in table_rows(file.location, codes=column):
                    yield Candidate(
                        **facts, name=f"{below}#{row.number}", row=row.number, group=row.group, fields=row.fields
                    )
            case _:
                yield from _index_lines(facts, below=below)


def _index_lines(facts: dict[str, Any], *, below: str) -> Iterator[Candidate]:
    start = 0
    with open_source(facts["location"]) as lines:
        for line in lines:
            try:
                fields = json.loads(line)
                path = fields.pop("file")
                name = path.removesuffix(suffix_of(path))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ConfigError(
                    f"{facts['uri']} has a line that is no JSON object with the key `file`, at byte {start} ({error})"
                ) from error
            yield Candidate(**facts, name=f"{below}#{name}", member=path, row=start, fields=fields)
            start += len(line)


def _kind_of(uri: str) -> str | None:
    name = uri.rpartition("/")[2].lower()
    if name == INDEX_NAME:
        return "index"
    if name.endswith(".tar"):
        return "tar"
    if name.endswith(TABLE_SUFFIXES):
        return "table"
    return "arrays" if suffix_of(name) else None


def _below(uri: str, root: str) -> str:
    """The path of a file below what was named: a folder, or the part of a glob before its first pattern."""
    path = local_path(root)
    base = str(path.expanduser().absolute()) if path is not None else root
    fixed = re.split(r"[*?\[]", base)[0]
    folder = fixed if fixed == base and uri.startswith(base.rstrip("/") + "/") else fixed.rpartition("/")[0]
    return uri.removeprefix(folder.rstrip("/") + "/") if uri.startswith(folder) else Path(uri).name
