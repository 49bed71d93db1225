"""Marks on disk that say which unit an in-process run has in hand, found again when the process died on it.

A mark must survive the death of its process, not of the machine: it is a plain local file without fsync.
"""

import hashlib
import os
import tempfile
from pathlib import Path

__all__ = ["Breadcrumbs"]


class Breadcrumbs:
    """Marks of one output, kept on this machine.

    Args:
        output: URL of the output; its hash names the folder of the marks, below the machine's temporary folder.
            Marks lie outside the output, since on an object store each would be a request.
    """

    def __init__(self, output: str) -> None:
        key = hashlib.sha256(output.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._folder = Path(tempfile.gettempdir()) / f"tokenizer_jobs-breadcrumbs-{_user()}" / key

    def mark(self, unit_id: str) -> None:
        """Say that the unit is in hand."""
        self._folder.parent.mkdir(mode=0o700, exist_ok=True)
        self._folder.mkdir(exist_ok=True)
        (self._folder / unit_id).touch()

    def found(self, unit_id: str) -> bool:
        """Whether a process died with the unit in hand."""
        return (self._folder / unit_id).exists()

    def clear(self, unit_id: str) -> None:
        """Say that the unit is no longer in hand."""
        (self._folder / unit_id).unlink(missing_ok=True)


def _user() -> str:
    # The temporary folder is shared, and what another user made there may not be written.
    return str(os.getuid()) if hasattr(os, "getuid") else "user"
