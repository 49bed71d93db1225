"""Files that are fetched before their turn: nothing but time may tell that they were."""

import http.server
import io
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.clips import MONO, MemorySource, encode, speechlike
from tests.tokenizer_jobs.object_stores import faults_of, reach, requests_to, set_faults
from tests.tokenizer_jobs.ponds import POND, fill_pond
from tests.tokenizer_jobs.test_isolation import same
from tests.waiting import wait_until
from tokenizer_jobs.cluster.decode_tasks import decode_share
from tokenizer_jobs.decode import decode_items, opened_items
from tokenizer_jobs.errors import ItemError, RejectReason, TransientError
from tokenizer_jobs.isolation import DecodeLimits, IsolatedDecoder
from tokenizer_jobs.records import Decoded, DecodedItem, Item, RejectedItem
from tokenizer_jobs.source_config import FilesSource, ManifestSource
from tokenizer_jobs.sources import ReadAhead, make_source, read_ahead
from tokenizer_jobs.sources.files import AudioFiles
from tokenizer_jobs.storage import stat_source, systems

CLIPS = [
    encode(speechlike(1600 + 400 * number), container=container, coding=coding)
    for number in range(4)
    for container, coding in (("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("MP3", "MPEG_LAYER_III"))
]


def decoded_ahead(items: Sequence[Item], source: AudioFiles) -> list[Decoded]:
    numbered = list(enumerate(items))
    with ReadAhead(source) as ahead:
        ahead.expect(opened_items(numbered))
        return list(decode_items(numbered, source=ahead, target=MONO))


class Bucket:
    """A folder of its own on the store."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.url = f"s3://bucket/{uuid.uuid4().hex}"
        self.config = FilesSource(paths=(self.url,))
        self.source = AudioFiles(self.config)

    def put(self, **contents: bytes) -> None:
        self._client().pipe({f"{self.url}/{name.replace('_', '.')}": content for name, content in contents.items()})

    def remove(self, name: str) -> None:
        self._client().rm_file(f"{self.url}/{name}")

    def put_clips(self) -> list[Item]:
        self.put(**{f"{number:02d}_wav": content for number, content in enumerate(CLIPS)})
        items = list(self.source.list().items)
        requests_to(self.store)
        return items

    def requests(self) -> Counter[str]:
        """By kind, since this was last asked."""
        return Counter(line.partition(" ")[0] for line in requests_to(self.store))

    def _client(self) -> Any:
        return systems.file_system(self.url)[0]


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    reach(object_store, monkeypatch)
    yield Bucket(object_store)
    set_faults(object_store)


def test_what_becomes_of_items_is_the_same_whatever_lies_in_the_bucket_by_then(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "SMALL_BYTES", 1 << 15)
    large = encode(speechlike(1 << 15), container="WAV", coding="PCM_16")
    bucket.put(
        large_wav=large, gone_wav=CLIPS[0], shut_wav=CLIPS[0], page_wav=b"<html>", empty_wav=b"",
        changed_wav=CLIPS[1], grown_wav=CLIPS[1], cut_wav=CLIPS[1],
    )  # fmt: skip
    bucket.put_clips()
    items = list(bucket.source.list().items)
    bucket.remove("gone.wav")
    bucket.put(changed_wav=CLIPS[1][:-2] + b"\1\1", grown_wav=CLIPS[4], cut_wav=CLIPS[1][:100])
    np.random.default_rng(0).shuffle(items)
    refused = [{"fault": "forbidden", "method": method, "key": "shut", "times": 9} for method in ("GET", "HEAD")]
    set_faults(bucket.store, rules=refused)
    alone = list(decode_items(list(enumerate(items)), source=bucket.source, target=MONO))
    ahead = decoded_ahead(items, bucket.source)
    assert len(ahead) == len(alone) == len(items)
    assert all(same(one, other) for one, other in zip(ahead, alone, strict=True))
    assert Counter(found.reason for found in ahead if isinstance(found, RejectedItem)) == {
        RejectReason.VANISHED: 1,
        RejectReason.PERMISSION_DENIED: 1,
        RejectReason.CHANGED: 3,
        RejectReason.NOT_AUDIO: 1,
        RejectReason.EMPTY: 1,
    }


def test_a_small_file_costs_a_decode_task_one_request(bucket: Bucket) -> None:
    items = bucket.put_clips()
    groups = [list(enumerate(items))[start : start + 4] for start in range(0, len(items), 4)]
    limits = DecodeLimits()
    lists = decode_share(groups, source=bucket.config, target=MONO, limits=limits, careful=False)
    decoded = [step for each in lists for step in each.items]
    assert bucket.requests() == {"GET": len(items)}
    alone = decode_items(list(enumerate(items)), source=bucket.source, target=MONO)
    assert all(same(one, other) for one, other in zip(decoded, alone, strict=True))
    assert all(isinstance(found, DecodedItem) for found in decoded)


def test_a_small_file_costs_a_child_one_request(bucket: Bucket) -> None:
    items = bucket.put_clips()
    with IsolatedDecoder(source=bucket.config, target=MONO, limits=DecodeLimits()) as decoder:
        decoded = list(decoder.decode(enumerate(items)))
        assert bucket.requests() == {"GET": len(items)}
    alone = decode_items(list(enumerate(items)), source=bucket.source, target=MONO)
    assert all(same(one, other) for one, other in zip(decoded, alone, strict=True))


def test_a_file_whose_size_nobody_knows_costs_one_request(bucket: Bucket) -> None:
    items = [replace(item, source_size=None, source_etag=None) for item in bucket.put_clips()]
    decoded = decoded_ahead(items, bucket.source)
    assert bucket.requests() == {"GET": len(items)}
    assert all(isinstance(found, DecodedItem) for found in decoded)


def test_a_fetch_that_is_cut_costs_requests_and_no_item(bucket: Bucket) -> None:
    items = bucket.put_clips()
    before = faults_of(bucket.store)["faults"].get("cut_within", 0)
    set_faults(bucket.store, rules=[{"fault": "cut_within", "method": "GET", "key": "03.wav"}])
    decoded = decoded_ahead(items, bucket.source)
    assert faults_of(bucket.store)["faults"]["cut_within"] == before + 1
    assert all(isinstance(found, DecodedItem) for found in decoded)


def test_a_store_that_fails_is_blamed_on_no_item(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    items = bucket.put_clips()
    quick = {**systems.S3_CLIENT, "retries": {"mode": "standard", "max_attempts": 1}}
    monkeypatch.setattr(systems, "S3_CLIENT", quick)
    failing = [{"fault": "internal_error", "method": method, "times": 10_000} for method in ("GET", "HEAD")]
    set_faults(bucket.store, rules=failing)
    with pytest.raises(TransientError, match=r"00\.wav"):
        decoded_ahead(items, bucket.source)


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 70, 90, 99, 100, 101]),
            st.sampled_from([0.0, 0.0, 0.001, 0.003]),
            st.sampled_from(["there", "there", "there", "no size", "changed", "longer", "passed over"]),
        ),
        max_size=30,
    )
)
def test_every_item_gets_its_bytes_in_bounded_memory(files: list[tuple[int, float, str]]) -> None:
    sizes, delays, states = zip(*files, strict=True) if files else ((), (), ())
    pond, items = fill_pond([bytes([number]) * size for number, size in enumerate(sizes)], delays=delays)
    pond.spoiled = {item.id for item, state in zip(items, states, strict=True) if state in ("changed", "longer")}
    for place, (item, state) in enumerate(zip(list(items), states, strict=True)):
        match state:
            case "no size":
                items[place] = replace(item, source_size=None, source_etag=None)
            case "changed":
                pond.versions[item.id] = "other"
            case "longer":
                pond.contents[item.id] += b"more"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, bound in (("SMALL_BYTES", 100), ("AHEAD_BYTES", 400), ("AHEAD_FILES", 6), ("FIRST_FILES", 2)):
            patch.setattr(read_ahead, name, bound)
        ahead = stack.enter_context(ReadAhead(POND))
        ahead.expect(items[:20])
        for place, (item, state) in enumerate(zip(items, states, strict=True)):
            if place == 10:
                ahead.expect(items[20:])
            pond.opened.add(item.id)
            if state == "changed":
                with pytest.raises(ItemError) as caught:
                    ahead.open(item)
                assert caught.value.reason is RejectReason.CHANGED
            elif state != "passed over":
                with ahead.open(item) as file:
                    assert file.read() == pond.contents[item.id]
    assert pond.most_files <= 6
    assert pond.most_bytes <= 400 + pond.most_files * len("more")
    assert max(Counter(pond.begun).values(), default=1) == 1
    if "passed over" not in states:  # nobody makes room for them but those behind them
        there = {item.id for item, state in zip(items, states, strict=True) if state == "there"}
        not_small = {item.id for item, size in zip(items, sizes, strict=True) if not 0 < size <= 100}
        assert there & set(pond.opened_late) == there & not_small


class Shifted(AudioFiles):
    """Files that mean something else than what lies there."""

    def open(self, item: Item) -> IO[bytes]:
        with super().open(item) as file:
            return io.BytesIO(bytes(byte - 1 for byte in file.read()))


def test_a_source_that_opens_in_its_own_way_is_asked() -> None:
    _, items = fill_pond([b"bcd"] * 3, delays=[0.0] * 3)
    with ReadAhead(Shifted(POND.config)) as ahead:
        ahead.expect(items)
        assert [ahead.open(item).read() for item in items] == [b"abc"] * 3


def test_closing_ends_what_is_under_way_and_leaves_no_thread() -> None:
    pond, items = fill_pond([b"x"] * 50, delays=[0.0] + [600.0] * 49)
    POND.open(items[0]).close()  # fsspec's own thread stays
    before = set(threading.enumerate())
    with ReadAhead(POND) as ahead:
        ahead.expect(items)
        ahead.open(items[0]).close()
        wait_until(lambda: len(pond.begun) > 5, what="fetches to begin", seconds=20)
    wait_until(lambda: sorted(pond.ended) == sorted(pond.begun), what="fetches to end", seconds=20)
    assert set(threading.enumerate()) == before


def test_on_a_slow_line_the_file_whose_turn_it_is_has_the_line_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "PATIENCE_SECONDS", 0.05)
    contents = [bytes([number]) for number in range(20)]
    pond, items = fill_pond(contents, delays=[600.0] + [0.0] * 3 + [600.0] * 16)
    with ReadAhead(POND) as ahead:
        ahead.expect(items)
        wait_until(lambda: len(pond.ended) == 3, what="the short ones", seconds=20)
        assert ahead.open(items[0]).read() == contents[0]
        wait_until(lambda: sorted(pond.ended) == sorted(pond.begun), what="the others to be given up", seconds=20)
        assert len(pond.begun) == read_ahead.FIRST_FILES
        monkeypatch.undo()
        pond.delays = dict.fromkeys(pond.delays, 0.0)
        assert [ahead.open(item).read() for item in items[1:]] == contents[1:]
    assert pond.opened_late == [items[0].id]


def test_after_a_pause_of_the_line_files_are_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "PATIENCE_SECONDS", 0.05)
    contents = [bytes([number]) for number in range(20)]
    pond, items = fill_pond(contents, delays=[600.0] * 20)
    with ReadAhead(POND) as ahead:
        ahead.expect(items)
        ahead.open(items[0]).close()
        monkeypatch.undo()
        pond.delays = dict.fromkeys(pond.delays, 0.0)
        assert [ahead.open(item).read() for item in items[1:]] == contents[1:]
    assert pond.opened_late == [items[0].id]


@pytest.mark.parametrize(("said_at_once", "num_fetches"), [(20, read_ahead.FIRST_FILES + 2), (1, 2)])
def test_on_a_line_that_is_too_slow_for_any_file_none_is_fetched_in_the_end(
    said_at_once: int, num_fetches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "PATIENCE_SECONDS", 0.05)
    pond, items = fill_pond([b"x"] * 20, delays=[600.0] * 20)
    with ReadAhead(POND) as ahead:
        for start in range(0, 20, said_at_once):
            together = items[start : start + said_at_once]
            ahead.expect(together)
            for item in together:
                ahead.open(item).close()
    assert len(pond.begun) == num_fetches
    assert pond.opened_late == [item.id for item in items]


def test_where_no_fetch_brings_anything_none_is_begun_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "MAX_IN_VAIN", 10)
    pond, items = fill_pond([b"x"] * 60, delays=[0.0] * 60)
    pond.contents = dict.fromkeys(pond.contents, b"longer")
    items = [replace(item, source_etag=None) for item in items]
    with ReadAhead(POND) as ahead:
        ahead.expect(items)
        for item in items:
            ahead.open(item).close()
    assert 10 <= len(pond.begun) <= 10 + read_ahead.AHEAD_FILES < len(items)


def test_few_files_are_under_way_where_each_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "PATIENCE_SECONDS", 0.1)
    pond, items = fill_pond([b"x"] * 40, delays=[0.06] * 40)
    with ReadAhead(POND) as ahead:
        ahead.expect(items)
        for item in items[:9]:
            ahead.open(item).close()
        assert len(set(pond.begun)) <= 9 + 2


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers `/<number>.wav` with a clip, and `/old/…` under another version than before."""

    def do_GET(self) -> None:
        content = CLIPS[int(self.path.rpartition("/")[2].removesuffix(".wav"))]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"new"' if "/old/" in self.path else '"same"')
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else content)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server calls

    def log_message(self, *_: object) -> None:
        pass


def test_files_on_the_web_are_read_ahead() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        items = [
            Item(
                id=f"{folder}{number}",
                source_uri=f"{address}/{folder}/{number}.wav",
                source_size=size,
                source_etag=etag,
            )
            for number, content in enumerate(CLIPS[:4])
            for folder, size, etag in (("a", None, None), ("b", len(content), "same"), ("old", len(content), "same"))
        ]
        source = make_source(ManifestSource(paths=("unused.jsonl",)))
        opened = list[str]()

        def open_late(item: Item, *, usual: Callable[[Item], IO[bytes]] = source.open) -> IO[bytes]:
            opened.append(item.id)
            return usual(item)

        source.open = open_late  # type: ignore[method-assign]
        with ReadAhead(source) as ahead:
            ahead.expect(items)
            for item in items:
                if item.id.startswith("old"):
                    with pytest.raises(ItemError, match="version new, same when it was planned"):
                        ahead.open(item)
                    continue
                with ahead.open(item) as file:
                    assert file.read() == CLIPS[int(item.id[1:])]
        server.shutdown()
        thread.join()
    assert opened == [item.id for item in items if item.id.startswith("old")]


def test_what_is_here_already_is_not_fetched(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object) -> None:
        raise AssertionError("a local file was fetched")

    monkeypatch.setattr(read_ahead, "start_fetch", fetch)
    (tmp_path / "a.wav").write_bytes(CLIPS[0])
    for uri in (str(tmp_path / "a.wav"), f"file://{tmp_path}/a.wav"):
        item = Item(id="a", source_uri=uri, source_size=len(CLIPS[0]), source_etag=stat_source(uri).etag)
        assert len(decoded_ahead([item], AudioFiles(FilesSource(paths=(str(tmp_path),))))) == 1


def test_a_storage_that_cannot_be_read_in_the_background_is_read_in_turn() -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe({f"{folder}/{number}.wav": content for number, content in enumerate(CLIPS)})
    source = AudioFiles(FilesSource(paths=(folder,)))
    decoded = decoded_ahead(list(source.list().items), source)
    assert len(decoded) == len(CLIPS)
    assert all(isinstance(found, DecodedItem) for found in decoded)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([None, 0.0, 0.02]), st.booleans()),
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_what_is_said_to_be_opened_is_opened(drawn: list[tuple[str, float | None, bool]]) -> None:
    class Noting(MemorySource):
        def open(self, item: Item) -> IO[bytes]:
            opened.append(item)
            return super().open(item)

    opened = list[Item]()
    items = [
        Item(
            id=name, source_uri=name, start_seconds=start, duration_seconds=None if start is None else 0.01,
            duplicate_of="x" if is_duplicate else None,
        )
        for name, start, is_duplicate in drawn
    ]  # fmt: skip
    list(decode_items(list(enumerate(items)), source=Noting({"a": CLIPS[0], "b": CLIPS[1]}), target=MONO))
    assert opened == list(opened_items(enumerate(items)))
