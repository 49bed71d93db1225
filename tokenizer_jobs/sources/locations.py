"""Where a source's configuration points to: what must be within reach of every node, and what may be stored of it."""

from typing import Any

from tokenizer_jobs.source_config import (
    FilesSource,
    HubSource,
    ManifestSource,
    ParquetSource,
    SourceConfig,
    TarSource,
)
from tokenizer_jobs.sources.archives.braces import expand_braces
from tokenizer_jobs.storage import is_url, local_path, public_uri

__all__ = ["is_stripped", "lives_in_memory", "local_locations", "public_source"]


def local_locations(source: SourceConfig) -> tuple[str, ...]:
    """Local paths and globs that a source reads audio from; none where it is somewhere else."""
    return tuple(str(path) for path in map(local_path, _locations(source)) if path is not None)


def lives_in_memory(source: SourceConfig) -> bool:
    """Whether a source is in the memory of this process, where no other can read it."""
    return any(location.startswith("memory://") for location in _locations(source))


def public_source(source: SourceConfig) -> dict[str, Any]:
    """A source's configuration as it is stored: without the query strings and passwords of URLs."""
    content = source.model_dump(mode="json")
    for key in ("paths", "root", "dataset"):
        value = content.get(key)
        if isinstance(value, list):
            content[key] = [_public(location) for location in value]
        elif isinstance(value, str):
            content[key] = _public(value)
    return content


def is_stripped(source: SourceConfig) -> bool:
    """Whether `public_source` leaves out something of a source's locations."""
    return public_source(source) != source.model_dump(mode="json")


def _public(location: str) -> str:
    return public_uri(location) if is_url(location) else location


def _locations(source: SourceConfig) -> tuple[str, ...]:
    match source:
        case FilesSource():
            return source.paths
        case TarSource():
            return expand_braces(source.paths)
        case ManifestSource() | ParquetSource():
            return source.paths if source.root is None else (*source.paths, source.root)
        case HubSource():
            # What is no folder here is a name on the hub.
            path = local_path(source.dataset)
            return () if path is not None and not path.expanduser().exists() else (source.dataset,)
        case _:
            return ()
