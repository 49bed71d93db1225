"""A file system for tests: files that come late, and a record of what was asked for."""

import asyncio
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec
from fsspec.asyn import AsyncFileSystem

from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources.files import AudioFiles

__all__ = ["POND", "Pond", "fill_pond"]


@dataclass
class Pond:
    """Files that come late, and what was asked for."""

    contents: dict[str, bytes]
    versions: dict[str, str]
    delays: dict[str, float]
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    """As the test says."""
    opened_late: list[str] = field(default_factory=list)
    spoiled: set[str] = field(default_factory=set)
    """What comes of them is of no use, and not kept."""
    most_files: int = 0
    """Begun and not yet opened."""
    most_bytes: int = 0


class PondFileSystem(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """`pond://name`: the files of the last pond; what was begun for an earlier one fails."""

    protocol = "pond"
    pond: Pond

    async def _info(self, path: str, **_: object) -> dict[str, Any]:
        name, pond = self._strip_protocol(path), self.pond
        return {"name": name, "size": len(pond.contents[name]), "type": "file", "etag": pond.versions[name]}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        name, pond = self._strip_protocol(path), self.pond
        content = pond.contents[name][start:end]
        pond.begun.append(name)
        waiting = set(pond.begun) - pond.opened
        pond.most_files = max(pond.most_files, len(waiting))
        held = waiting - (pond.spoiled & set(pond.ended))
        pond.most_bytes = max(pond.most_bytes, sum(len(pond.contents[name]) for name in held))
        try:
            await asyncio.sleep(pond.delays[name])
            return content
        finally:
            pond.ended.append(name)

    def _open(self, path: str, mode: str = "rb", **_: object) -> IO[bytes]:
        name = self._strip_protocol(path)
        self.pond.opened_late.append(name)
        return io.BytesIO(self.pond.contents[name])


fsspec.register_implementation("pond", PondFileSystem, clobber=True)
POND = AudioFiles(FilesSource(paths=("pond://",)))


def fill_pond(contents: Sequence[bytes], *, delays: Sequence[float]) -> tuple[Pond, list[Item]]:
    """A pond with files, and the items that they are."""
    names = [uuid.uuid4().hex for _ in contents]
    versions = {name: f"v-{name}" for name in names}
    pond = Pond(dict(zip(names, contents, strict=True)), versions, dict(zip(names, delays, strict=True)))
    PondFileSystem.pond = pond
    return pond, [
        Item(id=name, source_uri=f"pond://{name}", source_size=len(content), source_etag=versions[name])
        for name, content in pond.contents.items()
    ]
