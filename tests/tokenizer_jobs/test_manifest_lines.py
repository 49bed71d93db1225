"""Laws of reading manifests: every line is an item or an error that names it, whatever shape the file has."""

import codecs
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.tokenizer_jobs.conftest import PYTHON_PATH
from tests.tokenizer_jobs.manifests import (
    CLIP,
    items,
    jsonl,
    listing,
    put,
    refusal,
)

ROWS: list[dict[str, Any]] = [
    {"path": "ü 1.wav", "text": 'He said "hi",\nthen left', "n": 1},
    {"path": "b;2.wav", "text": "tab\there", "n": 2},
    {"path": "c.wav", "text": None, "n": None},
]


def as_csv(rows: list[dict[str, Any]], **options: Any) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_tsv(rows: list[dict[str, Any]]) -> str:
    clean = [{k: v if v is None else str(v).replace("\n", " ").replace("\t", " ") for k, v in r.items()} for r in rows]
    return "".join("\t".join(v or "" for v in line) + "\n" for line in [list(rows[0]), *(r.values() for r in clean)])


@pytest.mark.parametrize("is_gzip", [False, True])
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("shape", ["jsonl", "csv", "csv;", "csv-lf", "tsv", "jsonl-crlf", "jsonl-blank"])
def test_every_shape_of_file_gives_the_same_items(tmp_path: Path, shape: str, bom: bytes, is_gzip: bool) -> None:
    rows = ROWS if shape != "tsv" else [{**row, "text": (row["text"] or "").replace("\n", " ") or None} for row in ROWS]
    content = {
        "jsonl": lambda: jsonl(*rows),
        "jsonl-crlf": lambda: jsonl(*rows).replace("\n", "\r\n"),
        "jsonl-blank": lambda: "\n  \r\n" + jsonl(*rows).replace("\n", "\n\n").rstrip("\n"),
        "csv": lambda: as_csv(rows),
        "csv-lf": lambda: "\n" + as_csv(rows, lineterminator="\n").rstrip("\n"),
        "csv;": lambda: as_csv(rows, delimiter=";").replace(",", "·"),
        "tsv": lambda: as_tsv(rows),
    }[shape]()
    stored = bom + content.encode()
    # The name says nothing about gzip.
    path = put(tmp_path / f"m.{shape[:3].replace('jso', 'jsonl')}", gzip.compress(stored) if is_gzip else stored)
    found = listing(path)
    assert found.user_schema == pa.schema([("text", pa.string()), ("n", pa.int64())])
    marks = {"csv;": (",", "·"), "tsv": ("\t", " ")}.get(shape, ("", ""))
    expected = {
        row["path"]: (row["text"] and row["text"].replace(*marks) if marks[0] else row["text"], row["n"])
        for row in rows
    }
    assert {item.id: (item.user_columns.get("text"), item.user_columns.get("n")) for item in found.items} == expected


BROKEN = [
    ('{"path": "b.wav"', "JSON"),
    ('{"path": "b.wav"} {"path": "c.wav"}', "JSON"),
    ('["b.wav"]', "JSON object"),
    ('{"path": ""}', "path = ''"),
    ('{"path": null}', "path = None"),
    ('{"paht": "b.wav"}', "path = None"),
    ('{"path": ["b.wav", "c.wav"]}', "several files"),
    ('{"path": {"bytes": ""}}', "path = {"),
    ('{"path": "sph2pipe -f wav b.sph |"}', "shell pipe"),
    ('{"path": "b\\u0000.wav"}', "zero byte"),
    ('{"path": "b\\ud800.wav"}', "characters"),
    ('{"path": "b.wav", "start": -0.5}', "start = -0.5"),
    ('{"path": "b.wav", "start": NaN}', "start = nan"),
    ('{"path": "b.wav", "duration": Infinity}', "duration = inf"),
    ('{"path": "b.wav", "duration": "3"}', "duration = '3'"),
    ('{"path": "b.wav", "duration": true}', "duration = True"),
    ('{"path": "b.wav", "duration": 1' + "0" * 400 + "}", "duration = 1"),
    ('{"path": "b.wav", "start": 2, "end": 1}', "end = 1"),
    ('{"path": "b.wav", "id": "x"}', "'x'"),
    ('{"path": "https://host/b.wav?signature=abc"}', "may not be stored"),
    ('{"path": "s3://key:secret@bucket/b.wav"}', "may not be stored"),
    ('{"path": "b.wav", "text": "\\ud800"}', "text"),
    ('{"path": "b.wav", "n": 123456789012345678901234567890}', "n = 1234"),
    ("[" * 200_000, "JSON"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN, ids=[line[:40] for line, _ in BROKEN])
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    said = refusal(put(tmp_path / "m.jsonl", jsonl({"path": "a.wav"}, "", line, {"path": "c.wav"})))
    assert "m.jsonl, line 3: " in said
    assert message in said
    assert "secret" not in said
    assert "abc" not in said
    assert len(said) < 1000


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        ("path,duration\na.wav,1\nb.wav\n", "line 3", "1 fields where the header has 2"),
        ("path,duration\na.wav,1\nb.wav,2,3\n", "line 3", "3 fields"),
        ("path,duration\na.wav,3,5\n", "line 2", "3 fields"),
        ('path,duration\n"a\n.wav",1\n"b.wav"x,1\n', "line 4", "expected after"),
        ('path,duration\na.wav,1\n"b.wav,1\nc.wav,2\n', "line 3", "unexpected end"),
        ("path,duration\na.wav,1\nb.wav,1:30\n", "line 3", "duration = '1:30'"),
        ("path,duration\na.wav,1\nb.wav,1_0\n", "line 3", "duration = '1_0'"),
        ("path;duration\na.wav;1,5\n", "line 2", "duration = '1,5'"),
        ("path,path\na.wav,b.wav\n", "line 1", "twice"),
        ("song,mood\na.wav,calm\n", "line 2", "song, mood"),
        ("path\tduration\na.wav\t1\nb\n.wav\t1\n", "line 3", "fields"),
        ("path,id\na.wav,1\nb.wav,\n", "line 3", "id = None"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, content: str, place: str, message: str) -> None:
    said = refusal(put(tmp_path / "m.csv", content))
    assert f"m.csv, {place}: " in said
    assert message in said


def test_files_that_are_no_manifests_are_named(tmp_path: Path) -> None:
    whole = gzip.compress(jsonl(*[{"path": f"{n}-{uuid.uuid4()}.wav"} for n in range(99)]).encode())
    cases: dict[str, tuple[bytes, str]] = {
        "cut.jsonl.gz": (whole[:-40], "gzip"),
        "flipped.jsonl.gz": (whole[:40] + bytes([whole[40] ^ 255]) + whole[41:], "gzip"),
        "array.json": (b'[{"path": "a.wav"}]', "JSON lines"),
        "pretty.json": (b'{\n "path": "a.wav"\n}\n', "line 1"),
        "utf16.csv": ("path\na.wav\n".encode("utf-16"), "UTF-16"),
        "latin.csv": ("path\nä.wav\n".encode("latin-1"), "line 2"),
        "audio.jsonl": (CLIP, "line 1"),
        "empty.jsonl": (b"", "no line"),
        "blank.csv": (b"\xef\xbb\xbf\n\n", "no line"),
        "header.csv": (b"path,text\n", "no line"),
    }
    for name, (content, message) in cases.items():
        said = refusal(put(tmp_path / name, content))
        assert name in said
        assert message in said


def test_a_tsv_has_no_quotes(tmp_path: Path) -> None:
    said = '"Nein!" rief sie.'
    (item,) = items(put(tmp_path / "validated.tsv", f"client_id\tpath\tsentence\n0042\ta.mp3\t{said}\n"))
    assert item.user_columns == {"client_id": "0042", "sentence": said}


MEASURE = """
import resource, sys
from tokenizer_jobs import item_table
from tokenizer_jobs.source_config import ManifestSource
from tokenizer_jobs.sources import make_source

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

item_table.RUN_ITEMS = 1 << 13
make_source(ManifestSource(paths=(sys.argv[1],))).list()
before = peak()
listing = make_source(ManifestSource(paths=(sys.argv[2],))).list()
print(len(listing.items), listing.num_missing, peak() - before)
"""


def write_lines(path: Path, count: int) -> None:
    with path.open("w") as file:
        for n in range(count):
            line = {
                "audio_filepath": f"audio/{n // 10:06d}.wav",
                "offset": n % 10 * 3.5,
                "duration": 3.5,
                "text": f"t {n}",
            }
            file.write(json.dumps(line) + "\n")


def test_memory_does_not_grow_with_the_lines(tmp_path: Path) -> None:
    write_lines(tmp_path / "few.jsonl", 10_000)
    write_lines(tmp_path / "many.jsonl", 60_000)
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "few.jsonl"), str(tmp_path / "many.jsonl")]
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    count, missing, megabytes = done.stdout.split()
    assert (int(count), int(missing)) == (60_000, 60_000)
    # With sorted runs of 8,192 items. As records 50,000 more items would take more than 60 MB.
    assert float(megabytes) < 25
