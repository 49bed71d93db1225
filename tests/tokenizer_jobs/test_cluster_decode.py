import os
import resource
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.cluster_parts import HashCodec, HashEncoder
from tests.tokenizer_jobs.plugins import HarmfulClips
from tests.tokenizer_jobs.test_cluster import make_job, run_all
from tests.waiting import wait_until
from tokenizer_jobs.cluster import RayExecutor, decode_streams
from tokenizer_jobs.cluster.decode_streams import DecodeFanOut
from tokenizer_jobs.cluster.decode_tasks import MAX_LIST_ITEMS, MAX_LIST_SECONDS, DecodedList, decode_share, plan_groups
from tokenizer_jobs.cluster.faults import DecodeWorkerLostError
from tokenizer_jobs.config import CodecRecipe, Runtime
from tokenizer_jobs.decode import AudioTarget, decode_items, rows
from tokenizer_jobs.digest import codes_sha256
from tokenizer_jobs.errors import ConfigError, TransientError
from tokenizer_jobs.isolation import DecodeLimits
from tokenizer_jobs.pipeline import UnitDone
from tokenizer_jobs.records import DecodedItem, DecodedStretch, Item, WorkUnit
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.source_config import DemoSource, PluginSource
from tokenizer_jobs.sources.demo import DemoClips
from tokenizer_jobs.storage import Storage

TARGET = AudioTarget(sample_rate=24000, channels=1)
RECORDS = list(enumerate(DemoClips().list().items[:12]))


def timed(seconds: float) -> Item:
    return Item(id="clip", source_uri=f"/{uuid.uuid4()}", estimated_seconds=seconds)


@given(st.lists(st.floats(0, 100), max_size=80))
def test_groups_keep_every_item_in_order_and_are_bounded(estimates: list[float]) -> None:
    items = [(position, timed(seconds)) for position, seconds in enumerate(estimates)]
    groups = plan_groups(items)
    assert [record for group in groups for record in group] == items
    for group in groups:
        assert 1 <= len(group) <= MAX_LIST_ITEMS  # each is a recording of its own
        assert len(group) == 1 or sum(item.estimated_seconds for _, item in group) <= MAX_LIST_SECONDS


def test_cuts_of_one_recording_stay_in_one_group_however_long() -> None:
    cuts = [Item(id=f"cut-{at}", source_uri="/talk", start_seconds=9.0 * at, estimated_seconds=9.0) for at in range(9)]
    items = list(enumerate([timed(1.0), *cuts, timed(1.0)]))
    assert [len(group) for group in plan_groups(items)] == [1, 9, 1]


def test_what_is_read_as_one_stream_is_one_task_however_long() -> None:
    members = [
        Item(id=f"m{n}", source_uri="/a.tar.gz", source_member=f"{n}.wav", source_group=0, estimated_seconds=9.0)
        for n in range(2 * MAX_LIST_ITEMS)
    ]
    items = list(enumerate([timed(40.0), *members, timed(40.0)]))
    assert [len(group) for group in plan_groups(items)] == [1, len(members), 1]


def test_limits_are_lifted_when_a_share_is_done() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    seen = []
    for _ in decode_share([RECORDS[:2]], source=DemoSource(), target=TARGET, limits=DecodeLimits(), careful=False):
        seen.append(resource.getrlimit(resource.RLIMIT_DATA))
    assert seen[-1] != before
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def harmful(harms: dict[str, str], *, note: str | None = None) -> PluginSource:
    kind = f"{HarmfulClips.__module__}:{HarmfulClips.__qualname__}"
    return PluginSource.model_validate({"kind": kind, "harms": harms, "note": note})


@pytest.mark.usefixtures("ray_cluster")
def test_each_kind_of_harm_costs_one_record_and_no_neighbour_on_the_cluster(tmp_path: Path) -> None:
    names = [item.id for _, item in RECORDS]
    job = make_job(tmp_path, harmful({names[1]: "dies", names[4]: "spins", names[5]: "hoards"}))
    job = replace(job, limits=DecodeLimits(seconds=2.0, gigabytes=0.5))
    unit = WorkUnit(generation=1, index=0, unit_id="0" * 16, items=tuple(item for _, item in RECORDS))
    recipe, runtime = CodecRecipe(model="demo"), Runtime(device="cpu")
    with RayExecutor(job, codec_recipe=recipe, runtime=runtime, encoder_class=HashEncoder) as running:
        (outcome,) = run_all(running, [unit])
    assert isinstance(outcome, UnitDone)
    assert column_by_id(tmp_path, "rejects", "reason") == {
        names[1]: "crashed_worker",
        names[4]: "timed_out",
        names[5]: "out_of_memory",
    }
    here = decode_items(RECORDS, source=DemoClips(), target=TARGET)
    healthy = [item for item in here if isinstance(item, DecodedItem) and item.position not in (1, 4, 5)]
    encoded = HashCodec().encode([item.float_waveform() for item in healthy])
    expected = {names[item.position]: codes_sha256(codes.codes) for item, codes in zip(healthy, encoded, strict=True)}
    assert column_by_id(tmp_path, "codes", "codes_sha256") == expected


def column_by_id(output: Path, folder: str, column: str) -> dict[str, str]:
    storage = Storage.open(str(output))
    batches = (batch for file in storage.list(folder) for batch in read_batches(storage, file.path))
    return {row["id"]: row[column] for batch in batches for row in batch.to_pylist()}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("harm", "message"), [("spins", "WorkerCrashedError"), ("stops", "gave nothing"), ("hoards", "memory limit")]
)
def test_a_task_that_decoding_harms_is_lost_and_not_waited_for(harm: str, message: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    unit = WorkUnit(generation=1, index=0, unit_id="0" * 16, items=(RECORDS[0][1],))
    fan_out = DecodeFanOut(
        source=harmful({RECORDS[0][1].id: harm}, note=str(note)),
        target=TARGET,
        num_tasks=1,
        cpus=0.25,
        start_timeout_seconds=50,
        limits=DecodeLimits(seconds=0.5, gigabytes=0.5),
    )
    with pytest.raises(DecodeWorkerLostError, match=message):
        list(fan_out.decode(unit, careful=False))
    if harm != "hoards":
        wait_until(lambda: not Path(f"/proc/{note.read_text()}").exists(), what="the end of the task", seconds=60)


@pytest.mark.parametrize("careful", [False, True])
def test_a_share_begins_with_an_empty_list_and_no_list_spans_two_groups(careful: bool) -> None:
    groups = [RECORDS[:1], RECORDS[4:7], RECORDS[9:]]
    place, *lists = decode_share(groups, source=DemoSource(), target=TARGET, limits=DecodeLimits(), careful=careful)
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


def one_at_a_time(monkeypatch: pytest.MonkeyPatch, *, patience_seconds: float) -> DecodeFanOut:
    monkeypatch.setattr(decode_streams, "BEGIN_PATIENCE_SECONDS", patience_seconds)
    return DecodeFanOut(
        source=DemoSource(),
        target=replace(TARGET, streamed=True),
        num_tasks=1,
        cpus=0.25,
        start_timeout_seconds=50,
        one_begins=True,
    )


@pytest.fixture
def decoding_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Iterator[DecodedList]]], None]]:
    """Has decode tasks run another function."""

    def replace_it(function: Callable[..., Iterator[DecodedList]]) -> None:
        decode_streams._share_decoder.cache_clear()
        monkeypatch.setattr(decode_streams, "decode_share", function)

    yield replace_it
    decode_streams._share_decoder.cache_clear()


def halves() -> tuple[WorkUnit, WorkUnit]:
    items = tuple(item for _, item in RECORDS)
    return (
        WorkUnit(generation=1, index=0, unit_id="0" * 16, items=items[:6]),
        WorkUnit(generation=1, index=1, unit_id="1" * 16, items=items[6:]),
    )


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("first_one", ["is decoded", "is given up", "gives a batch"])
def test_a_unit_begins_when_the_one_before_it_has_begun(first_one: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fan_out = one_at_a_time(monkeypatch, patience_seconds=100.0)
    started = Mock(wraps=decode_streams._start)
    monkeypatch.setattr(decode_streams, "_start", started)
    first, second = (fan_out.decode(unit, careful=False) for unit in halves())
    next(first)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, second)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        assert started.call_count == 1
        if first_one == "is decoded":
            assert len(list(first)) == 5
        elif first_one == "is given up":
            first.close()
        else:
            monkeypatch.setattr(decode_streams, "BEGUN_SECONDS", 0.1)
            next(first)
        assert len(waiting.result(timeout=50.0)) == 6
    first.close()


@pytest.mark.usefixtures("ray_cluster")
def test_a_unit_waits_for_another_no_longer_than_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    fan_out = one_at_a_time(monkeypatch, patience_seconds=0.01)
    first, second = (fan_out.decode(unit, careful=False) for unit in halves())
    next(first)
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(list, second).result(timeout=50.0)) == 6
    assert len(list(first)) == 5
    assert not decode_streams._beginning.locked()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("why", ["it encodes on a GPU", "decoding takes longest"])
def test_a_unit_does_not_wait_where_a_worker_more_costs_nothing(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fan_out = one_at_a_time(monkeypatch, patience_seconds=100.0)
    if why == "it encodes on a GPU":
        fan_out = replace(fan_out, one_begins=False)
    else:
        fan_out.decoding.note(3.0, audio_seconds=1.0)
        fan_out.note_encoding(4.0, audio_seconds=1.0)
    first, second = (fan_out.decode(unit, careful=False) for unit in halves())
    with closing(first):
        next(first)
        assert not decode_streams._beginning.locked()
        assert len(list(second)) == 6


def fails_soon(*arguments: Any, **options: Any) -> Iterator[DecodedList]:
    """Begins to decode a share, and raises what no item is to blame for."""
    yield next(decode_share(*arguments, **options))
    raise TransientError("storage does not answer")


@pytest.mark.usefixtures("ray_cluster")
def test_a_unit_whose_decoding_fails_lets_the_next_one_begin(
    decoding_by: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding_by(fails_soon)
    fan_out = one_at_a_time(monkeypatch, patience_seconds=100.0)
    first, _ = halves()
    with pytest.raises(TransientError, match="storage does not answer"):
        list(fan_out.decode(first, careful=False))
    assert not decode_streams._beginning.locked()


def decodes_in_stretches(*arguments: Any, **options: Any) -> Iterator[DecodedList]:
    """Decodes a share in which no recording is short enough to be held."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "LONG_WAVEFORM_BYTES", 1 << 14)
        yield from decode_share(*arguments, **options)


@pytest.mark.usefixtures("ray_cluster")
def test_a_recording_in_stretches_lets_the_next_one_begin(
    decoding_by: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding_by(decodes_in_stretches)
    fan_out = one_at_a_time(monkeypatch, patience_seconds=100.0)
    first, second = (fan_out.decode(unit, careful=False) for unit in halves())
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(next(first), DecodedStretch)
        assert pool.submit(next, second).result(timeout=50.0).position == 0
    first.close()
    second.close()


def dies_at_the_end(*arguments: Any, **options: Any) -> Iterator[DecodedList]:
    """Decodes a share, and is killed when all of it was given."""
    yield from decode_share(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("ray_cluster")
def test_a_task_that_is_lost_when_all_was_given_is_not_missed(decoding_by: Callable[..., None]) -> None:
    decoding_by(dies_at_the_end)
    unit = WorkUnit(generation=1, index=0, unit_id="0" * 16, items=tuple(item for _, item in RECORDS))
    fan_out = DecodeFanOut(source=DemoSource(), target=TARGET, num_tasks=1, cpus=0.25, start_timeout_seconds=50)
    assert [item.position for item in fan_out.decode(unit, careful=False)] == list(range(len(RECORDS)))


def test_a_node_without_the_folder_of_the_source_rejects_no_item(tmp_path: Path) -> None:
    lists = decode_share(
        [RECORDS[:2]], source=DemoSource(), target=TARGET, limits=DecodeLimits(), careful=False,
        folders=(str(tmp_path), str(tmp_path / "audio")),
    )  # fmt: skip
    assert next(lists).items == (), "it has a place"
    with pytest.raises(ConfigError, match=r"/audio is not on every node"):
        next(lists)


@pytest.mark.parametrize(("decode_seconds", "expected"), [(0.1, 1), (10.0, 1), (25.0, 3), (1000.0, 8)])
def test_tasks_of_a_unit_follow_the_measured_pace(decode_seconds: float, expected: int) -> None:
    fan_out = DecodeFanOut(source=DemoSource(), target=TARGET, num_tasks=8, cpus=0.25, start_timeout_seconds=50)
    assert fan_out.tasks_for_next_unit() == 8, "nothing was measured yet"
    fan_out.decoding.note(decode_seconds, audio_seconds=100.0)
    fan_out.note_encoding(20.0, audio_seconds=200.0)
    assert fan_out.tasks_for_next_unit() == expected


def test_decode_workers_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys, tokenizer_jobs, tokenizer_jobs.cluster.decode_tasks, tokenizer_jobs.isolation.child; "
        "sys.exit(', '.join({'torch', 'ray'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_driver_of_a_cluster_needs_no_torch() -> None:
    code = (
        "import sys, tokenizer_jobs.cluster.driver, tokenizer_jobs.job\n"
        "from tokenizer_jobs.config import CodecRecipe\n"
        "tokenizer_jobs.job.describe_codec(CodecRecipe(model='demo')); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
