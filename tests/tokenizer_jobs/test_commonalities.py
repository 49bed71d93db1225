"""What is said of rejects holds for them and not for the other items."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa

from tests.tokenizer_jobs.factories import METADATA, NO_COLUMNS, make_reject, make_row, make_unit
from tokenizer_jobs.commits import Attempt, publish_unit, read_commits
from tokenizer_jobs.commonalities import ITEM_COLUMNS, common_traits, describe_rejects
from tokenizer_jobs.errors import RejectReason
from tokenizer_jobs.planning import PlanFacts, write_plan
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, write_rejects
from tokenizer_jobs.storage import Storage

Row = tuple[str, str | None, int | None, str]
"""Path, archive that it is a member of, size, host."""


def table(rows: Sequence[Row]) -> pa.Table:
    columns = {
        "id": [path for path, *_ in rows],
        "source_uri": [archive or f"/data/{path}" for path, archive, *_ in rows],
        "source_member": [path if archive else None for path, archive, *_ in rows],
        "source_row": pa.nulls(len(rows), pa.int64()),
        "source_size": pa.array([size for _, _, size, _ in rows], pa.int64()),
        "host": [host for *_, host in rows],
    }
    assert set(columns) == {*ITEM_COLUMNS, "host"}
    return pa.table(columns)


def traits(rejected: list[Row], others: list[Row]) -> list[str]:
    everything = table([*rejected, *others])
    return common_traits(table(rejected), lambda: [everything.slice(0, 7), everything.slice(7)])


def many(count: int, folder: str, extension: str, *, size: int = 1000, host: str = "a") -> list[Row]:
    return [(f"{folder}/{number:04d}.{extension}", None, size + number % 3, host) for number in range(count)]


def test_the_deepest_folder_that_holds_most_of_them_is_named() -> None:
    rejected = [*many(140, "books/2019", "wav"), *many(3, "music", "wav")]
    others = [*many(2, "books/2019/more", "wav"), *many(400, "books/2020", "wav")]
    assert traits(rejected, others) == ["140 lie under books/2019/ (142 items of 545 in all)"]


def test_extensions_are_told_whatever_their_case() -> None:
    rejected = [*many(5, "a", "OGG"), *many(5, "b", "ogg")]
    assert traits(rejected, [*many(30, "a", "wav"), *many(30, "b", "wav")]) == ["all are .ogg (10 items of 70 in all)"]


def test_what_all_items_share_explains_nothing() -> None:
    assert traits(many(10, "a/b", "wav"), many(10, "a/b", "wav")) == []


def test_an_archive_is_named() -> None:
    rejected: list[Row] = [(f"{n}.wav", "s3://bucket/7.tar", 1000, "a") for n in range(9)]
    others: list[Row] = [(f"{n}.wav", f"s3://bucket/{n}.tar", 1000, "a") for n in range(60)]
    assert "all are in s3://bucket/7.tar (10 items of 69 in all)" in traits(rejected, others)


def test_sizes_and_hosts_are_told() -> None:
    rejected = many(10, "a", "wav", size=0, host="bad")
    others = [*many(20, "a", "wav", size=90_000, host="good"), *many(2, "a", "wav", size=90_000, host="bad")]
    assert traits(rejected, others) == [
        "all have a size of 0 B to 2 B (10 items of 32 in all)",
        "all were decoded on bad (12 items of 32 in all)",
    ]


def test_rejects_of_an_output_are_described_by_its_commits(storage: Storage) -> None:
    names = [*(f"good/{n}" for n in range(40)), *(f"bad/{n}" for n in range(10))]
    units = [make_unit(names[:30]), make_unit(names[30:], index=1, unit_id="1" * 16)]
    write_plan(storage, units, facts=PlanFacts(generation=1, recipe_id="ab", selection={}))
    for unit in units:
        reasons = {
            place: RejectReason.EMPTY if item.id.startswith("bad/") else RejectReason.CORRUPT
            for place, item in enumerate(unit.items)
            if item.id.startswith("bad/") or item.id in ("good/1", "good/35")
        }
        with ShardWriter(
            storage, unit=unit, schema=row_schema(NO_COLUMNS), metadata=METADATA, shard_format="parquet"
        ) as writer:
            writer.append([make_row(item) for place, item in enumerate(unit.items) if place not in reasons])
            shard = writer.close()
        rejected = [replace(make_reject(place), reason=reason) for place, reason in reasons.items()]
        rejects = write_rejects(
            storage, unit=unit, rejected=rejected, schema=reject_schema(NO_COLUMNS), metadata=METADATA,
            shard_format="parquet",
        )  # fmt: skip
        attempt = Attempt(number=1, device="cpu", started_at=datetime.now(UTC), stage_seconds={})
        publish_unit(storage, unit=unit, recipe_id="ab", shard=shard, rejects=rejects, attempt=attempt)
    commits = list(read_commits(storage, 1))
    assert describe_rejects(storage, commits) == (
        "10 of 12 are of reason empty; of those all lie under bad/ (10 items of 50 in all)"
    )
    assert describe_rejects(storage, []) == ""
