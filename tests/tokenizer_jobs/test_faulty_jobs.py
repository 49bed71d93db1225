"""Whole jobs on a store that fails at random, and how much is asked of it: readers, and runs that resume."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tests.tokenizer_jobs.object_stores import faults_of, reach, requests_to, set_faults
from tests.tokenizer_jobs.test_job import files, job, write_recording
from tokenizer_jobs import TokenDataset
from tokenizer_jobs.catalog import publish_snapshot, read_snapshot
from tokenizer_jobs.commit_records import commit_path
from tokenizer_jobs.commits import Commit, read_commits
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.job import run
from tokenizer_jobs.ledger import Ledger
from tokenizer_jobs.receipts import Receipts
from tokenizer_jobs.removal import drop
from tokenizer_jobs.retrying import retry
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification import verify

RATES = {"errors": 0.05, "cuts": 0.02, "late": 0.05, "late_ms": 40}
MANY_UNITS = 5_000
"""Shards of the catalog that readers open; made up, so that a million would only take longer to write."""


@pytest.fixture
def url(object_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh output on a store that is calm again afterwards."""
    reach(object_store, monkeypatch)
    yield f"s3://bucket/{uuid.uuid4().hex}"
    set_faults(object_store)


def job_at(output: str, source: Mapping[str, Any], *, unit_minutes: float) -> JobConfig:
    config = job(Path("out"), source=source, selection__shards__unit_minutes=unit_minutes)
    return config.model_copy(update={"output": output})


def live(output: str, audio: Path, *, calm: Callable[[], None]) -> list[tuple[str, int, int]]:
    """The life of an output: run, growth, retry, drop, and its rows read for training; what there was after each."""
    config = job_at(output, files(audio), unit_minutes=0.01)
    found = list[tuple[str, int, int]]()

    def note(exit_code: int = 0) -> None:
        facts = read_snapshot(Storage.at(output)).facts
        assert exit_code == 0
        found.append((facts.digest, facts.rows, facts.rejects))

    for name in ("0.wav", "1.wav", "bad.wav"):
        (audio / name).unlink(missing_ok=True)
    (audio / "bad.wav").write_text("<html>")
    for seed in range(2):
        write_recording(audio / f"{seed}.wav", seconds=0.3 + 0.1 * seed, seed=seed)
    note(run(config).exit_code)
    write_recording(audio / "2.wav", seconds=0.5, seed=2)
    note(run(config).exit_code)
    write_recording(audio / "bad.wav", seconds=0.3, seed=50)
    note(retry(output, config=config).exit_code)
    drop(output, ids=["0.wav"])
    note()
    assert sorted(sample["id"] for sample in TokenDataset(output, shuffle=False)) == ["1.wav", "2.wav", "bad.wav"]
    calm()
    checked = verify(output)
    assert (checked.problems, checked.rows) == ([], 3)
    return found


@pytest.fixture(scope="module")
def calm_life(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, int]]:
    """The same on a disk."""
    folder = tmp_path_factory.mktemp("calm")
    (folder / "audio").mkdir()
    return live(str(folder / "out"), folder / "audio", calm=lambda: None)


def live_among_faults(url: str, store: str, folder: Path, **rates: float) -> list[tuple[str, int, int]]:
    (folder / "audio").mkdir(parents=True)
    set_faults(store, **rates)
    return live(url, folder / "audio", calm=lambda: set_faults(store))


@pytest.mark.parametrize("more", [{}, {"stale_seconds": 600.0}], ids=["errors", "errors and stale listings"])
def test_the_life_of_an_output_is_the_same_on_a_store_that_fails(
    more: dict[str, float],
    url: str,
    object_store: str,
    tmp_path: Path,
    calm_life: list[tuple[str, int, int]],
    request: pytest.FixtureRequest,
) -> None:
    if "stale_seconds" in more:
        request.getfixturevalue("long")
    before = Counter(faults_of(object_store)["faults"])
    found = live_among_faults(url, object_store, tmp_path / "life", seed=7, **RATES, **more)
    assert found == calm_life
    assert (Counter(faults_of(object_store)["faults"]) - before).total() > 5


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("seed", range(20))
def test_whatever_fails_the_life_of_an_output_is_the_same(
    seed: int, url: str, object_store: str, tmp_path: Path, calm_life: list[tuple[str, int, int]]
) -> None:
    rates = {"errors": 0.15, "cuts": 0.05, "late": 0.1, "late_ms": 100, "unconditional": seed % 2 == 1}
    assert live_among_faults(url, object_store, tmp_path / "life", seed=seed, **rates) == calm_life


def test_a_run_that_sees_only_old_listings_ends_whole(url: str, object_store: str, tmp_path: Path) -> None:
    for seed in range(3):
        write_recording(tmp_path / f"{seed}.wav", seconds=0.3, seed=seed)
    config = job_at(url, files(tmp_path), unit_minutes=0.001)
    set_faults(object_store, stale_seconds=600)
    first = run(config)
    assert (first.exit_code, first.rows, first.snapshot) == (0, 3, 1)
    resumed = run(config)  # it sees no commit, and does all again
    assert (resumed.exit_code, resumed.rows, resumed.new_rows, resumed.snapshot) == (0, 3, 0, 1)
    set_faults(object_store)
    checked = verify(url)
    assert (checked.problems, checked.digest) == ([], first.digest)


def made_up(commit: Commit, number: int) -> Commit:
    """A commit of another unit like this one."""
    unit_id = f"{number:016x}"
    file = commit.files[0].model_copy(update={"path": f"codes/part-000001-{number:05d}-{unit_id}.parquet"})
    return commit.model_copy(
        update={"unit_id": unit_id, "index": number, "files": (file,), "finished_at": datetime.now(UTC)}
    )


def test_readers_of_many_units_make_at_most_three_requests_before_the_first_shard(url: str, object_store: str) -> None:
    storage = Storage.open(url)
    (unit,) = plan_output(storage, [["a"]])
    commit = finish_unit(storage, unit).commit
    commits = (made_up(commit, number) for number in range(MANY_UNITS))
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id, commits=commits, receipts=Receipts())
    Ledger(storage).settle(1)
    requests_to(object_store)
    assert len(read_snapshot(Storage.at(url)).shards) == MANY_UNITS
    assert len(requests_to(object_store)) <= 3
    with pytest.raises(IntegrityError, match="although its snapshot lists it"):  # the shards are made up
        TokenDataset(url)
    asked = requests_to(object_store)
    first = next(place for place, line in enumerate(asked) if "/codes/" in line)
    assert first <= 3, asked[:first]


def resume(url: str, store: str, audio_url: str, num_units: int) -> None:
    """Run, take a quarter of the commits away, and run again: the log of the store says what was read."""
    source = {"kind": "files", "paths": [audio_url]}
    config = job_at(url, source, unit_minutes=0.001)
    first = run(config)
    storage = Storage.at(url)
    commits = list(read_commits(storage, 1))
    assert (first.exit_code, len(commits)) == (0, num_units)
    lost = commits[: num_units // 4]
    for commit in lost:
        storage.delete(commit_path(1, commit.unit_id))
    requests_to(store)
    again = run(config)
    asked = requests_to(store)
    assert (again.exit_code, again.digest, again.rows) == (0, first.digest, first.rows)
    opened = {line.partition(" ")[2] for line in asked if line.startswith("GET") and line.endswith(".wav")}
    assert len(opened) == len(lost)
    records = [line for line in asked if "/_commits/" in line and line.startswith("GET")]
    # Lost ones: a look for a commit where the shard's name is taken, and the read that settles. Then the index.
    assert len(records) <= 3 * len(lost) + 2, records


def put_recordings(store_url: str, num: int, folder: Path) -> str:
    audio = Storage.at(store_url + "-audio")
    for number in range(num):
        path = folder / f"{number:03d}.wav"
        write_recording(path, seconds=0.1, seed=number)
        audio.replace(path.name, path.read_bytes())
    return audio.url


def test_a_resumed_run_reads_no_input_that_is_committed(url: str, object_store: str, tmp_path: Path) -> None:
    resume(url, object_store, put_recordings(url, 16, tmp_path), 16)


@pytest.mark.usefixtures("long")
def test_a_large_resumed_run_reads_no_input_that_is_committed(url: str, object_store: str, tmp_path: Path) -> None:
    resume(url, object_store, put_recordings(url, 300, tmp_path), 300)
