"""Units that share an encoder: their streams meet, batches follow the device, and no code changes."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch

from tests.tokenizer_jobs.clips import encode as encode_audio
from tests.tokenizer_jobs.clips import speechlike
from tests.tokenizer_jobs.cluster_parts import HashCodec
from tests.tokenizer_jobs.factories import FACTS, METADATA, NO_COLUMNS, RECIPE, plan_output
from tests.tokenizer_jobs.recordings import audio, items, load
from tokenizer_jobs.cluster.actors import EncoderActor
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.config import CodecRecipe, JobConfig, Runtime
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.encoding import LaneCodec, Waveform
from tokenizer_jobs.executors import UnitOutcome
from tokenizer_jobs.job import run
from tokenizer_jobs.pipeline import UnitJob, tokenize_unit
from tokenizer_jobs.records import Decoded, EncodedItem, WorkUnit
from tokenizer_jobs.source_config import DemoSource
from tokenizer_jobs.sources import make_source
from tokenizer_jobs.stopping import StopRequest
from tokenizer_jobs.storage import Storage


class CountingCodec(HashCodec):
    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        self.calls.append(len(waveforms))
        return super().encode(waveforms)


def batches(output: Path, batch_seconds: object, *, device: str) -> list[int]:
    """How many of 30 items of 10 s each call encodes."""
    storage = Storage.open(str(output))
    (unit,) = plan_output(storage, [[f"clip-{number}" for number in range(30)]])
    codec, clip = CountingCodec(), np.zeros((1, 10 * FACTS.sample_rate), np.float32)
    job = UnitJob(
        output=str(output),
        run_id="test",
        recipe_id=RECIPE.recipe_id,
        weights_sha256=FACTS.weights_sha256,
        source=DemoSource(),
        target=AudioTarget(sample_rate=FACTS.sample_rate, channels=1),
        metadata=METADATA,
        user_schema=NO_COLUMNS,
        shard_format="parquet",
        batch_seconds=Runtime.model_validate({"batch_seconds": batch_seconds}).batch_seconds,
    )
    decoded = [step for position in range(30) for step in items(clip, position=position)]
    tokenize_unit(unit, decoded=decoded, job=job, codec=codec, storage=storage, attempt=1, device=device)
    return codec.calls


@pytest.mark.parametrize(
    ("batch_seconds", "device", "calls"),
    [("auto", "cpu", [16, 14]), ("auto", "cuda", [30]), (200, "cpu", [20, 10]), (200, "cuda", [20, 10])],
)
def test_a_gpu_gets_larger_batches_unless_the_job_says_how_large(
    tmp_path: Path, batch_seconds: object, device: str, calls: list[int]
) -> None:
    assert batches(tmp_path, batch_seconds, device=device) == calls


@pytest.mark.parametrize("name", ["causal_mono", "windows_stereo"])
def test_streams_that_are_pushed_together_are_the_whole_recordings(codec_models: Path, name: str) -> None:
    codec = load(codec_models, name)
    assert isinstance(codec, LaneCodec)
    recordings = [audio(name, length) for length in (120_000, 150_000, 180_000)]
    streams = [codec.stream() for _ in recordings]
    pieces = [np.array_split(recording, 3, axis=1) for recording in recordings]
    for turn in zip(*pieces, strict=True):
        codec.push_together(list(zip(streams, turn, strict=True)))
    for stream, whole in zip(streams, codec.encode(recordings), strict=True):
        found = stream.finish()
        np.testing.assert_array_equal(found.codes, whole.codes)
        assert (found.scales is None) == (whole.scales is None)


def test_only_streams_that_gain_by_company_wait_for_it(codec_models: Path) -> None:
    assert load(codec_models, "causal_mono").max_lanes > 1
    assert load(codec_models, "windows_stereo").max_lanes == 1


class DecoderHere:
    """Decodes in this process, each unit once all have come."""

    def __init__(self, job: UnitJob, *, num_units: int) -> None:
        self._job = job
        self._all_came = threading.Barrier(num_units)

    def warm_up(self) -> None:
        """Nothing to start."""

    def allow(self, num_tasks: int) -> None:
        raise NotImplementedError("nodes neither join nor leave")

    def note_encoding(self, seconds: float, *, audio_seconds: float) -> None:
        """Nothing follows from it."""

    def decode(self, unit: WorkUnit, *, careful: bool) -> Iterator[Decoded]:
        self._all_came.wait(timeout=30)
        source, target = make_source(self._job.source), self._job.target
        yield from decode_items(list(enumerate(unit.items)), source=source, target=target)


class OneEncoder:
    """An executor: the cluster's encoder in this process, with all units in its hands at once."""

    def __init__(self, job: UnitJob, *, codec_recipe: CodecRecipe, num_units: int) -> None:
        decoder = DecoderHere(job, num_units=num_units)
        self._num_units = num_units
        self._encoder = EncoderActor("encoder-0", job=job, codec_recipe=codec_recipe, device="cpu", decoder=decoder)

    def __enter__(self) -> Self:
        self._encoder.load(num_threads=torch.get_num_threads())
        return self

    def __exit__(self, *_: object) -> None:
        """It ends with the test."""

    def describe(self) -> str:
        return "one encoder in this process"

    def run(self, units: Iterable[WorkUnit], *, stop: StopRequest) -> Iterator[UnitOutcome]:
        with ThreadPoolExecutor(self._num_units) as threads:
            yield from threads.map(lambda unit: self._encoder.run(unit, number=1, careful=False), units)


def test_long_recordings_that_meet_in_an_encoder_are_the_bytes_of_those_that_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenizer_jobs.decode.rows.LONG_WAVEFORM_BYTES", 4 * 5 * 24_000)
    (tmp_path / "audio").mkdir()
    for name, samples in zip("ab", np.split(speechlike(60 * 24_000, rate=24_000), [33 * 24_000]), strict=True):
        content = encode_audio(samples, container="WAV", coding="PCM_16", rate=24_000)
        (tmp_path / "audio" / f"{name}.wav").write_bytes(content)
    written = []
    for num_units in (1, 2):
        output = tmp_path / f"{num_units} at once"
        config = JobConfig.parse(
            {
                "output": str(output),
                "recipe": {"codec": {"model": "demo"}},
                "selection": {
                    "source": {"kind": "files", "paths": [str(tmp_path / "audio")]},
                    "shards": {"unit_minutes": 0.4},
                },
            },
            origin="test",
        )
        done = run(config, executor=partial(OneEncoder, codec_recipe=config.recipe.codec, num_units=num_units))
        assert (done.units, done.rows, done.problems) == (2, 2, [])
        work = [commit.encode_work for commit in read_commits(Storage.open(str(output)), 1)]
        assert sorted(each.num_samples for each in work if each) == [27 * 24_000, 33 * 24_000]
        assert max(each.peak_items for each in work if each) == num_units
        written.append({path.name: path.read_bytes() for path in (output / "codes").iterdir()})
    assert written[0] == written[1]
