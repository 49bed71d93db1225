"""The lines of a manifest, one by one: JSON objects, or rows of CSV and TSV under a header, also gzipped.

What a file is, its content says. It is gzip when it begins with gzip's magic bytes. It holds JSON lines when its first
character that is not blank is `{`. Otherwise its first line is a header: TSV where that holds a tab, else CSV, with
semicolons where there is no comma. CSV may quote fields, even with line ends inside; a quote in TSV is a character like
any other, as the definition of TSV has it. An empty field is null; a column without a name is left out.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.storage import SourceFile, is_url, open_source
from tokenizer_jobs.storage.faults import local_read_faults, remote_faults

__all__ = ["Line", "read_lines"]

LONGEST_LINE_BYTES = 64 << 20
"""A line beyond it is no line of a manifest: memory stays bounded when somebody names another file."""
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a manifest with its fields."""

    manifest: str
    """What messages call the file."""
    number: int
    """From 1; of a row that spans several lines, the first."""
    fields: dict[str, Any]
    """Values by name: as JSON has them, or texts and None."""
    is_text: bool
    """Whether the values are texts, whose types have to be found out."""

    @property
    def place(self) -> str:
        """Where the line is, for messages."""
        return f"{self.manifest}, line {self.number}"

    def fault(self, text: str) -> ConfigError:
        """An error that names this line."""
        return ConfigError(f"{self.place}: {text}")


def read_lines(manifest: SourceFile) -> Iterator[Line]:
    """Read a manifest's lines, blank ones left out; one line at a time is in memory.

    Raises:
        ConfigError: the file is gone, may not be read or is damaged, or a line cannot be understood.
        TransientError: the storage failed.
    """
    name = manifest.uri
    with _faults(name), ExitStack() as stack:
        raw = stack.enter_context(open_source(manifest.location))
        is_gzip = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        raw.seek(0)
        content: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if is_gzip else raw
        # Files of fsspec read a line ten times slower by themselves.
        numbered = _numbered(stack.enter_context(io.BufferedReader(content, 1 << 20)), name)
        first = next(numbered, None)
        if first is None:
            return
        number, line = first
        if line.startswith(_UTF16_BOMS):
            raise ConfigError(f"{name} is UTF-16 text; expected UTF-8, so save it as such")
        first = number, line.removeprefix(_BOM)
        beginning = first[1].lstrip()[:1]
        if beginning == b"[":
            raise ConfigError(
                f"{name} begins with '[', as one JSON array does; expected one JSON object in each line (JSON lines)"
            )
        lines = chain([first], numbered)
        yield from _json_lines(lines, name) if beginning == b"{" else _rows(lines, name)


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Translate what goes wrong while a manifest is read: it is the user's own file, and no line may be missed."""
    try:
        with remote_faults(name) if is_url(name) else local_read_faults(name):
            try:
                yield
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ConfigError(f"{name} is damaged gzip ({error}); write or copy it again") from error
    except OSError as error:
        raise ConfigError(
            f"{name} cannot be read ({error.strerror or error}); expected a manifest: JSON lines, CSV or TSV"
        ) from error


def _numbered(content: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """All lines from the first that is not blank, with their numbers."""
    has_begun, number = False, 0
    while line := content.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if len(line) > LONGEST_LINE_BYTES:
            raise ConfigError(
                f"{name}, line {number}: more than {LONGEST_LINE_BYTES >> 20} MiB without a line end; expected a "
                "manifest: JSON lines, CSV or TSV"
            )
        has_begun = has_begun or line.strip() not in (b"", _BOM)
        if has_begun:
            yield number, line


def _text(line: bytes, *, name: str, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}, line {number}: byte {line[error.start]:#04x} at column {error.start + 1} is not UTF-8; expected "
            "a manifest in UTF-8, so convert it"
        ) from error


def _json_lines(lines: Iterator[tuple[int, bytes]], name: str) -> Iterator[Line]:
    for number, content in lines:
        text = _text(content, name=name, number=number).strip()
        if not text:
            continue
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{name}, line {number}: {_shown(text)} is not JSON ({error}); expected one whole JSON object in each "
                "line, so mend or remove the line"
            ) from error
        if not isinstance(fields, dict):
            raise ConfigError(f"{name}, line {number}: {_shown(text)}; expected a JSON object, such as {{...}}")
        yield Line(name, number, fields, False)


def _rows(lines: Iterator[tuple[int, bytes]], name: str) -> Iterator[Line]:
    number, content = next(lines)
    header = _text(content, name=name, number=number)
    delimiter = next((mark for mark in "\t,;" if mark in header), ",")
    texts = (_text(line, name=name, number=place) for place, line in lines)
    records = _records(chain([header], texts), delimiter=delimiter, name=name, first=number)
    _, names = next(records)
    names = [column.strip() for column in names]
    doubled = sorted({column for column in names if column and names.count(column) > 1})
    if doubled:
        raise ConfigError(f"{name}, line {number}: column {doubled[0]!r} is there twice; rename one of them")
    for place, values in records:
        if not values:
            continue
        if len(values) != len(names):
            raise ConfigError(
                f"{name}, line {place}: {len(values)} fields where the header has {len(names)}; mend the line"
                + (", or if fields are quoted, write CSV: TSV has no quotes" if delimiter == "\t" else "")
            )
        pairs = zip(names, values, strict=True)
        yield Line(name, place, {column: value or None for column, value in pairs if column}, True)


def _records(texts: Iterator[str], *, delimiter: str, name: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of their first line."""
    csv.field_size_limit(LONGEST_LINE_BYTES)  # of the whole process; the default of 128 KiB is a short transcript
    if delimiter == "\t":
        reader = csv.reader(texts, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
    while True:
        place = first + reader.line_num
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ConfigError(
                f"{name}, line {place}: {error}; expected fields between {delimiter!r}, quoted whole where they hold "
                "quotes or line ends, with quotes inside doubled"
            ) from error
        yield place, record


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")
