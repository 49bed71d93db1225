"""Broken audio through a real run: each file is a row or a reject with a right reason, and no neighbour is touched.

    python -m pytest --long tests/tokenizer_jobs/test_hostile.py

makes ten thousand broken files more, from other seeds.
"""

import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.clips import MemorySource, decode_bytes
from tests.tokenizer_jobs.conftest import PYTHON_PATH
from tests.tokenizer_jobs.hostile import EXTENSIONS, Hostile, clean, corpus
from tokenizer_jobs import JobConfig, run
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import RejectReason
from tokenizer_jobs.isolation import DecodeLimits, decode_isolated
from tokenizer_jobs.records import Decoded, DecodedItem, Item, RejectedItem
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources import make_source
from tokenizer_jobs.sources.files import id_from_path

TARGET = AudioTarget(sample_rate=24000, channels=1)
RUN_SECONDS = 240
NEIGHBOUR_EVERY = 25
STRIKES = {RejectReason.CRASHED_WORKER, RejectReason.TIMED_OUT, RejectReason.OUT_OF_MEMORY}
"""Of a child that had to be killed, or died."""
STRANGE_NAMES = (
    "ünïcödé 音声.wav",
    "line\nbreak.wav",
    "%41.wav",
    " .wav",
    "-rf.wav",
    "a'b\"c.wav",
    os.fsdecode(b"not utf-8 \xff.wav"),
    "n" * 251 + ".wav",
    "音" * 83 + "12.wav",
)


@dataclass(frozen=True, kw_only=True, repr=False)
class HostileRun:
    """A folder, and what a run made of it."""

    broken: Mapping[str, Hostile]
    """By id."""
    neighbours: Mapping[str, str]
    """Kind of each whole clip, by id."""
    rows: Mapping[str, Mapping[str, object]]
    """By id."""
    rejects: Mapping[str, Mapping[str, object]]
    """By id."""
    said: subprocess.CompletedProcess[str]


def job_text(folder: Path, output: Path) -> str:
    return (
        f"output: {output}\nrecipe: {{codec: {{model: demo, bandwidth_kbps: 1.5}}}}\n"
        f"selection: {{source: {{kind: files, paths: [{folder}]}}}}\nruntime: {{executor: inline}}\n"
    )


def tokenize(folder: Path, output: Path) -> subprocess.CompletedProcess[str]:
    job = output.with_suffix(".yaml")
    job.write_text(job_text(folder, output))
    words = [sys.executable, "-m", "tokenizer_jobs", "run", str(job)]
    environment = os.environ | {"PYTHONPATH": PYTHON_PATH, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=RUN_SECONDS)


def rows_of(folder: Path) -> dict[str, dict[str, object]]:
    columns = ["id", "codes_sha256", "num_samples", "source_sample_rate", "source_channels", "truncated"]
    columns = columns if folder.name == "codes" else ["id", "stage", "reason", "message"]
    rows = [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path, columns=columns).to_pylist()
    ]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def fill(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def put_what_is_no_file(folder: Path) -> None:
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    (folder / "loop").symlink_to(folder)
    (folder / "itself.wav").symlink_to(folder / "itself.wav")
    (folder / "broken.wav").symlink_to(folder / "nowhere.wav")
    before = Path.cwd()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.wav")  # relative: the path of a socket may be 107 bytes
    os.chdir(before)


def make_run(root: Path, broken: Iterator[Hostile]) -> HostileRun:
    files, hostile, neighbours = dict[str, bytes](), dict[str, Hostile](), dict[str, str]()
    kinds = list(EXTENSIONS)
    for number, each in enumerate(broken):
        name = f"{number:05d}.{each.extension or EXTENSIONS[each.kind]}"
        files[name], hostile[name] = each.content, each
        if number % NEIGHBOUR_EVERY == 0:
            kind = kinds[number // NEIGHBOUR_EVERY % len(kinds)]
            name = f"{number:05d} whole.{EXTENSIONS[kind]}"
            files[name], neighbours[name] = clean(kind), kind
    for name in STRANGE_NAMES:
        files[name], neighbours[id_from_path(name)] = clean("wav"), "wav"
    fill(root / "audio", files)
    put_what_is_no_file(root / "audio")
    said = tokenize(root / "audio", root / "out")
    return HostileRun(
        broken=hostile,
        neighbours=neighbours,
        rows=rows_of(root / "out" / "codes"),
        rejects=rows_of(root / "out" / "rejects"),
        said=said,
    )


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> HostileRun:
    return make_run(tmp_path_factory.mktemp("hostile"), corpus())


@pytest.fixture(scope="module")
def clean_codes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Hash of the codes of each whole clip, by kind, from a run without anything else."""
    root = tmp_path_factory.mktemp("clean")
    fill(root / "audio", {f"{kind}.{extension}": clean(kind) for kind, extension in EXTENSIONS.items()})
    content = yaml.safe_load(job_text(root / "audio", root / "out"))
    run(JobConfig.parse(content, origin="a test"))
    rows = rows_of(root / "out" / "codes")
    return {kind: rows[f"{kind}.{extension}"]["codes_sha256"] for kind, extension in EXTENSIONS.items()}


def test_the_corpus_is_large_and_the_same_everywhere() -> None:
    made = list(corpus())
    assert len(made) >= 400
    assert made == list(corpus())
    assert set(Counter(each.kind for each in made)) == set(EXTENSIONS)


def test_the_run_ends_well_and_every_file_is_accounted_for(hostile_run: HostileRun) -> None:
    assert hostile_run.said.returncode == 0, hostile_run.said.stderr
    assert (
        hostile_run.rows.keys() | hostile_run.rejects.keys()
        == hostile_run.broken.keys() | hostile_run.neighbours.keys()
    )
    assert not hostile_run.rows.keys() & hostile_run.rejects.keys()


def test_every_broken_file_has_a_right_answer(hostile_run: HostileRun) -> None:
    wrong = []
    for name, hostile in hostile_run.broken.items():
        if name in hostile_run.rows:
            row = hostile_run.rows[name]
            frames = float(str(row["num_samples"])) * float(str(row["source_sample_rate"])) / TARGET.sample_rate
            fault = _wrong_row(hostile, frames * float(str(row["source_channels"])))
        else:
            fault = _wrong_reject(hostile, RejectReason(str(hostile_run.rejects[name]["reason"])))
        if fault:
            wrong.append(
                f"{hostile.kind}, {hostile.damage}: {fault} {hostile_run.rejects.get(name, {}).get('message', '')}"
            )
    assert wrong == []


def test_neighbours_have_the_codes_that_they_have_alone(
    hostile_run: HostileRun, clean_codes: Mapping[str, object]
) -> None:
    assert len(hostile_run.neighbours) > 25
    changed = [
        name
        for name, kind in hostile_run.neighbours.items()
        if hostile_run.rows[name]["codes_sha256"] != clean_codes[kind]
    ]
    assert changed == []


def test_a_wrong_extension_changes_no_code(hostile_run: HostileRun, clean_codes: Mapping[str, object]) -> None:
    renamed = {name: each.kind for name, each in hostile_run.broken.items() if each.damage.startswith("named")}
    assert len(renamed) == len(EXTENSIONS) * (len(EXTENSIONS) - 1)
    assert {name: hostile_run.rows[name]["codes_sha256"] for name in renamed} == {
        name: clean_codes[kind] for name, kind in renamed.items()
    }


def test_what_is_no_file_is_counted(tmp_path: Path) -> None:
    fill(tmp_path / "audio", {"a.wav": clean("wav")})
    put_what_is_no_file(tmp_path / "audio")
    found = make_source(FilesSource(paths=(str(tmp_path / "audio"),))).list()
    assert [item.id for item in found.items] == ["a.wav"]
    assert found.skipped == {
        "folder named like audio": 1,
        "fifo": 1,
        "link to a listed folder": 1,
        "broken link": 2,
        "socket": 1,
    }


def test_a_file_that_may_not_be_read_costs_itself(unprivileged: Path) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        (unprivileged / name).write_bytes(clean("wav"))
    (unprivileged / "b.wav").chmod(0)
    source = make_source(FilesSource(paths=(str(unprivileged),)))
    decoded = list(decode_items(list(enumerate(source.list().items)), source=source, target=TARGET))
    assert [type(each) for each in decoded] == [DecodedItem, RejectedItem, DecodedItem]
    assert isinstance(decoded[1], RejectedItem)
    assert decoded[1].reason is RejectReason.PERMISSION_DENIED


@lru_cache
def clean_frames(kind: str) -> float:
    return source_values(decode_bytes(clean(kind), target=TARGET))


def source_values(decoded: Decoded) -> float:
    """Samples of a row over all channels, as they were stored."""
    assert isinstance(decoded, DecodedItem)
    facts = decoded.facts
    return facts.num_samples * facts.source_sample_rate / facts.sample_rate * facts.source_channels


def _wrong_row(hostile: Hostile, values: float) -> str | None:
    if not hostile.may_pass:
        return "a row"
    share = values / clean_frames(hostile.kind)
    return None if share >= hostile.least_share else f"a row of {share:.2f} of the audio"


def _wrong_reject(hostile: Hostile, reason: RejectReason) -> str | None:
    return None if reason in hostile.reasons else f"a reject as {reason}"


@pytest.mark.parametrize("kind", EXTENSIONS)
@settings(max_examples=60, deadline=None)
@given(chance=st.randoms(use_true_random=False), number=st.integers(1, 6))
def test_any_damage_gives_one_answer(kind: str, chance: random.Random, number: int) -> None:
    content = bytearray(clean(kind))
    for _ in range(number):
        _damage(content, chance)
    item = Item(id="x", source_uri=f"x.{EXTENSIONS[kind]}")
    (decoded,) = decode_items([(0, item)], source=MemorySource({"x": bytes(content)}), target=TARGET)
    assert decoded.position == 0
    assert isinstance(decoded, DecodedItem | RejectedItem)
    assert isinstance(decoded, RejectedItem) or (decoded.is_last and decoded.facts.num_samples > 0)


def _damage(content: bytearray, chance: random.Random) -> None:
    """Do one of six things to a file."""
    place = chance.randrange(len(content) + 1)
    length = chance.choice((1, 2, 4, 64, 1000))
    match chance.randrange(6):
        case 0 if content:
            content[place % len(content)] ^= 1 << chance.randrange(8)
        case 1:
            del content[place:]
        case 2:
            del content[place : place + length]
        case 3:
            content[place : place + length] = bytes(len(content[place : place + length]))
        case 4:
            content[place:place] = chance.randbytes(length)
        case _:
            content[place : place + 4] = chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))


@pytest.mark.parametrize("seed", range(1, 11))
def test_many_more_broken_files_have_right_answers(long: None, seed: int) -> None:
    wrong = []
    for hostile in corpus(seed=seed, density=5):
        decoded = decode_bytes(
            hostile.content, target=TARGET, name=f"x.{hostile.extension or EXTENSIONS[hostile.kind]}"
        )
        if isinstance(decoded, RejectedItem):
            fault = _wrong_reject(hostile, decoded.reason)
        else:
            fault = _wrong_row(hostile, source_values(decoded))
        if fault:
            wrong.append(f"{hostile.kind}, {hostile.damage}: {fault}")
    assert wrong == []


def test_a_child_answers_as_this_process_does(tmp_path: Path) -> None:
    """None of the corpus kills, stops or hangs it: no answer is a strike, and each is the one that is given here."""
    made = list(corpus())
    fill(tmp_path / "audio", {f"{place:05d}": each.content for place, each in enumerate(made)})
    config = FilesSource(paths=(str(tmp_path / "audio"),))
    items = [
        (place, Item(id=f"{place}", source_uri=str(tmp_path / "audio" / f"{place:05d}"))) for place in range(len(made))
    ]
    child = list(decode_isolated(items, source=config, target=TARGET, limits=DecodeLimits()))
    here = list(decode_items(items, source=make_source(config), target=TARGET))
    assert [_answer(each) for each in child] == [_answer(each) for each in here]
    assert not {each.reason for each in child if isinstance(each, RejectedItem)} & STRIKES


def _answer(decoded: Decoded) -> tuple[object, ...]:
    if isinstance(decoded, RejectedItem):
        return decoded.position, decoded.stage, decoded.reason, decoded.message
    assert isinstance(decoded, DecodedItem)
    return decoded.position, decoded.facts, decoded.waveform.tobytes()


def test_a_longer_run_ends_well(long: None, tmp_path: Path) -> None:
    made = make_run(tmp_path, corpus(seed=11, density=8))
    test_the_run_ends_well_and_every_file_is_accounted_for(made)
    test_every_broken_file_has_a_right_answer(made)
