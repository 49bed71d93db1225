"""Where a codec's files are: a local folder, the Hugging Face hub or its cache, or this package."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

__all__ = ["CONFIG_FILE", "DEMO", "EXTRACTOR_FILE", "HubOptions", "Location", "read_json_object"]

CONFIG_FILE = "config.json"
EXTRACTOR_FILE = "preprocessor_config.json"
DEMO = "demo"
"""The id of the small codec that comes with the package."""

_DEMO_FOLDER = Path(__file__).parent / "demo"


class HubOptions(TypedDict, total=False):
    """Keywords of every `from_pretrained`, as transformers names them; see `Location`."""

    revision: str | None
    cache_dir: str | PathLike[str] | None
    local_files_only: bool
    token: str | bool | None
    subfolder: str | None
    force_download: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place that holds a codec's files."""

    name_or_path: str | PathLike[str]
    """A local folder, a hub id such as "facebook/encodec_24khz", or "demo". A folder wins over a hub id of its name;
    the string "demo" is always the codec in this package, and a folder of that name is "./demo" or a `Path`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None: its main branch. Means nothing to a folder."""
    cache_dir: str | PathLike[str] | None = None
    """Cache of hub files; None: huggingface_hub's own."""
    local_files_only: bool = False
    """Take hub files from the cache alone. `HF_HUB_OFFLINE=1` in the environment does the same."""
    token: str | bool | None = None
    """Hub token; None: the one that the user is logged in with."""
    subfolder: str | None = None
    """Where the files are inside the folder or repository; None: at its top."""
    force_download: bool = False
    """Download hub files anew, though the cache has them. Means nothing to a folder."""

    @classmethod
    def of(
        cls, name_or_path: str | PathLike[str], *, also_accepted: Collection[str] = (), **options: Unpack[HubOptions]
    ) -> "Location":
        """Build a location from the keywords of a `from_pretrained`, which itself reads those in `also_accepted`.

        Raises:
            TypeError: a keyword is unknown.
        """
        accepted = HubOptions.__annotations__.keys()
        unknown = sorted(options.keys() - accepted)
        if unknown:
            raise TypeError(
                f"from_pretrained takes no {', '.join(unknown)}; it takes {', '.join([*also_accepted, *accepted])}"
            )
        return cls(name_or_path=name_or_path, **options)

    @property
    def folder(self) -> Path | None:
        """The local folder, or None where the files are the hub's."""
        if self.name_or_path == DEMO:
            return _DEMO_FOLDER / (self.subfolder or "")
        folder = Path(self.name_or_path).expanduser()
        return folder / (self.subfolder or "") if folder.is_dir() else None

    def file(self, name: str) -> Path:
        """Return the local path of the file `name`, downloaded or from the cache where it is the hub's.

        Raises:
            FileNotFoundError: the folder, the repository or the cache has no such file, or the hub cannot be asked.
        """
        path = self.find(name)
        if path is None:
            inside = f"{self.subfolder}/{name}" if self.subfolder else name
            raise FileNotFoundError(
                f"{self.name_or_path} has no file {inside}; is it a folder written by save_pretrained?"
            )
        return path

    def find(self, name: str) -> Path | None:
        """Return the local path of the file `name`, or None where the place exists without that file.

        Raises:
            FileNotFoundError: there is no such place, or nobody can tell.
        """
        folder = self.folder
        if folder is not None:
            path = folder / name
            return path if path.is_file() else None
        return self._find_on_hub(name)

    def _find_on_hub(self, name: str) -> Path | None:
        try:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import (
                EntryNotFoundError,
                HfHubHTTPError,
                HFValidationError,
                LocalEntryNotFoundError,
            )
        except ImportError as error:
            raise self._missing("huggingface_hub is not installed (pip install huggingface_hub)") from error
        try:
            path = hf_hub_download(
                str(self.name_or_path),
                name,
                revision=self.revision,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
                token=self.token,
                subfolder=self.subfolder,
                force_download=self.force_download,
            )
        except LocalEntryNotFoundError as error:
            if self._is_cached(CONFIG_FILE):
                return None
            raise self._missing("the hub's cache has no copy, and the hub cannot be reached") from error
        except EntryNotFoundError:
            return None
        except HFValidationError as error:
            raise self._missing("it cannot be a hub id either") from error
        except (HfHubHTTPError, OSError) as error:
            raise self._missing(f"the hub says: {error}") from error
        return Path(path)

    def commit_of(self, path: Path) -> str | None:
        """Return the hub's commit that `path`, which `file` returned, is of; None for a folder's."""
        if self.folder is not None:
            return None
        # The hub's cache keeps a file under snapshots/<commit>/.
        return path.parents[len(Path(self.subfolder or "").parts)].name

    def _is_cached(self, name: str) -> bool:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            str(self.name_or_path),
            str(Path(self.subfolder or "") / name),
            cache_dir=self.cache_dir,
            revision=self.revision or "main",
        )
        return isinstance(found, str)

    def _missing(self, why: str) -> FileNotFoundError:
        return FileNotFoundError(
            f"no codec at {str(self.name_or_path)!r} (revision {self.revision or 'main'}): there is no such folder, "
            f"and {why}. Give a folder with {CONFIG_FILE} and weights, the path of a .th checkpoint, a hub id such as "
            f'"facebook/encodec_24khz", or "{DEMO}"'
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ValueError: it is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); expected an object of keys. Copy the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected an object of keys. Copy the file again")
    return content
