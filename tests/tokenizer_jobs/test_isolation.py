import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile

from tests.tokenizer_jobs.plugins import DeadlyClips, HarmfulClips
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import ConfigError, RejectReason, TransientError
from tokenizer_jobs.isolation import DecodeLimits, IsolatedDecoder, decode_isolated, process
from tokenizer_jobs.records import Decoded, DecodedItem, Item, RejectedItem
from tokenizer_jobs.source_config import DemoSource, FilesSource, PluginSource
from tokenizer_jobs.sources import make_source
from tokenizer_jobs.sources.demo import DemoClips

TARGET = AudioTarget(sample_rate=24000, channels=1)
LIMITS = DecodeLimits()
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
    if isinstance(one, RejectedItem) or isinstance(other, RejectedItem):
        return one == other
    signatures = [(each.position, each.place, each.facts, each.is_last) for each in (one, other)]
    return signatures[0] == signatures[1] and np.array_equal(one.waveform, other.waveform)


def test_a_child_decodes_what_this_process_decodes() -> None:
    here = list(decode_items(RECORDS, source=DemoClips(), target=TARGET))
    child = list(decode_isolated(RECORDS, source=DemoSource(), target=TARGET, limits=LIMITS))
    assert len(here) == len(child) == len(RECORDS)
    assert all(same(one, other) for one, other in zip(here, child, strict=True))


def test_records_that_kill_the_child_twice_are_rejected_and_their_neighbours_are_not() -> None:
    deadly = [RECORDS[1][1].id, RECORDS[2][1].id]
    decoded = list(decode_isolated(RECORDS, source=plugin(DeadlyClips, deadly=deadly), target=TARGET, limits=LIMITS))
    assert [item.position for item in decoded] == list(range(len(RECORDS)))
    rejected = [item for item in decoded if isinstance(item, RejectedItem)]
    assert [item.position for item in rejected] == [1, 2]
    assert {item.reason for item in rejected} == {RejectReason.CRASHED_WORKER}
    assert "signal 9" in rejected[0].message


def test_each_kind_of_harm_costs_one_record_with_its_own_reason() -> None:
    expected = {
        1: ("spins", RejectReason.TIMED_OUT, "longer than "),
        2: ("hoards", RejectReason.OUT_OF_MEMORY, "more than 0.5 GB"),
        4: ("stops", RejectReason.TIMED_OUT, "longer than "),
    }
    source = plugin(HarmfulClips, harms={RECORDS[position][1].id: harm for position, (harm, *_) in expected.items()})
    limits = DecodeLimits(seconds=0.7, gigabytes=0.5)
    decoded = list(decode_isolated(RECORDS, source=source, target=TARGET, limits=limits))
    here = list(decode_items(RECORDS, source=DemoClips(), target=TARGET))
    assert len(decoded) == len(RECORDS)
    for position, (one, other) in enumerate(zip(decoded, here, strict=True)):
        if position not in expected:
            assert same(one, other)
            continue
        _, reason, message = expected[position]
        assert isinstance(one, RejectedItem)
        assert (one.position, one.reason) == (position, reason)
        assert message in one.message


def test_a_slow_consumer_costs_nobody_his_record() -> None:
    limits = DecodeLimits(seconds=0.3)
    for decoded in decode_isolated(RECORDS[:3], source=DemoSource(), target=TARGET, limits=limits):
        assert isinstance(decoded, DecodedItem)
        time.sleep(1.0)


def test_requests_fit_into_a_socket_that_the_kernel_keeps_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each side would wait for the other to read: the waveforms do not fit into theirs."""

    def send(connection: socket.socket, parts: Iterable[bytes | memoryview]) -> None:
        for part in parts:
            connection.sendall(part)  # which raises where it waits too long

    monkeypatch.setattr(process, "SOCKET_BYTES", 1 << 12)
    monkeypatch.setattr(process, "MESSAGE_SECONDS", 5.0)
    monkeypatch.setattr(process, "_send", send)
    text = {"text": "-" * 3000}
    records = [(position, replace(item, user_columns=text)) for position, (_, item) in enumerate(3 * RECORDS)]
    found = list(decode_isolated(records, source=DemoSource(), target=TARGET, limits=LIMITS))
    here = decode_items(records, source=DemoClips(), target=TARGET)
    assert all(same(one, other) for one, other in zip(found, here, strict=True))


def write_silence(path: Path, *, seconds: float, rate: int) -> Item:
    with soundfile.SoundFile(path, "w", samplerate=rate, channels=1, subtype="PCM_16") as file:
        file.write(np.arange(round(seconds * rate), dtype=np.int64).astype(np.int16))
    return Item(id="long", source_uri=str(path), source_size=path.stat().st_size)


def test_cuts_that_were_whole_when_the_child_died_stand_and_the_others_are_decoded_once(tmp_path: Path) -> None:
    recording = write_silence(tmp_path / "a.wav", seconds=20.0, rate=24000)
    cuts = [(at, replace(recording, id=f"cut-{at}", start_seconds=2.0 * at, duration_seconds=2.0)) for at in range(10)]
    source = FilesSource(paths=(str(tmp_path),))
    undisturbed = list(decode_items(cuts, source=make_source(source), target=TARGET))
    with IsolatedDecoder(source=source, target=TARGET, limits=LIMITS) as decoder:
        decoded = decoder.decode(cuts)
        first = next(decoded)
        kill_child(decoder)
        disturbed = [first, *decoded]
    assert len(disturbed) == len(undisturbed) == len(cuts)
    assert all(same(one, other) for one, other in zip(disturbed, undisturbed, strict=True))


def test_stretches_that_were_given_before_a_death_are_not_given_again(tmp_path: Path) -> None:
    recording = write_silence(tmp_path / "a.wav", seconds=720.0, rate=4000)
    source, target = FilesSource(paths=(str(tmp_path),)), replace(TARGET, streamed=True)
    undisturbed = list(decode_items([(0, recording)], source=make_source(source), target=target))
    with IsolatedDecoder(source=source, target=target, limits=LIMITS) as decoder:
        decoded = decoder.decode([(0, recording)])
        first = [next(decoded) for _ in range(3)]
        kill_child(decoder)
        disturbed = [*first, *decoded]
    assert len(disturbed) == len(undisturbed) > len(first)
    assert all(same(one, other) for one, other in zip(disturbed, undisturbed, strict=True))


def kill_child(decoder: IsolatedDecoder) -> None:
    assert decoder._child._running is not None
    decoder._child._running.process.kill()


def test_one_death_is_forgiven(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    lives.touch()
    source = plugin(DeadlyClips, deadly=[RECORDS[3][1].id], lives=str(lives))
    decoded = list(decode_isolated(RECORDS, source=source, target=TARGET, limits=LIMITS))
    assert not lives.exists(), "nothing was killed, so nothing was proven"
    assert all(isinstance(item, DecodedItem) for item in decoded)


def test_a_failing_storage_is_not_blamed_on_the_record() -> None:
    with pytest.raises(TransientError, match="no answer"):
        list(decode_isolated(RECORDS, source=plugin(UnreachableClips), target=TARGET, limits=LIMITS))


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("dies", TransientError, r"could not start: the decoder's process died \(exit code 3\)"),
        ("ours", ConfigError, "no such thing"),
        ("bug", TransientError, "could not start: ValueError: out of order"),
    ],
)
def test_a_child_that_cannot_start_is_no_records_fault(how: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(decode_isolated(RECORDS, source=plugin(BrokenClips, how=how), target=TARGET, limits=LIMITS))


def test_a_child_that_cannot_import_is_no_records_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "soundfile.py").write_text("raise ImportError('no libsndfile')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TransientError, match="could not start"):
        list(decode_isolated(RECORDS, source=DemoSource(), target=TARGET, limits=LIMITS))


def test_a_fault_of_the_code_is_raised_here_and_blamed_on_no_record() -> None:
    with pytest.raises(KeyError, match=RECORDS[0][1].id):
        list(decode_isolated(RECORDS, source=plugin(BuggyClips), target=TARGET, limits=LIMITS))


def test_the_terminal_cannot_interrupt_a_child() -> None:
    with pytest.raises(TransientError, match="session") as caught:
        list(decode_isolated(RECORDS, source=plugin(TellingClips), target=TARGET, limits=LIMITS))
    assert str(caught.value) != f"session {os.getsid(0)}."


ORPHAN_SCRIPT = """
import os
from tests.tokenizer_jobs.test_isolation import RECORDS, TARGET
from tokenizer_jobs.source_config import DemoSource
from tokenizer_jobs.isolation import DecodeLimits, IsolatedDecoder
decoder = IsolatedDecoder(source=DemoSource(), target=TARGET, limits=DecodeLimits())
decoded = decoder.decode(RECORDS)
next(decoded)
print(decoder._child._running.process.pid, flush=True)
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
