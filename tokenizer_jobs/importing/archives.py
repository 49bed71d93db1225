"""Samples of a WebDataset tar: members whose names are equal up to the first dot of their last part."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.importing.arrays import suffix_of
from tokenizer_jobs.storage import open_source

__all__ = ["OpenedArchive", "Sample", "samples_of", "split_name"]

MOST_JSON_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One array of a sample."""

    key: str
    member: str
    part: str
    """The member's name behind the key and a dot."""
    size_bytes: int
    fields: Mapping[str, Any]
    """What `KEY.json` says."""


def split_name(name: str) -> tuple[str, str]:
    """The key of a member and the rest behind its dot."""
    folder, slash, last = name.rpartition("/")
    stem, _, part = last.partition(".")
    return f"{folder}{slash}{stem}", part


def samples_of(location: str) -> Iterator[Sample]:
    """The arrays of an archive, with what lies beside them.

    Raises:
        ConfigError: it is no tar that is whole, or a compressed one.
    """
    with OpenedArchive(location) as archive:
        for key, group in groupby(archive.members(), key=lambda member: split_name(member.name)[0]):
            members = list(group)
            fields = next((archive.json_of(m) for m in members if split_name(m.name)[1] == "json"), {})
            for member in members:
                if suffix_of(member.name):
                    yield Sample(
                        key=key,
                        member=member.name,
                        part=split_name(member.name)[1],
                        size_bytes=member.size,
                        fields=fields,
                    )


class OpenedArchive:
    """One tar that is read at any of its members; a context manager.

    Args:
        location: Local path or URL.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._file: IO[bytes] = open_source(location)
        self._found: dict[str, tarfile.TarInfo] | None = None
        try:
            self._tar = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115  # `close` does
        except (tarfile.TarError, OSError, EOFError) as error:
            self._file.close()
            raise self._damaged(error) from error

    def __enter__(self) -> "OpenedArchive":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._tar.close()
        self._file.close()

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Its regular files, in order."""
        try:
            for member in self._tar:
                if member.isreg():
                    yield member
        except (tarfile.TarError, EOFError) as error:
            raise self._damaged(error) from error

    def read(self, name: str) -> bytes | None:
        """The bytes of a member; None where it has none of this name."""
        if self._found is None:
            self._found = {member.name: member for member in self.members()}
        member = self._found.get(name)
        return None if member is None else self._bytes(member)

    def json_beside(self, name: str) -> Mapping[str, Any]:
        """What `KEY.json` says of the sample that a member is of; nothing where there is none."""
        if self._found is None:
            self._found = {member.name: member for member in self.members()}
        beside = self._found.get(f"{split_name(name)[0]}.json")
        return {} if beside is None else self.json_of(beside)

    def json_of(self, member: tarfile.TarInfo) -> Mapping[str, Any]:
        """A member as a JSON object; nothing where it is none."""
        if member.size > MOST_JSON_BYTES:
            return {}
        try:
            content = json.loads(self._bytes(member))
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _bytes(self, member: tarfile.TarInfo) -> bytes:
        file = self._tar.extractfile(member)
        return b"" if file is None else file.read()

    def _damaged(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self._location} cannot be read as a tar ({error}); expected an uncompressed one, so decompress it, or "
            "leave a damaged one out by a glob"
        )
