"""The same clips as every kind of source holds them, at any location that fsspec can write."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tests.tokenizer_jobs.clips import encode, speechlike

__all__ = ["LAYOUTS", "add_part", "few_clips"]

Clips = Mapping[str, bytes]
"""Contents by file name."""

_CODINGS = (
    ("wav", "WAV", "PCM_16"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
)


def few_clips(first: int, number: int) -> dict[str, bytes]:
    """Short clips, each of another length and format; the same call gives the same bytes."""
    clips = {}
    for index in range(first, first + number):
        extension, container, coding = _CODINGS[index % len(_CODINGS)]
        waveform = speechlike(6_000 + 800 * index, rate=16_000)
        clips[f"clip-{index:02d}.{extension}"] = encode(waveform, container=container, coding=coding)
    return clips


def add_part(kind: str, location: str, clips: Clips, *, part: int) -> dict[str, Any]:
    """Add clips to a source at a folder or URL and return `selection.source` for all of it.

    The part of an id behind its last slash is the clip's file name.
    """
    return LAYOUTS[kind](location, clips, part)


def _files(location: str, clips: Clips, part: int) -> dict[str, Any]:
    for name, content in clips.items():
        _write(f"{location}/part-{part}/{name}", content)
    return {"kind": "files", "paths": [location]}


def _manifest(location: str, clips: Clips, part: int) -> dict[str, Any]:
    lines = []
    for name, content in clips.items():
        _write(f"{location}/audio/{name}", content)
        lines.append(json.dumps({"path": f"audio/{name}", "text": f"says {name}"}))
    _write(f"{location}/part-{part}.jsonl", "\n".join(lines).encode())
    return {"kind": "manifest", "paths": [f"{location}/*.jsonl"]}


def _table(clips: Clips) -> pa.Table:
    audio = [{"bytes": content, "path": name} for name, content in clips.items()]
    return pa.table({"name": list(clips), "audio": audio, "text": [f"says {name}" for name in clips]})


def _parquet(location: str, clips: Clips, part: int) -> dict[str, Any]:
    content = io.BytesIO()
    pq.write_table(_table(clips), content, row_group_size=2)
    _write(f"{location}/part-{part}.parquet", content.getvalue())
    return {"kind": "parquet", "paths": [location], "id_column": "name"}


def _hub(location: str, clips: Clips, part: int) -> dict[str, Any]:
    """As `datasets` saves to disk: streams of Arrow, and their names."""
    content = io.BytesIO()
    table = _table(clips)
    with pa.ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    _write(f"{location}/data-{part:05d}.arrow", content.getvalue())
    names = [{"filename": f"data-{number:05d}.arrow"} for number in range(1, part + 1)]
    state = {"_data_files": names, "_split": "train", "_indices_data_files": None}
    _write(f"{location}/state.json", json.dumps(state).encode())
    _write(f"{location}/dataset_info.json", b"{}")
    return {"kind": "hub", "dataset": location, "id_column": "name"}


def _tar(location: str, clips: Clips, part: int) -> dict[str, Any]:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, clip in clips.items():
            key = name.partition(".")[0]
            for member, inside in ((name, clip), (f"{key}.json", json.dumps({"text": f"says {name}"}).encode())):
                info = tarfile.TarInfo(member)
                info.size = len(inside)
                archive.addfile(info, io.BytesIO(inside))
    _write(f"{location}/shard-{part:05d}.tar", content.getvalue())
    return {"kind": "tar", "paths": [f"{location}/shard-*.tar"]}


LAYOUTS: Mapping[str, Callable[[str, Clips, int], dict[str, Any]]] = {
    "files": _files,
    "manifest": _manifest,
    "parquet": _parquet,
    "hub": _hub,
    "tar": _tar,
}


def _write(url: str, content: bytes) -> None:
    system, path = fsspec.url_to_fs(url)
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    system.pipe_file(path, content)
