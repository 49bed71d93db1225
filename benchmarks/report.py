"""Time and memory of `report` on a large output of made-up codes.

    python -m benchmarks.report [--hours 1000] [--clip-seconds 10] [--record]

A few shards are written as a run writes them; all others are hard links to them under names, and with commits, of their
own. Every one is read, decompressed and counted as if it were different; only the disk is spared.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.machine import add_section, describe_machine
from tests.tokenizer_jobs.factories import NO_COLUMNS, RECIPE, make_item, make_reject, make_row
from tests.tokenizer_jobs.token_outputs import RECORDED
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.commit_records import Commit, EncodeWork, commit_path
from tokenizer_jobs.commits import Attempt, publish_unit
from tokenizer_jobs.planning import PlanFacts, write_plan
from tokenizer_jobs.recipe import METADATA_KEY, store_recipe
from tokenizer_jobs.records import EncodedItem, WorkUnit
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, write_rejects
from tokenizer_jobs.storage import Storage

FRAME_RATE, NUM_CODEBOOKS, CODEBOOK_SIZE = 75, 8, 1024
UNIT_HOURS = 1.0
DISTINCT = 12
"""Units that are really written."""
DEVICES = [(f"node-{number // 4}", f"cuda:{number % 4}") for number in range(8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=1000)
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="mean length of a clip")
    parser.add_argument("--record", action="store_true", help="add a section to RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output, page = Path(folder) / "out", Path(folder) / "report.html"
        began = time.monotonic()
        make_output(output, hours=arguments.hours, clip_seconds=arguments.clip_seconds)
        made = time.monotonic() - began
        words = [sys.executable, "-m", "tokenizer_jobs", "report", str(output), "-o", str(page), "--json"]
        began = time.monotonic()
        # Without a limit of its own, so that a slow machine is told by the clock and not by a sample.
        done = subprocess.run([*words, "--max-seconds", "0"], check=True, capture_output=True)
        elapsed = time.monotonic() - began
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        content = json.loads(done.stdout)["content"]
        codes = sum(use["codes"] for use in content["codebooks"])
        section = "\n".join(
            [
                f"## Report, {time.strftime('%Y-%m-%d')}",
                "",
                f"`python -m benchmarks.report --hours {arguments.hours} --clip-seconds {arguments.clip_seconds:g}`; "
                f"{describe_machine(packages=['numpy', 'pyarrow'])}. Shards are links to {DISTINCT} different ones, "
                f"made in {made:.0f} s.",
                "",
                "| | |",
                "| --- | --- |",
                f"| rows | {content['rows']:,} in {content['shards_read']:,} shards of {content['shards']:,} |",
                f"| codes counted | {codes:,} |",
                f"| time | **{elapsed:.1f} s**, {usage.ru_utime + usage.ru_stime:.1f} s of CPU |",
                f"| peak memory | **{usage.ru_maxrss / 1024:.0f} MiB** |",
                f"| page | {page.stat().st_size / 1e6:.2f} MB |",
                "",
            ]
        )
    print(section)
    if arguments.record:
        add_section("\n" + section)


def make_output(folder: Path, *, hours: int, clip_seconds: float) -> Storage:
    """An output of so many units of an hour, finished, with a snapshot."""
    storage = Storage.open(str(folder))
    store_recipe(storage, RECIPE)
    clips = round(UNIT_HOURS * 3600 / clip_seconds)
    units = [_unit(index, clips=clips) for index in range(round(hours / UNIT_HOURS))]
    metadata = {key.decode(): value.decode() for key, value in _metadata().items()}
    facts = PlanFacts(
        generation=1, recipe_id=RECIPE.recipe_id, selection={"source": {"kind": "files"}}, file_metadata=metadata
    )
    write_plan(storage, units, facts=facts)
    written = [_write(storage, unit, mean_frames=clip_seconds * FRAME_RATE) for unit in units[:DISTINCT]]
    for unit, commit in zip(units, _commits(written, number=len(units)), strict=True):
        _link(storage, unit, commit)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    return storage


def _unit(index: int, *, clips: int) -> WorkUnit:
    items = tuple(make_item(f"speaker-{index}/clip-{number}") for number in range(clips))
    return WorkUnit(generation=1, index=index, unit_id=f"{index * 2654435761 % 2**64:016x}", items=items)


def _metadata() -> dict[bytes, bytes]:
    said = {**RECORDED, "codebook_size": CODEBOOK_SIZE, "n_q": NUM_CODEBOOKS, "frame_rate": float(FRAME_RATE)}
    return {b"huggingface": b"{}", METADATA_KEY: json.dumps(said).encode()}


def _write(storage: Storage, unit: WorkUnit, *, mean_frames: float) -> Commit:
    """Write one unit as a run does, with codes whose entries differ in frequency as those of speech do."""
    generator = np.random.default_rng(unit.index)
    weights = 1 / (np.arange(CODEBOOK_SIZE) + 20.0)
    orders = [generator.permutation(CODEBOOK_SIZE) for _ in range(NUM_CODEBOOKS)]
    rows = []
    for position, item in enumerate(unit.items):
        if position % 97 == 96:
            continue
        num_frames = max(1, round(mean_frames * generator.uniform(0.3, 1.7)))
        drawn = generator.choice(CODEBOOK_SIZE, (NUM_CODEBOOKS, num_frames), p=weights / weights.sum())
        codes = np.stack([order[book] for order, book in zip(orders, drawn, strict=True)]).astype(np.uint16)
        rows.append(replace(make_row(item, num_frames=num_frames), encoded=EncodedItem(codes=codes)))
    with ShardWriter(
        storage, unit=unit, schema=row_schema(NO_COLUMNS), metadata=_metadata(), shard_format="parquet"
    ) as writer:
        writer.append(rows)
        shard = writer.close()
    rejected = [make_reject(position) for position in range(len(unit.items)) if position % 97 == 96]
    rejects = write_rejects(
        storage,
        unit=unit,
        rejected=rejected,
        schema=reject_schema(NO_COLUMNS),
        metadata=_metadata(),
        shard_format="parquet",
    )
    attempt = Attempt(number=1, device="cpu", started_at=datetime.now(UTC), stage_seconds={})
    return publish_unit(
        storage, unit=unit, recipe_id=RECIPE.recipe_id, shard=shard, rejects=rejects, attempt=attempt
    ).commit


def _commits(written: list[Commit], *, number: int) -> Iterator[Commit]:
    """What each unit's commit says of its work: two at a time on each device, at uneven speeds."""
    generator = np.random.default_rng(0)
    free = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=3 * slot) for slot in range(2 * len(DEVICES))]
    for index in range(number):
        slot = min(range(len(free)), key=lambda one: free[one])
        seconds = float(generator.uniform(8, 20))
        started, free[slot] = free[slot], free[slot] + timedelta(seconds=seconds)
        host, device = DEVICES[slot // 2]
        yield written[index % len(written)].model_copy(
            update={
                "host": host,
                "device": device,
                "started_at": started,
                "finished_at": free[slot],
                "stage_seconds": {
                    "encode": 0.5 * seconds,
                    "decode_wait": 0.2 * seconds,
                    "encode_wait": 0.2 * seconds,
                    "write": 0.05 * seconds,
                },
                "encode_work": EncodeWork(
                    num_calls=40, peak_items=32, num_samples=86_400_000, num_padded_samples=1_900_000
                ),
            }
        )


def _link(storage: Storage, unit: WorkUnit, commit: Commit) -> None:
    """Give a unit the files of another under names of its own, and its commit."""
    files = []
    for file in commit.files:
        folder, _, name = file.path.rpartition("/")
        path = f"{folder}/{unit.part_name}{Path(name).suffix}"
        if path != file.path:
            os.link(Path(storage.url, file.path), Path(storage.url, path))
        files.append(file.model_copy(update={"path": path}))
    named = commit.model_copy(update={"unit_id": unit.unit_id, "index": unit.index, "files": tuple(files)})
    target = Path(storage.url, commit_path(1, unit.unit_id))
    target.write_text(named.model_dump_json())


if __name__ == "__main__":
    main()
