"""A large job in small: memory of planning, estimates without a look at every file, and the benchmark itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from benchmarks import scale
from tests.tokenizer_jobs.clips import speechlike
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources import HeaderFacts, files, make_source
from tokenizer_jobs.sources.header import read_header
from tokenizer_jobs.storage import Storage

ROOT = Path(__file__).parents[2]

PLANNED_ITEMS = 100_000
MOST_MEGABYTES = 150
"""Above the imports: 108 to 124 MB for 50,000 or 100,000 items, 173 MB for 400,000 (2-core EPYC); as records, which
cost half a kilobyte each, these took 25, 50 and 200 MB more."""

PLAN = """
import re, sys
from pathlib import Path
import benchmarks.listings
from tokenizer_jobs import item_table
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning import PlanFacts, compare_with_known, known_items, plan_units, write_plan
from tokenizer_jobs.sources import make_source
from tokenizer_jobs.storage import Storage

def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

item_table.RUN_ITEMS = 1 << 15
storage = Storage.open(sys.argv[1])
before = megabytes("VmRSS")
listing = make_source(FilesSource(paths=["names://corpus/" + sys.argv[2]])).list()
new = compare_with_known(ItemTable.of(listing.items), known_items(storage)).new
units = plan_units(new, generation=1, recipe_id="ab", unit_minutes=40.0)
summary = write_plan(storage, units, facts=PlanFacts(generation=1, recipe_id="ab", selection={}))
print(summary.num_items, summary.num_units, megabytes("VmHWM") - before)
"""


def test_the_memory_of_planning_is_bounded(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PLAN, str(tmp_path / "out"), str(PLANNED_ITEMS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    num_items, num_units, megabytes = map(float, ended.stdout.split())
    assert (num_items, num_units > 450) == (PLANNED_ITEMS, True)
    assert megabytes < MOST_MEGABYTES


def test_of_many_files_some_headers_tell_the_lengths_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {f"{number:02d}": 0.5 + number / 10 for number in range(20)}
    for name, length in seconds.items():
        soundfile.write(tmp_path / f"{name}.wav", speechlike(round(8000 * length), rate=8000), 8000, subtype="PCM_16")
    source = make_source(FilesSource(paths=(str(tmp_path),)))
    exact = {item.id: item.estimated_seconds for item in source.list().items}
    looked_at = list[object]()

    def look(file: str) -> HeaderFacts | None:
        looked_at.append(file)
        return read_header(file)

    monkeypatch.setattr(files, "MOST_HEADERS", 5)
    monkeypatch.setattr(files, "read_header", look)
    close = {item.id: item.estimated_seconds for item in source.list().items}
    assert len(looked_at) == 5
    assert close == pytest.approx(exact, rel=0.02)


def test_the_benchmark_in_small(tmp_path: Path) -> None:
    """Two thousand items in 20 units: half, the rest, nothing; then every number of the table is there."""
    runs = [
        scale.measure(
            scale.Setting(
                output=str(tmp_path / "out"), num_items=2000, num_units=20, stop_after=share, processes=0, threads=4
            )
        )
        for share in (0.5, 1.0, 1.0)
    ]
    first, second, again = runs
    assert first.units + second.units == first.all_units == second.all_units
    assert (first.units, again.units) == (10, 0)
    assert scale.line(2000, runs).count("|") == scale.HEAD.splitlines()[0].count("|")
    assert len(Storage.at(tmp_path / "out").list("catalog")) == 1
