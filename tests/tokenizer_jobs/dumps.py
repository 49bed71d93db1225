"""Dumps of codes in the manner of other tools, and what an import of one must come to."""

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.tokenizer_jobs.exchange import codes_by_id
from tokenizer_jobs.importing import CodecClaim, ImportResult, import_codes
from tokenizer_jobs.verification import verify

UNKNOWN = CodecClaim(sample_rate=24_000, frame_rate=75.0, codebook_size=1024)
DEMO = CodecClaim(model="demo")

Codes = dict[str, npt.NDArray[np.uint16]]


def made_codes(*ids: str, num_codebooks: int = 8, size: int = 1024) -> Codes:
    generator = np.random.default_rng(len(ids))
    return {
        row_id: generator.integers(0, size, (num_codebooks, 100 + 7 * place), dtype=np.uint16)
        for place, row_id in enumerate(ids)
    }


CODES = made_codes("a", "b/c", "b/d", "e")


def import_dump(dump: Path, **options: Any) -> ImportResult:
    return import_codes(str(dump), str(dump.parent / "out"), **{"codec": UNKNOWN, **options})


def check_import(dump: Path, codes: Codes, **options: Any) -> ImportResult:
    """Import a dump: its output verifies and has exactly these codes."""
    result = import_dump(dump, **options)
    assert result.problems == []
    assert verify(result.output).problems == []
    found = codes_by_id(result.output)
    assert sorted(found) == sorted(codes)
    assert all(np.array_equal(found[row_id], codes[row_id]) for row_id in codes)
    return result


def save_dump(
    folder: Path, codes: Mapping[str, npt.NDArray[Any]], suffix: str, save: Callable[[Path, Any], object]
) -> Path:
    for row_id, array in codes.items():
        path = folder / f"{row_id}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, array)
    return folder


def save_npy(folder: Path, codes: Mapping[str, npt.NDArray[Any]]) -> Path:
    return save_dump(folder, codes, ".npy", np.save)


def laid_out(codes: npt.NDArray[np.uint16], axes: str, *, offsets: bool = False) -> npt.NDArray[np.int64]:
    """Codes in the layout of somebody else, written down apart from the product's own."""
    array = codes.astype(np.int64)
    if offsets:
        array = array + 1024 * np.arange(len(codes))[:, None]
    match axes:
        case "KT":
            return array
        case "TK":
            return array.T
        case "1KT":
            return array[None]
        case "1TK":
            return array.T[None]
        case "flat":
            return np.array([array[k, t] for t in range(array.shape[1]) for k in range(array.shape[0])])
        case _:
            return np.concatenate(list(array))


def npy_content(codes: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, codes)
    return buffer.getvalue()


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
