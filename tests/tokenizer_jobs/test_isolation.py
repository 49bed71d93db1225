import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from tests.tokenizer_jobs.plugins import DeadlyClips
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import ConfigError, RejectReason, TransientError
from tokenizer_jobs.isolation import decode_isolated
from tokenizer_jobs.records import Decoded, DecodedItem, Item, RejectedItem
from tokenizer_jobs.source_config import DemoSource, PluginSource
from tokenizer_jobs.sources.demo import DemoClips

TARGET = AudioTarget(sample_rate=24000, channels=1)
RECORDS = list(enumerate(DemoClips().list().items[:6]))


class UnreachableClips(DemoClips):
    """A source whose storage does not answer."""

    def open(self, item: Item) -> IO[bytes]:
        raise TransientError(f"no answer for {item.id}")


class BrokenClips(DemoClips):
    """A source that cannot be built."""

    def __init__(self, how: str) -> None:
        super().__init__()
        match how:
            case "dies":
                os._exit(3)
            case "ours":
                raise ConfigError("no such thing")
            case _:
                raise ValueError("out of order")


class BuggyClips(DemoClips):
    """A source with a fault in its code."""

    def open(self, item: Item) -> IO[bytes]:
        raise KeyError(item.id)


class TellingClips(DemoClips):
    """A source that tells in which session it runs."""

    def open(self, item: Item) -> IO[bytes]:
        raise TransientError(f"session {os.getsid(0)}.")


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


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("dies", TransientError, r"could not start \(exit code 3\)"),
        ("ours", ConfigError, "no such thing"),
        ("bug", TransientError, "could not start: ValueError: out of order"),
    ],
)
def test_a_child_that_cannot_start_is_no_records_fault(how: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(decode_isolated(RECORDS, source=plugin(BrokenClips, how=how), target=TARGET))


def test_a_child_that_cannot_import_is_no_records_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "soundfile.py").write_text("raise ImportError('no libsndfile')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TransientError, match="could not start"):
        list(decode_isolated(RECORDS, source=DemoSource(), target=TARGET))


def test_a_fault_of_the_code_is_raised_here_and_blamed_on_no_record() -> None:
    with pytest.raises(KeyError, match=RECORDS[0][1].id):
        list(decode_isolated(RECORDS, source=plugin(BuggyClips), target=TARGET))


def test_the_terminal_cannot_interrupt_a_child() -> None:
    with pytest.raises(TransientError, match="session") as caught:
        list(decode_isolated(RECORDS, source=plugin(TellingClips), target=TARGET))
    assert str(caught.value) != f"session {os.getsid(0)}."


ORPHAN_SCRIPT = """
import os
from tests.tokenizer_jobs.test_isolation import RECORDS, TARGET
from tokenizer_jobs.source_config import DemoSource
from tokenizer_jobs.isolation import _DecodeChild
child = _DecodeChild(DemoSource(), TARGET)
child.decode(*RECORDS[0])
print(child._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
def test_a_child_ends_with_its_parent() -> None:
    parent = subprocess.run([sys.executable, "-c", ORPHAN_SCRIPT], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    deadline = time.monotonic() + 20
    while is_alive(int(parent.stdout)):
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.05)
