"""A dump as an output's plan keeps it, and its items: what is in `selection.source` of the generations of an import."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.importing.candidates import Candidate, DumpFiles, candidates_of
from tokenizer_jobs.importing.layouts import Axes, Layout
from tokenizer_jobs.importing.tables import OpenedTable
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.schema import RESERVED_NAMES
from tokenizer_jobs.source_config import PluginSource
from tokenizer_jobs.yaml_files import Frozen

__all__ = ["DumpFormat", "ListedDump", "TokenDump", "guess_ids", "sample_of", "user_columns_of"]

KIND = "tokenizer_jobs.importing:TokenDump"
ASSUMED_SECONDS = 10.0
"""Of a row of a table that does not say how many frames it has; it balances units and decides nothing else."""


class DumpFormat(Frozen):
    """Where codes are in a dump and how they lie, all of it settled."""

    paths: tuple[str, ...]
    """Folders, globs or files."""
    axes: Axes
    num_codebooks: int
    codebook_size: int
    has_offsets: bool
    key: str | None
    """Name of the array inside a file, or column of a table; None: the only one."""
    part: str | None
    """Ending of the codes' members in a tar."""
    ids: str
    """`path`, `name`, or `field:NAME`."""

    @property
    def layout(self) -> Layout:
        """Of each array."""
        return Layout(
            axes=self.axes,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            has_offsets=self.has_offsets,
        )

    def to_source(self) -> PluginSource:
        """As a plan keeps it."""
        return PluginSource.model_validate({"kind": KIND, **self.model_dump(mode="json")})

    @classmethod
    def from_source(cls, source: Any) -> "DumpFormat":
        """Read what `to_source` made.

        Raises:
            ConfigError: it is another kind of source.
        """
        if not isinstance(source, PluginSource) or source.kind != KIND:
            raise ConfigError(
                f"the output has a generation from a source of kind {source.kind!r}, so it was not made by "
                "import-codes; choose another output"
            )
        return cls.model_validate(dict(source.options))


class TokenDump:
    """Stands in a plan for the dump that its items are from; it has codes and no audio.

    Args:
        options: Fields of `DumpFormat`.
    """

    def __init__(self, **options: Any) -> None:
        self.format = DumpFormat.model_validate(options)

    def list(self) -> NoReturn:
        """Refuse to list audio."""
        raise _no_audio()

    def open(self, _item: Item) -> NoReturn:
        """Refuse to open audio."""
        raise _no_audio()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDump:
    """The items of a dump."""

    items: ItemTable
    user_schema: pa.Schema

    @classmethod
    def of(cls, files: DumpFiles, form: DumpFormat, *, user_schema: pa.Schema, frame_rate: float) -> "ListedDump":
        """List a dump.

        Args:
            files: From `list_dump`.
            form: How it is read.
            user_schema: Columns that are passed through.
            frame_rate: Frames per second, to balance the units.

        Raises:
            ConfigError: an item has no id, or a column does not fit its type.
        """
        items = (
            _item(candidate, form, names=user_schema.names, frame_rate=frame_rate)
            for candidate in candidates_of(files, column=form.key)
            if form.part is None or candidate.part == form.part
        )
        return cls(items=ItemTable.of(items, user_schema=user_schema), user_schema=user_schema)


def sample_of(files: DumpFiles, *, column: str | None, number: int, among: int) -> list[Candidate]:
    """Candidates spread evenly over the first of a dump."""
    first = list(itertools.islice(candidates_of(files, column=column), among))
    step = max(1, len(first) // number)
    return first[::step][:number]


def guess_ids(sample: Sequence[Candidate], said: str | None) -> tuple[str, str]:
    """The rule for ids, and why.

    Raises:
        ConfigError: the rule that was said is none.
    """
    if said is not None:
        if said not in ("path", "name") and not said.startswith("field:"):
            raise ConfigError(f"--id {said!r} is no rule; choose path, name, or field:NAME")
        return said, "as said"
    ids = [candidate.fields.get("id") for candidate in sample]
    if ids and all(isinstance(each, str) and each for each in ids) and len(set(ids)) == len(ids):
        return "field:id", "all of the sample have an `id`"
    return "path", "the path below the dump's root, without the ending"


def user_columns_of(files: DumpFiles, sample: Sequence[Candidate], *, ids: str, codes: str | None) -> pa.Schema:
    """The columns that are passed through, with the types of the table, else of the sample.

    Raises:
        ConfigError: values of one name are of several types.
    """
    taken = RESERVED_NAMES | {ids.removeprefix("field:"), codes}
    if files.kind == "table":
        names = {name for candidate in sample for name in candidate.fields} - taken
        with OpenedTable(files.files[0][0].location) as table:
            return pa.schema([pa.field(each.name, each.type) for each in table.schema if each.name in names])
    fields = list[pa.Field]()
    for name in dict.fromkeys(name for candidate in sample for name in candidate.fields):
        if name in taken:
            continue
        try:
            kind = pa.array([candidate.fields.get(name) for candidate in sample]).type
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ConfigError(
                f"field {name!r} of the dump has values of several types ({error}), so that it cannot be a column; "
                "mend the dump, or leave the field out"
            ) from error
        if not pa.types.is_null(kind):
            fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _item(candidate: Candidate, form: DumpFormat, *, names: Sequence[str], frame_rate: float) -> Item:
    num_frames = candidate.fields.get("num_frames")
    if isinstance(num_frames, int):
        seconds = num_frames / frame_rate
    elif candidate.size_bytes is not None:
        seconds = candidate.size_bytes / 2 / form.num_codebooks / frame_rate
    else:
        seconds = ASSUMED_SECONDS
    return Item(
        id=_id_of(candidate, form.ids),
        source_uri=candidate.uri,
        source_member=candidate.member,
        source_row=candidate.row,
        source_size=candidate.size,
        source_etag=candidate.etag,
        source_group=candidate.group,
        estimated_seconds=seconds,
        user_columns={name: candidate.fields.get(name) for name in names},
    )


def _id_of(candidate: Candidate, rule: str) -> str:
    if rule == "path":
        return candidate.name
    if rule == "name":
        return candidate.name.rpartition("#")[2].rpartition("/")[2]
    name = rule.removeprefix("field:")
    value = candidate.fields.get(name)
    if value is None or value == "":
        has = ", ".join(map(repr, candidate.fields)) or "no field"
        raise ConfigError(f"--id {rule}: {candidate.name!r} has no {name!r}, it has {has}; choose another rule")
    return str(value)


def _no_audio() -> ConfigError:
    return ConfigError(
        "the items of this output were imported from a dump of codes, and it knows no audio of them; `import-codes` "
        "brings it up to date, and audio is tokenized to another output"
    )
