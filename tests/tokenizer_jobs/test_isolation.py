from pathlib import Path
from typing import IO

import numpy as np
import pytest

from tests.tokenizer_jobs.plugins import DeadlyClips
from tokenizer_jobs.config import DemoSource, PluginSource
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import RejectReason, TransientError
from tokenizer_jobs.isolation import decode_isolated
from tokenizer_jobs.records import Decoded, DecodedItem, Item, RejectedItem
from tokenizer_jobs.sources.demo import DemoClips

TARGET = AudioTarget(sample_rate=24000, channels=1)
RECORDS = list(enumerate(DemoClips().list().items[:6]))


class UnreachableClips(DemoClips):
    """A source whose storage does not answer."""

    def open(self, item: Item) -> IO[bytes]:
        raise TransientError(f"no answer for {item.id}")


def plugin(kind: type, **options: object) -> PluginSource:
    return PluginSource.model_validate({"kind": f"{kind.__module__}:{kind.__qualname__}", **options})


def same(one: Decoded, other: Decoded) -> bool:
    if isinstance(one, DecodedItem) and isinstance(other, DecodedItem):
        return np.array_equal(one.waveform, other.waveform) and one.facts == other.facts
    return one == other


def test_a_child_decodes_what_this_process_decodes() -> None:
    here = list(decode_items(RECORDS, source=DemoClips(), target=TARGET))
    child = list(decode_isolated(RECORDS, source=DemoSource(), target=TARGET))
    assert len(here) == len(child) == len(RECORDS)
    assert all(same(one, other) for one, other in zip(here, child, strict=True))


def test_records_that_kill_the_child_twice_are_rejected_and_their_neighbours_are_not() -> None:
    deadly = [RECORDS[1][1].id, RECORDS[2][1].id]
    decoded = list(decode_isolated(RECORDS, source=plugin(DeadlyClips, deadly=deadly), target=TARGET))
    assert [item.position for item in decoded] == list(range(len(RECORDS)))
    rejected = [item for item in decoded if isinstance(item, RejectedItem)]
    assert [item.position for item in rejected] == [1, 2]
    assert {item.reason for item in rejected} == {RejectReason.CRASHED_WORKER}
    assert "signal 9" in rejected[0].message


def test_one_death_is_forgiven(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    lives.touch()
    source = plugin(DeadlyClips, deadly=[RECORDS[3][1].id], lives=str(lives))
    decoded = list(decode_isolated(RECORDS, source=source, target=TARGET))
    assert not lives.exists(), "nothing was killed, so nothing was proven"
    assert all(isinstance(item, DecodedItem) for item in decoded)


def test_a_failing_storage_is_not_blamed_on_the_record() -> None:
    with pytest.raises(TransientError, match="no answer"):
        list(decode_isolated(RECORDS, source=plugin(UnreachableClips), target=TARGET))
