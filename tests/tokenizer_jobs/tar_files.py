"""Archives made for tests, and what a source says of them."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import TarSource
from tokenizer_jobs.sources import Listing, Source, make_source

MODES: Mapping[str, Any] = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


@lru_cache
def clip(num_samples: int = 800) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(num_samples).uniform(-0.1, 0.1, num_samples), 16000, format="WAV")
    return content.getvalue()


def archive(members: Mapping[str, bytes], *, ending: str = "tar") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=MODES[ending]) as file:
        for name, inside in members.items():
            facts = tarfile.TarInfo(name)
            facts.size = len(inside)
            file.addfile(facts, io.BytesIO(inside))
    return content.getvalue()


def put(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive(members, ending=path.name.partition(".")[2]))
    return path


def source_of(*paths: Path | str, columns: Sequence[str] | None = None) -> Source:
    return make_source(TarSource(paths=tuple(map(str, paths)), columns=None if columns is None else tuple(columns)))


def listing(*paths: Path | str, columns: Sequence[str] | None = None) -> Listing:
    return source_of(*paths, columns=columns).list()


def read(source: Source, item: Item) -> bytes:
    with source.open(item) as file:
        return file.read()


def columns_of(found: Listing) -> dict[str, dict[str, object]]:
    return {item.id: dict(item.user_columns) for item in found.items}
