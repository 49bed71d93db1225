"""Real recordings, laid out as data sets come: each is tokenized, grows and loses an item, and verifies every time."""

import csv
import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from tests.tokenizer_jobs.test_decode import RECORDINGS
from tests.tokenizer_jobs.test_job import job, rejects, rows
from tokenizer_jobs.job import run
from tokenizer_jobs.removal import drop
from tokenizer_jobs.verification import verify

NUM_FIRST = 9
LONGEST_SECONDS = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A real recording, and what its manifest says of it."""

    name: str
    """Unique, without dots."""
    path: Path
    sample_rate: int
    channels: int
    num_frames: int

    @property
    def file_name(self) -> str:
        """As a data set names it."""
        return self.name + self.path.suffix

    @property
    def seconds(self) -> float:
        """As decoded."""
        return self.num_frames / self.sample_rate

    @property
    def text(self) -> str:
        """What a data set might say of it."""
        return f"says {self.name}"


def recordings() -> list[Recording]:
    """The two shortest of each format, rate and channel count, the different ones first."""
    manifest = RECORDINGS / "MANIFEST.tsv"
    if not manifest.exists():
        return []
    alike: dict[tuple[int, str, str, str], Recording] = {}
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: (float(row["seconds"]), row["path"])):
            recording = Recording(
                name=Path(row["path"]).stem.replace(".", "_"),
                path=RECORDINGS / row["path"],
                sample_rate=int(row["sample_rate"]),
                channels=int(row["channels"]),
                num_frames=int(row["frames"]),
            )
            for turn in range(2):
                key = turn, row["format"], row["sample_rate"], row["channels"]
                if key not in alike and recording.seconds <= LONGEST_SECONDS:
                    alike[key] = recording
                    break
    return [alike[key] for key in sorted(alike)]


CHOSEN = recordings()
pytestmark = [
    pytest.mark.skipif(not CHOSEN, reason=f"no recordings at {RECORDINGS}"),
    pytest.mark.usefixtures("offline_datasets"),
]


def copy(parts: Sequence[Recording], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for each in parts:
        shutil.copy(each.path, folder / each.file_name)


def files(root: Path, parts: Sequence[Recording], part: int) -> dict[str, Any]:
    """A folder for each speaker or so."""
    copy(parts, root / f"speaker-{part}" / "chapter 1")
    return {"kind": "files", "paths": [str(root)]}


def nemo(root: Path, parts: Sequence[Recording], part: int) -> dict[str, Any]:
    """A manifest as NeMo's, that gets lines."""
    copy(parts, root / "clips")
    with (root / "manifest.json").open("a", encoding="utf-8") as file:
        for each in parts:
            line = {"audio_filepath": f"clips/{each.file_name}", "duration": round(each.seconds, 3), "text": each.text}
            file.write(json.dumps(line) + "\n")
    return {"kind": "manifest", "paths": [str(root / "manifest.json")]}


def lhotse(root: Path, parts: Sequence[Recording], part: int) -> dict[str, Any]:
    """Cuts as lhotse's, a file of them for each part."""
    copy(parts, root / "clips")
    with gzip.open(root / f"cuts_{part}.jsonl.gz", "wt", encoding="utf-8") as file:
        for each in parts:
            channels = list(range(each.channels))
            recording = {
                "id": f"recording-{each.name}",
                "sources": [{"type": "file", "channels": channels, "source": f"clips/{each.file_name}"}],
                "sampling_rate": each.sample_rate,
                "num_samples": each.num_frames,
                "duration": each.seconds,
                "channel_ids": channels,
            }
            said = {"id": each.name, "recording_id": recording["id"], "start": 0.0, "duration": each.seconds}
            cut = {
                "id": each.name,
                "start": 0.0,
                "duration": each.seconds,
                "channel": channels if each.channels > 1 else 0,
                "supervisions": [{**said, "channel": channels, "text": each.text}],
                "recording": recording,
                "type": "MultiCut" if each.channels > 1 else "MonoCut",
            }
            file.write(json.dumps(cut) + "\n")
    return {"kind": "manifest", "paths": [str(root / "*.jsonl.gz")]}


def dataset(parts: Sequence[Recording]) -> datasets.Dataset:
    """With the bytes inside."""
    columns = {
        "name": [each.name for each in parts],
        "audio": [{"bytes": each.path.read_bytes(), "path": each.file_name} for each in parts],
        "text": [each.text for each in parts],
    }
    text = datasets.Value("string")
    features = datasets.Features({"name": text, "audio": datasets.Audio(decode=False), "text": text})
    # Not `from_dict`, which asks for torchcodec to embed audio.
    return datasets.Dataset(pa.table(columns, schema=features.arrow_schema))


def parquet(root: Path, parts: Sequence[Recording], part: int) -> dict[str, Any]:
    """Files with embedded audio, as `datasets` writes them."""
    root.mkdir(exist_ok=True)
    dataset(parts).to_parquet(root / f"train-{part:05d}.parquet", batch_size=4)
    return {"kind": "parquet", "paths": [str(root)], "id_column": "name"}


def hub(root: Path, parts: Sequence[Recording], part: int) -> dict[str, Any]:
    """A data set saved to disk; grown, it is saved again in its place."""
    whole = dataset(parts)
    if root.exists():
        whole = datasets.concatenate_datasets([datasets.load_from_disk(root), whole])
    fresh = root.with_name(f"{root.name} {part}")
    whole.save_to_disk(fresh, num_shards=part)
    if root.exists():
        shutil.rmtree(root)
    fresh.rename(root)
    return {"kind": "hub", "dataset": str(root), "id_column": "name"}


def tar(root: Path, parts: Sequence[Recording], part: int) -> dict[str, Any]:
    """Shards as WebDataset's: audio, text and JSON under one key."""
    root.mkdir(exist_ok=True)
    with tarfile.open(root / f"shard-{part:06d}.tar", "w") as archive:
        for each in parts:
            said = json.dumps({"rate": each.sample_rate}).encode()
            for extension, content in (
                (each.path.suffix, each.path.read_bytes()),
                (".txt", each.text.encode()),
                (".json", said),
            ):
                member = tarfile.TarInfo(each.name + extension)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return {"kind": "tar", "paths": [str(root / "shard-*.tar")]}


LAYOUTS: Sequence[Callable[[Path, Sequence[Recording], int], dict[str, Any]]] = (files, nemo, lhotse, parquet, hub, tar)


def name_of(row_id: str) -> str:
    """The recording that an id is made of."""
    return row_id.rpartition("/")[2].partition(".")[0]


def outcomes(output: Path) -> dict[str, str]:
    """What became of each recording, by its name: the hash of its codes, or why it was rejected."""
    found = {row_id: row["codes_sha256"] for row_id, row in rows(output).items()} | rejects(output)
    by_name = {name_of(row_id): outcome for row_id, outcome in found.items()}
    assert len(by_name) == len(found)
    return by_name


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What becomes of each recording in a plain folder of all of them."""
    folder = tmp_path_factory.mktemp("expected")
    copy(CHOSEN, folder / "audio")
    run(job(folder / "out", source={"kind": "files", "paths": [str(folder / "audio")]}))
    # One of them is two streams in one Ogg file, of which decoders read the first.
    assert list(rejects(folder / "out").values()) == ["truncated"]
    return outcomes(folder / "out")


def test_the_recordings_are_of_many_kinds() -> None:
    assert len({each.name for each in CHOSEN}) == len(CHOSEN) >= 12
    assert len({each.path.suffix for each in CHOSEN}) >= 4
    assert len({each.sample_rate for each in CHOSEN}) >= 5
    assert {each.channels for each in CHOSEN} == {1, 2}


@pytest.mark.parametrize("build", LAYOUTS, ids=lambda build: build.__name__)
def test_a_data_set_is_tokenized_grows_and_loses_an_item(
    build: Callable[[Path, Sequence[Recording], int], dict[str, Any]], tmp_path: Path, expected: dict[str, str]
) -> None:
    output, first = tmp_path / "out", [each.name for each in CHOSEN[:NUM_FIRST]]
    begun = run(job(output, source=build(tmp_path / "source", CHOSEN[:NUM_FIRST], 1)))
    assert (begun.problems, begun.items) == ([], NUM_FIRST)
    assert outcomes(output) == {name: expected[name] for name in first}
    assert verify(str(output)).problems == []

    source = build(tmp_path / "source", CHOSEN[NUM_FIRST:], 2)
    grown = run(job(output, source=source))
    changed = NUM_FIRST if build is hub else 0  # saved again, its rows are in other files
    assert (grown.items, grown.changed, grown.vanished) == (len(CHOSEN), changed, 0)
    assert outcomes(output) == expected
    assert verify(str(output)).problems == []

    (dropped,) = (row_id for row_id in rows(output) if name_of(row_id) == first[3])
    drop(str(output), ids=[dropped])
    left = {name: outcome for name, outcome in expected.items() if name != first[3]}
    assert outcomes(output) == left
    assert verify(str(output)).problems == []
    assert run(job(output, source=source)).new_rows == 0, "what was dropped came back"
    assert outcomes(output) == left
