"""What the systems of the job benchmark wrote, and how many of its codes differ."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

__all__ = ["Codes", "differing_codes", "read_codes"]

Codes = npt.NDArray[np.uint16]
"""[K, T]."""


def read_codes(system: str, output: Path, *, corpus: Path) -> Iterator[tuple[str, Codes]]:
    """Read an output: for each file its path below the corpus, and its codes."""
    if system == "loop":
        for path in output.rglob("*.npy"):
            yield str(path.relative_to(output)).removesuffix(".npy"), np.load(path)
    elif system == "datasets":
        from datasets import load_from_disk

        for row in load_from_disk(str(output)).with_format("numpy", dtype=np.uint16):
            yield _below(row["path"], corpus), row["codes"]
    else:
        name, folder = ("id", output / "codes") if system == "ours" else ("path", output)
        for path in sorted(folder.glob("*.parquet")):
            table = pq.ParquetFile(path).read(columns=[name, "codes"])
            for key, codes in zip(table[name], table["codes"], strict=True):
                yield _below(key.as_py(), corpus), np.stack([row.values.to_numpy() for row in codes])


def differing_codes(ours: Mapping[str, Codes], theirs: Iterable[tuple[str, Codes]]) -> tuple[int, int]:
    """Count codes of files that both have: those that differ, frames of one alone included, and all of ours."""
    differing = total = 0
    for name, peer in theirs:
        if name not in ours:
            continue
        own = ours[name]
        both = min(own.shape[1], peer.shape[1])
        differing += int((own[:, :both] != peer[:, :both]).sum())
        differing += own.shape[0] * abs(own.shape[1] - peer.shape[1])
        total += own.size
    return differing, total


def _below(path: str, corpus: Path) -> str:
    return str(Path(path).relative_to(corpus)) if Path(path).is_absolute() else path
