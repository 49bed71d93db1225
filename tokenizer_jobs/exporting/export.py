"""`export`: a snapshot in another format, whole or not at all."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.exporting.arrow import write_arrow
from tokenizer_jobs.exporting.card import card_text
from tokenizer_jobs.exporting.destination import MANIFEST, Destination, open_destination, read_manifest
from tokenizer_jobs.exporting.huggingface import check_may_push, push, write_huggingface
from tokenizer_jobs.exporting.megatron import write_megatron
from tokenizer_jobs.exporting.numpy_files import write_numpy
from tokenizer_jobs.exporting.rows import ExportedRows
from tokenizer_jobs.exporting.webdataset import write_webdataset
from tokenizer_jobs.steps import Steps, untold
from tokenizer_jobs.storage import local_path, public_uri

__all__ = ["EXPORT_VERSION", "ExportFormat", "ExportResult", "export"]

EXPORT_VERSION = 1
"""Of the layouts below."""

ExportFormat = Literal["webdataset", "megatron", "numpy", "arrow", "huggingface"]

_WRITERS: Mapping[str, Callable[[ExportedRows, Destination], dict[str, Any]]] = {
    "webdataset": write_webdataset,
    "megatron": write_megatron,
    "numpy": write_numpy,
    "arrow": write_arrow,
    "huggingface": write_huggingface,
}


class ExportResult(BaseModel):
    """What was exported, as `--json` prints it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    output: str
    destination: str
    format: str
    snapshot: int
    digest: str
    """Of the snapshot."""
    rows: int
    frames: int
    codebooks: int
    files: int
    bytes: int
    pushed_to: str | None = None
    """Data set of the hub; None unless it was asked for."""
    was_there: bool = False
    """Whether the same export was finished before, and nothing was written now."""


def export(
    output: str,
    destination: str,
    *,
    to: ExportFormat,
    snapshot: int | None = None,
    codebooks: int | None = None,
    push_to: str | None = None,
    report: Steps = untold,
) -> ExportResult:
    """Write the rows of a snapshot in another format, a row group at a time.

    The bytes depend on the snapshot and the arguments alone. `export.json` says what the export is of; where it is, the
    export is whole. The same export to the same place again does nothing.

    Args:
        output: Local path or fsspec URL.
        destination: Local path or fsspec URL; an empty folder, or none.
        to: Format.
        snapshot: Which one; None: the newest.
        codebooks: How many codebooks, from the first; None: all.
        push_to: Data set of the Hugging Face hub to upload the export to, with format `huggingface`.
        report: Told how many `rows` were written.

    Raises:
        ConfigError: no such output, snapshot or format; the destination is not empty; the hub refuses.
        IntegrityError: a shard is damaged.
        TransientError: a storage or the hub failed.
    """
    if to not in _WRITERS:
        raise ConfigError(f"--to {to!r} is no format; choose one of {', '.join(get_args(ExportFormat))}")
    _check_push(push_to, to=to, destination=destination)
    rows = ExportedRows.open(output, snapshot=snapshot, codebooks=codebooks, report=report)
    identity = _identity(rows, to=to)
    found = _finished(destination, identity)
    if found is None:
        with open_destination(destination, identity=_json_bytes(identity)) as place:
            extra = _WRITERS[to](rows, place)
            found = _manifest(rows, place, identity=identity, extra=extra)
            place.finish(_json_bytes(found))
        was_there = False
    else:
        was_there = True
    if push_to is not None:
        path = Path(destination).expanduser().absolute()
        push(path, repository=push_to, card=(path / "README.md").read_text() if was_there else card_text(rows))
    return ExportResult(
        output=rows.storage.name,
        destination=public_uri(destination),
        format=to,
        snapshot=found["snapshot"],
        digest=found["digest"],
        rows=found["rows"],
        frames=found["frames"],
        codebooks=found["codebooks"],
        files=found["num_files"],
        bytes=found["bytes"],
        pushed_to=push_to,
        was_there=was_there,
    )


def _check_push(push_to: str | None, *, to: str, destination: str) -> None:
    if push_to is None:
        return
    if to != "huggingface":
        raise ConfigError(f"--push goes with --to huggingface, not with {to}")
    if local_path(destination) is None:
        raise ConfigError(f"--push uploads a local export; {public_uri(destination)!r} is none, so give a local folder")
    check_may_push()


def _identity(rows: ExportedRows, *, to: str) -> dict[str, Any]:
    """What decides every byte of an export."""
    facts = rows.snapshot.facts
    return {
        "export_version": EXPORT_VERSION,
        "format": to,
        "snapshot": facts.number,
        "digest": facts.digest,
        "codebooks": rows.num_codebooks,
        "codebook_size": rows.codebook_size,
        "recipe_id": rows.recipe.recipe_id,
    }


def _manifest(
    rows: ExportedRows, place: Destination, *, identity: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    facts = rows.snapshot.facts
    if rows.num_rows != facts.rows:
        raise IntegrityError(
            f"{rows.num_rows} rows were read of snapshot {facts.number}, which says that it has {facts.rows}; "
            "run `verify`"
        )
    return {
        **identity,
        "rows": rows.num_rows,
        "frames": rows.num_frames,
        "hours": facts.hours,
        "rows_digest": rows.digest.hex,
        **extra,
        "num_files": place.num_files,
        "bytes": place.num_bytes,
        "files": [file.model_dump() for file in place.files],
        "recipe": rows.recipe.model_dump(mode="json"),
    }


def _finished(destination: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of this very export, where it is finished at the destination; None: it is not."""
    content = read_manifest(destination)
    if content is None:
        return None
    try:
        found: dict[str, Any] = json.loads(content)
    except ValueError:
        found = {}
    if {key: found.get(key) for key in identity} == dict(identity):
        return found
    raise ConfigError(
        f"{public_uri(destination)!r} has the {MANIFEST} of another export (format {found.get('format')}, snapshot "
        f"{found.get('snapshot')}, {found.get('codebooks')} codebooks); choose another place or empty it"
    )


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"
