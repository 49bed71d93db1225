"""The index of one archive: its members by the standard library's `tarfile`, grouped into samples as WebDataset does.

A sample is a run of neighbouring members with one key: the path up to the first dot of the base name. What follows the
dot tells the members of a sample apart.
"""

import io
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from typing import IO, Any

from tokenizer_jobs.errors import ConfigError, TokenizerJobsError
from tokenizer_jobs.sources.archives.kept import is_damage
from tokenizer_jobs.sources.archives.sidecars import SIDECARS, read_sidecar
from tokenizer_jobs.sources.header import AUDIO_EXTENSIONS, HeaderFacts, read_header
from tokenizer_jobs.sources.roots import extension_of

__all__ = ["IndexedMember", "Sample", "TarIndex"]

LONGEST_HEADER = 1 << 24
"""Bytes of one extended header; `tarfile` would read as many as a damaged one claims."""
LARGEST_SIDECAR = 1 << 24
REST_READ = 1 << 16
HEADERS_READ, LARGEST_HEADER_READ = 4, 1 << 20
"""Audio members of an archive whose headers are read for estimates, and how large they may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedMember:
    """One file in an archive."""

    name: str
    """Relative, without `.` and empty parts; bytes that are not UTF-8 are surrogates."""
    key: str
    extension: str
    """What follows the first dot of the base name, in lower case."""
    offset: int
    """First byte of its content in the unpacked archive."""
    size: int

    @property
    def is_audio(self) -> bool:
        """Whether its last extension is one of audio."""
        return extension_of(self.name) in AUDIO_EXTENSIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The audio of one key, and the columns of the files beside it."""

    audio: tuple[IndexedMember, ...]
    columns: dict[str, Any]
    origin: str
    """What messages call the files that the columns come from."""


@dataclass(slots=True, kw_only=True)
class TarIndex:
    """Walks an archive once, from its beginning to its end."""

    file: IO[bytes]
    """The archive, unpacked; it is only read forwards."""
    name: str
    """What messages call it."""
    is_packed: bool
    """Whether the file unpacks what it reads."""
    sidecars: frozenset[str] = SIDECARS
    """Extensions of the files beside the audio that are read."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Counts what is no item, and how the archive ended if not well."""
    headers: list[tuple[str, int, HeaderFacts]] = field(default_factory=list)
    """Extension, size and header of some audio members."""
    headers_tried: int = 0
    """How many were looked at."""

    def samples(self) -> Iterator[Sample]:
        """Every sample that has audio, in order.

        Raises:
            ConfigError: a sidecar that cannot be read, a name that leads out of the archive, or one that comes twice.
        """
        for _, members in groupby(self._read_members(), key=lambda found: found[0].key):
            sample = self._sample(list(members))
            if sample is not None:
                yield sample

    def _sample(self, members: "list[tuple[IndexedMember, bytes | None]]") -> Sample | None:
        audio = tuple(member for member, _ in members if member.is_audio)
        columns: dict[str, Any] = {}
        origins = [f"{self.name}#{member.name}" for member, content in members if content is not None]
        for member, content in members:
            if content is None:
                if not member.is_audio:
                    self.skipped["archive member of another kind"] += 1
                continue
            if not audio:
                self.skipped["archive member without audio beside it"] += 1
                continue
            found = read_sidecar(content, extension=member.extension, name=f"{self.name}#{member.name}")
            if twice := found.keys() & columns.keys():
                raise ConfigError(
                    f"column {min(twice)!r} comes from two of {', '.join(origins)}; rename it in the JSON, or name the "
                    "columns you want in selection.source.columns"
                )
            columns |= found
        return Sample(audio=audio, columns=columns, origin=" and ".join(origins)) if audio else None

    def _read_members(self) -> Iterator[tuple[IndexedMember, bytes | None]]:
        """Members, and the contents of sidecars, which are read in passing."""
        seen = set[bytes]()
        for member in self._members():
            mark = blake2b(member.name.encode(errors="surrogateescape"), digest_size=12).digest()
            if mark in seen and (member.is_audio or member.extension in self.sidecars):
                raise ConfigError(
                    f"{self.name} holds {member.name!r} twice; a member that was appended under a name that is there "
                    "does not replace it, so pack the archive anew"
                )
            seen.add(mark)
            content = None
            if member.extension in self.sidecars:
                content = self._content(member)
            elif member.is_audio and self.headers_tried < HEADERS_READ and member.size <= LARGEST_HEADER_READ:
                self.headers_tried += 1
                self._read_header(member)
            yield member, content

    def _content(self, member: IndexedMember) -> bytes | None:
        if member.size > LARGEST_SIDECAR:
            raise ConfigError(
                f"{self.name}#{member.name} has {member.size} bytes, more than the {LARGEST_SIDECAR} that a file of "
                "columns may have; leave it out by naming the columns you want in selection.source.columns ([]: none)"
            )
        self.file.seek(member.offset)
        try:
            content = self.file.read(member.size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if not is_damage(error):
                raise
            return None  # the walk meets it again, and counts it
        return content if len(content) == member.size else None

    def _read_header(self, member: IndexedMember) -> None:
        content = self._content(member)
        header = None if content is None else read_header(io.BytesIO(content))
        if header is not None:
            self.headers.append((extension_of(member.name), member.size, header))

    def _members(self) -> Iterator[IndexedMember]:
        for found in self._walk():
            if found.isdir():
                continue
            if not found.isreg() or found.issparse():
                kind = "sparse" if found.issparse() else "link" if found.islnk() or found.issym() else "special"
                self.skipped[f"archive member: {kind}"] += 1
                continue
            parts = [part for part in found.name.split("/") if part not in ("", ".")]
            if ".." in parts or not parts:
                raise ConfigError(
                    f"{self.name} holds {found.name!r}, which leads out of the archive and cannot be an id; pack the "
                    "archive anew with relative names"
                )
            stem, _, extension = parts[-1].partition(".")
            if not stem or not extension:
                self.skipped["archive member of another kind"] += 1
                continue
            yield IndexedMember(
                name="/".join(parts),
                key="/".join([*parts[:-1], stem]),
                extension=extension.lower(),
                offset=found.offset_data,
                size=found.size,
            )

    def _walk(self) -> Iterator[tarfile.TarInfo]:
        watched = _Watched(self.file)
        place = -1
        try:
            archive = tarfile.TarFile(fileobj=watched, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
            while (found := archive.next()) is not None:
                if found.size < 0 or archive.offset <= place:
                    raise tarfile.ReadError("a header that leads back")
                place = archive.offset
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep a kilobyte for each
                yield found
        except TokenizerJobsError:
            raise
        except Exception as error:  # tarfile raises whatever it meets in a damaged header
            if isinstance(error, OSError) and not is_damage(error) and not isinstance(error, tarfile.TarError):
                raise
            is_cut = isinstance(error, EOFError) or str(error) == "unexpected end of data"
            self._count_fault("truncated archive" if is_cut else "damaged archive", is_first=place < 0)
            return
        if watched.last == bytes(tarfile.BLOCKSIZE):
            self._look_at_rest()
            return
        # Where a header is not one, tarfile ends without a word.
        is_cut = len(watched.last) < tarfile.BLOCKSIZE
        self._count_fault("truncated archive" if is_cut else "damaged archive", is_first=False)

    def _look_at_rest(self) -> None:
        """Read on behind the end: a second archive may lie there; compressed bytes have their checksum last."""
        try:
            rest = self.file.read(REST_READ)
            if rest.strip(b"\0"):
                self.skipped["data behind the end of an archive"] += 1
            while self.is_packed and self.file.read(REST_READ):
                pass
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if not is_damage(error):
                raise
            self._count_fault("damaged archive", is_first=False)

    def _count_fault(self, kind: str, *, is_first: bool) -> None:
        self.skipped["file that is no archive" if is_first and kind == "damaged archive" else kind] += 1


class _Watched:
    """What `tarfile` reads through: it remembers the last block, which says how an archive ended."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.last = b""
        self.name = None

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._file.read(size)
        return self.last

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()
