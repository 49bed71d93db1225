"""A storage of file names without files: folders of a thousand, made up as they are listed.

`names://corpus/10000000` holds so many. Importing this module makes the protocol known to fsspec.
"""

from typing import Any

import fsspec

__all__ = ["FILES_A_FOLDER", "NamesFileSystem"]

FILES_A_FOLDER = 1000
BYTES_A_SECOND = 60_000
"""What planning takes a FLAC file to need."""


class NamesFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Lists FLAC files of 5 to 20 s by their size; none of them can be opened."""

    protocol = "names"

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a folder: the corpus has folders, a folder has files."""
        parts = self._strip_protocol(path).strip("/").split("/")
        num_files = int(parts[1])
        if len(parts) == 2:
            folders = range(-(-num_files // FILES_A_FOLDER))
            infos = [_folder(f"{parts[0]}/{parts[1]}/{_scattered(folder):08x}") for folder in folders]
        else:
            folder = _scattered(int(parts[2], 16), back=True)
            first = folder * FILES_A_FOLDER
            numbers = range(first, min(num_files, first + FILES_A_FOLDER))
            infos = [_file("/".join(parts), number) for number in numbers]
        return infos if detail else [info["name"] for info in infos]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Facts on the corpus or a folder of it."""
        return _folder(self._strip_protocol(path).strip("/"))


def _scattered(number: int, *, back: bool = False) -> int:
    """A number whose order says nothing of where it came, and the way back: names come unsorted."""
    factor = 0x9E3779B1
    return number * (pow(factor, -1, 1 << 32) if back else factor) % (1 << 32)


def _folder(name: str) -> dict[str, Any]:
    return {"name": name, "type": "directory", "size": 0}


def _file(folder: str, number: int) -> dict[str, Any]:
    mixed = _scattered(number)
    return {
        "name": f"{folder}/recording-{mixed:08x}.flac",
        "type": "file",
        "size": BYTES_A_SECOND * 5 + mixed % (BYTES_A_SECOND * 15),
        "ETag": f'"{mixed:08x}{number:08x}{mixed:08x}{number:08x}"',
    }


fsspec.register_implementation("names", NamesFileSystem, clobber=True)
