"""What one stored row can be checked for by itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.digest import codes_sha256
from tokenizer_jobs.recipe import METADATA_KEY

__all__ = ["CheckedRow", "file_facts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRow:
    """The parts of a row that say something of one another."""

    id: str
    codes: npt.NDArray[np.uint16]
    shape: tuple[int, int]
    window_frames: list[int] | None
    codes_sha256: str

    def problem(self, facts: Mapping[str, Any]) -> str | None:
        """What is wrong with the row, if anything."""
        if self.codes.shape != self.shape:
            return f"has codes {list(self.codes.shape)} and says {list(self.shape)}"
        if "n_q" in facts and self.codes.shape[0] != facts["n_q"]:
            return f"has {self.codes.shape[0]} codebooks where the file's metadata says {facts['n_q']}"
        if self.codes.size and "codebook_size" in facts and int(self.codes.max()) >= facts["codebook_size"]:
            return f"has code {int(self.codes.max())} where codebooks hold {facts['codebook_size']} entries"
        if self.window_frames is not None and sum(self.window_frames) != self.codes.shape[1]:
            return f"has windows of {sum(self.window_frames)} frames and {self.codes.shape[1]} frames of codes"
        found = codes_sha256(self.codes)
        if found != self.codes_sha256:
            return f"has codes of sha256 {found} and says {self.codes_sha256}"
        return None


def file_facts(schema: pa.Schema) -> dict[str, Any]:
    """What a file says of how it was made; empty where it says nothing."""
    content: dict[str, Any] = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    return content
