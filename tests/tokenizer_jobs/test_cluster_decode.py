import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_jobs.cluster.decode_streams import DecodeFanOut
from tokenizer_jobs.cluster.decode_tasks import MAX_LIST_ITEMS, MAX_LIST_SECONDS, decode_share, plan_groups
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.records import Item, WorkUnit
from tokenizer_jobs.source_config import DemoSource
from tokenizer_jobs.sources.demo import DemoClips

TARGET = AudioTarget(sample_rate=24000, channels=1)
RECORDS = list(enumerate(DemoClips().list().items[:12]))


def timed(seconds: float) -> Item:
    return Item(id="clip", source_uri="/clip", estimated_seconds=seconds)


@given(st.lists(st.floats(0, 100), max_size=80))
def test_groups_keep_every_item_in_order_and_are_bounded(estimates: list[float]) -> None:
    items = [(position, timed(seconds)) for position, seconds in enumerate(estimates)]
    groups = plan_groups(items)
    assert [record for group in groups for record in group] == items
    for group in groups:
        assert 1 <= len(group) <= MAX_LIST_ITEMS
        assert len(group) == 1 or sum(item.estimated_seconds for _, item in group) <= MAX_LIST_SECONDS


@pytest.mark.parametrize("careful", [False, True])
def test_a_share_begins_with_an_empty_list_and_no_list_spans_two_groups(careful: bool) -> None:
    groups = [RECORDS[:1], RECORDS[4:7], RECORDS[9:]]
    place, *lists = decode_share(groups, source=DemoSource(), target=TARGET, careful=careful)
    assert place.items == ()
    assert [[item.position for item in taken.items] for taken in lists] == [
        [pos for pos, _ in group] for group in groups
    ]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_items_come_in_plan_order_however_many_tasks_decode(num_tasks: int) -> None:
    long = [(position, replace(item, estimated_seconds=20.0)) for position, item in RECORDS]
    unit = WorkUnit(generation=1, index=0, unit_id="0" * 16, items=tuple(item for _, item in long))
    fan_out = DecodeFanOut(source=DemoSource(), target=TARGET, num_tasks=num_tasks, cpus=0.25, start_timeout_seconds=50)
    here = list(decode_items(long, source=DemoClips(), target=TARGET))
    there = list(fan_out.decode(unit, careful=False))
    assert [item.position for item in there] == list(range(len(long)))
    assert [repr(item) for item in there] == [repr(item) for item in here]


@pytest.mark.parametrize(("decode_seconds", "expected"), [(0.1, 1), (10.0, 1), (25.0, 3), (1000.0, 8)])
def test_tasks_of_a_unit_follow_the_measured_pace(decode_seconds: float, expected: int) -> None:
    fan_out = DecodeFanOut(source=DemoSource(), target=TARGET, num_tasks=8, cpus=0.25, start_timeout_seconds=50)
    assert fan_out.tasks_for_next_unit() == 8, "nothing was measured yet"
    fan_out.decoding.note(decode_seconds, audio_seconds=100.0)
    fan_out.note_encoding(20.0, audio_seconds=200.0)
    assert fan_out.tasks_for_next_unit() == expected


def test_decode_workers_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys, tokenizer_jobs, tokenizer_jobs.cluster.decode_tasks; "
        "sys.exit(', '.join({'torch', 'ray'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
