"""Laws of rows: stretches are the whole, slices are its parts or stand alone, and a void item leaves nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encodec_core import EncodecConfig, EncodecModel
from tests.encodec_core.models import CONFIGS
from tests.tokenizer_jobs.conftest import REPOSITORY
from tests.tokenizer_jobs.factories import METADATA, NO_COLUMNS, RECIPE, make_facts, make_row, make_unit, plan_output
from tests.tokenizer_jobs.factories import make_reject as reject
from tests.tokenizer_jobs.recordings import audio, items, load, slices, stretches
from tokenizer_jobs.assembly import RowAssembly, cut_at_rows
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.commits import Attempt, publish_unit
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.encoding import EncodecCodec, EncodeDesk, StreamingCodec, Waveform, load_codec
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.pipeline import UnitDone, UnitJob, tokenize_unit
from tokenizer_jobs.records import (
    Batch,
    Decoded,
    DecodedItem,
    DecodedStretch,
    EncodedItem,
    RowPlace,
    TokenizedItem,
    WorkUnit,
)
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, StoredRow, read_rows, write_rejects
from tokenizer_jobs.source_config import DemoSource
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification import verify_output

LONG = 120_000
"""Samples: `BatchEncoder` convolves shorter recordings of the reduced codecs in another way, which flips near ties."""
CODECS = pytest.mark.parametrize("name", ["causal_mono", "windows_stereo"])


@pytest.fixture
def codec(codec_models: Path, name: str) -> EncodecCodec:
    return load(codec_models, name)


def assemble(
    codec: EncodecCodec, steps: Sequence[DecodedStretch | DecodedItem], *, restarts: bool = False
) -> list[TokenizedItem]:
    assembly = RowAssembly(
        make_unit(["a", "b"]),
        desk=EncodeDesk(codec, merges=False),
        grain_samples=codec.describe().grain_samples,
        restarts=restarts,
    )
    rows: list[TokenizedItem] = []
    for step in steps:
        rows += (
            assembly.add_batch(Batch(items=(step,))) if isinstance(step, DecodedItem) else assembly.add_stretch(step)
        )
    assembly.check_ended()
    return rows


def assert_same(found: EncodedItem, expected: EncodedItem) -> None:
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert (found.scales is None) == (expected.scales is None)
    if found.scales is not None and expected.scales is not None:
        np.testing.assert_array_equal(found.scales, expected.scales)
        np.testing.assert_array_equal(found.window_frames, expected.window_frames)


def joined(rows: Sequence[TokenizedItem]) -> EncodedItem:
    encoded = [row.encoded for row in rows]
    has_windows = encoded[0].scales is not None
    return EncodedItem(
        codes=np.concatenate([row.codes for row in encoded], axis=1),
        scales=np.concatenate([row.scales for row in encoded if row.scales is not None]) if has_windows else None,
        window_frames=np.concatenate([row.window_frames for row in encoded if row.window_frames is not None])
        if has_windows
        else None,
    )


class TestExact:
    @CODECS
    @settings(max_examples=6, deadline=None)
    @given(more=st.integers(0, 60_000), cuts=st.lists(st.integers(1, LONG + 60_000), max_size=5))
    def test_stretches_are_the_whole_wherever_cut(
        self, codec_models: Path, name: str, more: int, cuts: list[int]
    ) -> None:
        codec, whole = load(codec_models, name), audio(name, LONG + 60_000)[:, : LONG + more]
        (row,) = assemble(codec, stretches(whole, cuts))
        assert_same(row.encoded, codec.encode([whole])[0])
        assert (row.row_id, row.slice_count) == ("a", 1)

    @pytest.mark.parametrize("name", ["windows_stereo"])
    @pytest.mark.parametrize("num_samples", [1, 47_520, 47_521, 47_999, 48_000, 48_001, 31 * 47_520 + 48_000])
    def test_part_filled_windows_are_those_of_the_whole(self, codec: EncodecCodec, name: str, num_samples: int) -> None:
        whole = np.resize(audio(name, LONG), (2, num_samples))
        (row,) = assemble(codec, stretches(whole, [num_samples // 3, 48_000]))
        assert_same(row.encoded, codec.encode([whole])[0])

    @CODECS
    @pytest.mark.parametrize("num_grains", [1, 2])
    def test_slices_one_after_the_other_are_the_whole(self, codec: EncodecCodec, name: str, num_grains: int) -> None:
        whole = audio(name, LONG + 100)
        grain = codec.describe().grain_samples
        size = num_grains * grain * (1 if grain > 320 else 100)
        rows = assemble(codec, stretches(whole, [1000, 70_000], slice_samples=size))
        assert len(rows) == -(-whole.shape[1] // size) > 1
        assert_same(joined(rows), codec.encode([whole])[0])
        assert [row.row_id for row in rows] == [f"a#s{start}" for start in range(0, whole.shape[1], size)]
        assert [(row.place.slice_index, row.slice_count) for row in rows] == [(i, len(rows)) for i in range(len(rows))]
        for row in rows:
            count = row.encoded.codes.shape[1] if row.encoded.scales is None else row.encoded.scales.size
            assert count == -(-row.facts.num_samples // grain)

    def test_channels_are_streams_of_their_own(self, codec_models: Path) -> None:
        codec = load(codec_models, "causal_mono")
        left, right = (audio("causal_mono", LONG, number) for number in range(2))
        by_channel = [
            stretches(each, [50_000], channel=n, slice_samples=96_000) for n, each in enumerate((left, right))
        ]
        # As decoding gives them: a stretch of one, the same stretch of the other.
        steps = [replace(step, is_last=False) for pair in zip(*by_channel, strict=True) for step in reversed(pair)]
        rows = assemble(codec, [*steps[:-1], replace(steps[-1], is_last=True)])
        assert [row.row_id for row in rows] == ["a#c0#s0", "a#c0#s96000", "a#c1#s0", "a#c1#s96000"]
        assert {row.slice_count for row in rows} == {2}
        assert_same(joined(rows[:2]), codec.encode([left])[0])
        assert_same(joined(rows[2:]), codec.encode([right])[0])

    def test_a_stream_that_was_used_begins_anew(self, codec_models: Path) -> None:
        codec = load(codec_models, "causal_mono")
        for number in range(3):
            whole = audio("causal_mono", LONG, number)
            (row,) = assemble(codec, stretches(whole, [777]))
            assert_same(row.encoded, codec.encode([whole])[0])

    def test_an_empty_last_stretch_ends_the_recording(self, codec_models: Path) -> None:
        codec, whole = load(codec_models, "causal_mono"), audio("causal_mono", LONG)
        (only,) = stretches(whole)
        steps = [replace(only, facts=None, is_last=False), replace(only, waveform=whole[:, :0])]
        assert_same(assemble(codec, steps)[0].encoded, codec.encode([whole])[0])


class TestRestart:
    @CODECS
    @pytest.mark.parametrize("in_stretches", [False, True])
    def test_every_slice_is_as_if_alone(self, codec: EncodecCodec, name: str, in_stretches: bool) -> None:
        size = 47_520 if codec.describe().windowed else 330 * 320
        whole = audio(name, 2 * size + 60_000)[:, : 3 * size]
        steps: list[DecodedStretch | DecodedItem] = [
            *(stretches(whole, [30_000], slice_samples=size) if in_stretches else items(whole, slice_samples=size))
        ]
        rows = assemble(codec, steps, restarts=True)
        for row, (place, alone) in zip(rows, slices(whole, size), strict=True):
            assert row.place == place
            if in_stretches and alone.shape[1] < LONG and not codec.describe().windowed:
                assert codec.compare(alone, row.encoded).is_faithful
            else:
                assert_same(row.encoded, codec.encode([alone])[0])


class TestRefusals:
    def steps(self) -> list[DecodedStretch]:
        return stretches(np.zeros((1, 9600), np.float32), [3200], slice_samples=6400)

    @pytest.mark.parametrize(
        ("break_it", "message"),
        [
            (
                lambda steps: [steps[0], replace(steps[1], facts=make_facts(1, num_samples=1)), steps[2]],
                "its facts say 1",
            ),
            (lambda steps: steps[:-1], "it had not ended"),
            (lambda steps: [steps[0], steps[2]], "before RowPlace"),
            (lambda steps: [steps[0], steps[1], replace(steps[2], place=RowPlace(slice_index=1))], "from sample 6400"),
            (lambda steps: [*steps[:2], replace(steps[2], facts=None)], "has no facts"),
            (lambda steps: [*steps[:2], replace(steps[2], position=1)], "before it had ended"),
            (
                lambda steps: [*steps[:2], replace(steps[2], place=RowPlace(slice_index=2, start_sample=6400))],
                "slices are",
            ),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, codec_models: Path, break_it: Any, message: str) -> None:
        with pytest.raises(IntegrityError, match=message):
            assemble(load(codec_models, "causal_mono"), break_it(self.steps()))

    def test_cuts_between_frames_are_refused(self) -> None:
        encoded = EncodedItem(codes=np.zeros((2, 10), np.uint16))
        assert [part.codes.shape[1] for part in cut_at_rows(encoded, [640, 960, 1600], grain_samples=320)] == [1, 2, 7]
        for starts in ([0, 100], [0, 0], [0, 3200], [320, 0]):
            with pytest.raises(IntegrityError, match="increasing multiples of 320"):
                cut_at_rows(encoded, starts, grain_samples=320)

    def test_a_codec_that_looks_ahead_gets_no_stretches(self, tmp_path: Path) -> None:
        EncodecModel(CONFIGS["musicgen"]).save_pretrained(tmp_path)
        codec = load_codec(CodecRecipe(model=str(tmp_path), bandwidth_kbps=1.6), device="cpu")
        assert isinstance(codec, StreamingCodec)
        assert not codec.describe().streamed
        with pytest.raises(IntegrityError, match="takes recordings whole"):
            EncodeDesk(codec, merges=False).stream()


def job(output: str, codec: EncodecCodec, *, restarts: bool = False, policy: Any = "auto", **target: Any) -> UnitJob:
    facts = codec.describe()
    metadata = METADATA[b"tokenizer_jobs"].replace(b"{", b'{"channel_policy": "%s", ' % policy.encode(), 1)
    return UnitJob(
        output=output,
        run_id="test",
        recipe_id=RECIPE.recipe_id,
        weights_sha256=facts.weights_sha256,
        source=DemoSource(),
        target=AudioTarget(
            sample_rate=facts.sample_rate, channels=facts.channels, long_audio="restart" if restarts else "exact"
        ),
        metadata={**METADATA, b"tokenizer_jobs": metadata},
        user_schema=NO_COLUMNS,
        shard_format="parquet",
        batch_seconds=2.0,
    )


def tokenize(
    storage: Storage, unit: WorkUnit, decoded: Sequence[Decoded], codec: EncodecCodec, **options: Any
) -> tuple[UnitDone, list[StoredRow]]:
    done = tokenize_unit(
        unit,
        decoded=iter(decoded),
        job=job(storage.url, codec, **options),
        codec=codec,
        storage=storage,
        attempt=1,
        device="cpu",
    )
    commit = done.published.commit
    return done, [row for file in commit.shards for row in read_rows(storage, file.path)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out")


@pytest.fixture
def causal(codec_models: Path) -> EncodecCodec:
    return load(codec_models, "causal_mono")


def void_after(steps: Sequence[DecodedItem | DecodedStretch], position: int) -> Iterator[Decoded]:
    """An item that becomes a reject where it was about to end."""
    yield from (replace(step, is_last=False) for step in steps)
    yield reject(position)


def test_a_void_item_leaves_no_row_and_its_neighbours_are_whole(storage: Storage, causal: EncodecCodec) -> None:
    (unit,) = plan_output(storage, [["long", "void stretches", "short", "void slices", "sliced", "end"]])
    long, short, rest = audio("causal_mono", LONG), audio("causal_mono", 9600), audio("causal_mono", 24_000)
    decoded = [
        *stretches(long, [40_000]),
        *void_after(stretches(long, [40_000, 90_000], position=1), 1),
        *items(short, position=2),
        *void_after(items(rest, slice_samples=6400, position=3), 3),
        *items(rest, slice_samples=9600, position=4),
        *items(short, position=5),
    ]
    done, rows = tokenize(storage, unit, decoded, causal, restarts=True)
    commit = done.published.commit
    assert [row.id for row in rows] == ["long", "short", "sliced#s0", "sliced#s9600", "sliced#s19200", "end"]
    assert (commit.num_items, commit.num_rows, commit.num_rejects) == (6, 6, 2)
    assert commit.audio_seconds == pytest.approx((LONG + 9600 + 24_000 + 9600) / 24_000)
    assert commit.stage_seconds["encode"] > 0
    assert_same(rows[0].encoded, causal.encode([long])[0])
    for row, alone in zip(
        rows[1:], (short, rest[:, :9600], rest[:, 9600:19_200], rest[:, 19_200:], short), strict=True
    ):
        assert_same(row.encoded, causal.encode([alone])[0])
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    assert verify_output(storage).problems == ()


def test_channels_and_slices_verify(storage: Storage, causal: EncodecCodec) -> None:
    (unit,) = plan_output(storage, [["a", "a#c0"]])
    both = audio("causal_mono", 19_200)
    each = [
        replace(step, place=replace(step.place, channel=channel), is_last=channel == 1 and step.is_last)
        for channel in range(2)
        for step in items(both, slice_samples=9600)
    ]
    alone = [replace(step, place=replace(step.place, channel=0), position=1) for step in items(both)]
    channels = [replace(step, facts=replace(step.facts, channel=step.place.channel or 0)) for step in [*each, *alone]]
    _, rows = tokenize(storage, unit, channels, causal, policy="each", restarts=True)
    assert [row.id for row in rows] == ["a#c0#s0", "a#c0#s9600", "a#c1#s0", "a#c1#s9600", "a#c0#c0"]
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    report = verify_output(storage)
    assert report.problems == ()
    assert (report.totals.items, report.totals.rows) == (2, 5)


def test_items_decoded_as_slices_share_batches(storage: Storage, causal: EncodecCodec) -> None:
    calls: list[int] = []

    class Counting(EncodecCodec):
        def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
            calls.append(len(waveforms))
            return super().encode(waveforms)

    (unit,) = plan_output(storage, [["a", "b", "c"]])
    counting = Counting(causal.model, recipe=CodecRecipe(model="causal", bandwidth_kbps=6.0), device="cpu")
    whole = audio("causal_mono", 96_000)
    decoded = [step for position in range(3) for step in items(whole, slice_samples=9600, position=position)]
    _, rows = tokenize(storage, unit, decoded, counting, restarts=True)
    assert len(rows) == 30
    assert calls == [16, 14]


def test_verification_misses_a_slice(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["a"]])
    schema = row_schema(NO_COLUMNS)
    rows = [
        replace(make_row("a", seed=n), place=RowPlace(slice_index=n, start_sample=320 * n), slice_count=3)
        for n in (0, 2)
    ]
    with ShardWriter(storage, unit=unit, schema=schema, metadata=METADATA, shard_format="parquet") as writer:
        writer.append(rows)
        shard = writer.close()
    rejects = write_rejects(
        storage, unit=unit, rejected=[], schema=reject_schema(NO_COLUMNS), metadata=METADATA, shard_format="parquet"
    )
    attempt = Attempt(number=1, device="cpu", started_at=datetime.now(UTC), stage_seconds={})
    publish_unit(storage, unit=unit, recipe_id=RECIPE.recipe_id, shard=shard, rejects=rejects, attempt=attempt)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    (problem,) = verify_output(storage).problems
    assert "item 'a' has the slices 0, 2, its rows say that there are 3" in problem


MEMORY = """
import resource, sys
import numpy as np
from tests.tokenizer_jobs.factories import make_facts, make_unit
from tokenizer_jobs.assembly import RowAssembly
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding import EncodeDesk
from tokenizer_jobs.encoding import load_codec
from tokenizer_jobs.records import DecodedStretch, RowPlace

codec = load_codec(CodecRecipe(model=sys.argv[1], bandwidth_kbps=6.0), device="cpu")
assembly = RowAssembly(make_unit(["a"]), desk=EncodeDesk(codec, merges=False), grain_samples=320, restarts=False)
rng, size, count = np.random.default_rng(0), 30 * 24000, 60
for number in range(1, count + 1):
    is_last = number == count
    facts = make_facts(1, num_samples=count * size) if is_last else None
    samples = rng.integers(-9000, 9000, (1, size), dtype=np.int16)
    rows = assembly.add_stretch(
        DecodedStretch(position=0, waveform=samples, place=RowPlace(), facts=facts, is_last=is_last)
    )
    if number == 2 or is_last:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
assert rows[0].encoded.codes.shape[1] == count * size // 320
"""


def test_memory_of_half_an_hour_is_that_of_a_minute(tmp_path: Path) -> None:
    cheap = {"num_filters": 1, "hidden_size": 4, "num_residual_layers": 0, "num_lstm_layers": 1, "codebook_size": 16}
    EncodecModel(EncodecConfig.encodec_24khz(**cheap)).save_pretrained(tmp_path)
    words = [sys.executable, "-c", MEMORY, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment, cwd=REPOSITORY)
    early, late = (int(line) / 1024 for line in done.stdout.split())
    # 29 minutes more are 167 MB of float32 audio, and 4 MB of codes while they are put together.
    assert late - early < 30, f"from {early:.0f} to {late:.0f} MB"
