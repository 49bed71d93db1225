"""What `verify --reencode` compares: every row of short items, the beginning of long ones; and what it finds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tokenizer_jobs.factories import METADATA, NO_COLUMNS, make_reject, make_unit
from tests.tokenizer_jobs.recordings import audio, items, load, stretches
from tokenizer_jobs import pipeline, reencoding
from tokenizer_jobs.config import AudioRecipe, CodecRecipe, Recipe, Selection
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.encoding import EncodecCodec, Waveform
from tokenizer_jobs.errors import RejectReason, Stage
from tokenizer_jobs.planning import PlanFacts, write_plan
from tokenizer_jobs.recipe import ResolvedRecipe, store_recipe
from tokenizer_jobs.records import Decoded, EncodedItem, RejectedItem
from tokenizer_jobs.reencoding import ReencodeResult, reencode_sample
from tokenizer_jobs.source_config import DemoSource
from tokenizer_jobs.storage import Storage

SAMPLES = 288_000
CODECS = pytest.mark.parametrize("name", ["causal_mono", "windows_stereo"])


class WrongCodec(EncodecCodec):
    """Changes one code of every recording at a place."""

    def __init__(self, like: EncodecCodec, *, at_frame: int) -> None:
        super().__init__(like.model, recipe=like._recipe, device="cpu")
        self._at_frame = at_frame

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        return [self._spoiled(item) for item in super().encode(waveforms)]

    def stream(self) -> Any:
        stream = super().stream()
        finish = stream.finish
        stream.finish = lambda: self._spoiled(finish())  # type: ignore[method-assign]
        return stream

    def _spoiled(self, item: EncodedItem) -> EncodedItem:
        codes = item.codes.copy()
        codes[0, self._at_frame] ^= 1
        return replace(item, codes=codes)


def reencode(
    folder: Path,
    decoded: Sequence[Decoded],
    codec: EncodecCodec,
    *,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    restarts: bool = False,
    now: Sequence[Decoded] | None = None,
) -> ReencodeResult:
    """Tokenize one item that decodes to `decoded`, and encode it again from that (or from what it decodes to `now`)."""
    storage, facts = Storage.open(folder), codec.describe()
    has_channels = any(not isinstance(step, RejectedItem) and step.place.channel is not None for step in decoded)
    audio_recipe = AudioRecipe(
        long_audio="restart" if restarts else "exact",
        slice_seconds=1.0 if restarts else None,
        channels="each" if has_channels else "auto",
    )
    recipe = ResolvedRecipe.resolve(Recipe(codec=CodecRecipe(model=str(model)), audio=audio_recipe), facts)
    store_recipe(storage, recipe)
    unit = make_unit(["a"])
    selection = Selection(source=DemoSource()).model_dump(mode="json")
    write_plan(storage, [unit], facts=PlanFacts(generation=1, recipe_id=recipe.recipe_id, selection=selection))
    job = pipeline.UnitJob(
        output=storage.url,
        run_id="test",
        recipe_id=recipe.recipe_id,
        weights_sha256=facts.weights_sha256,
        source=DemoSource(),
        target=AudioTarget(sample_rate=facts.sample_rate, channels=facts.channels, long_audio=audio_recipe.long_audio),
        metadata=METADATA,
        user_schema=NO_COLUMNS,
        shard_format="parquet",
        batch_seconds=120.0,
    )
    pipeline.tokenize_unit(unit, decoded=iter(decoded), job=job, codec=codec, storage=storage, attempt=1, device="cpu")

    def decode_again(*_: object, **__: object) -> Iterator[Decoded]:
        yield from decoded if now is None else now

    monkeypatch.setattr(reencoding, "decode_items", decode_again)
    return reencode_sample(storage, fraction=0.001)


@CODECS
@pytest.mark.parametrize("slice_samples", [None, 2 * 47_520])
def test_a_recording_in_stretches_agrees_with_the_plain_model(
    codec_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, slice_samples: int | None
) -> None:
    codec, whole = load(codec_models, name), audio(name, SAMPLES)
    size = slice_samples if slice_samples is None or name == "windows_stereo" else 300 * 320
    steps = stretches(whole, [100_000], slice_samples=size)
    options: Any = {"model": codec_models / name, "monkeypatch": monkeypatch}
    found = reencode(tmp_path, steps, codec, **options)
    frames = codec.encode([whole])[0].codes.shape[1]
    assert (found.items, found.partly, found.problems) == (1, 0, ())
    assert found.codes == 8 * frames if name == "causal_mono" else found.codes > 0
    assert found.seconds == pytest.approx(SAMPLES / codec.describe().sample_rate)


@CODECS
@pytest.mark.parametrize(("at_frame", "is_seen"), [(0, True), (140, True), (-1, False)])
def test_of_a_long_recording_the_beginning_is_compared(
    codec_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at_frame: int, is_seen: bool
) -> None:
    monkeypatch.setattr(reencoding, "COMPARED_SECONDS", 2.0)
    codec, whole = load(codec_models, name), audio(name, SAMPLES)
    wrong = WrongCodec(codec, at_frame=at_frame)
    steps = stretches(whole, [40_000, 80_000, 120_000, 200_000])
    found = reencode(tmp_path, steps, wrong, model=codec_models / name, monkeypatch=monkeypatch)
    assert (found.items, found.partly) == (1, 1)
    assert found.seconds == pytest.approx(2.0)
    assert found.wrong_frames == len(found.problems) == (1 if is_seen else 0)


@CODECS
@pytest.mark.parametrize("in_stretches", [False, True])
def test_rows_of_restart_are_compared_each_alone_until_it_is_enough(
    codec_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, in_stretches: bool
) -> None:
    codec = load(codec_models, name)
    rate = codec.describe().sample_rate
    monkeypatch.setattr(reencoding, "COMPARED_SECONDS", 180_000 / rate)
    size = 2 * 47_520 if name == "windows_stereo" else 300 * 320
    whole = audio(name, SAMPLES)[:, : 3 * size - 7000]
    steps: list[Decoded] = [*(stretches if in_stretches else items)(whole, slice_samples=size)]
    found = reencode(tmp_path, steps, codec, model=codec_models / name, monkeypatch=monkeypatch, restarts=True)
    assert (found.items, found.partly, found.problems) == (1, 1, ())
    assert found.seconds * rate == pytest.approx(2 * size, abs=1)


def test_channels_are_compared_with_their_own_rows(
    codec_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load(codec_models, "causal_mono")
    each = [stretches(audio("causal_mono", 120_000, n), [50_000], channel=n) for n in range(2)]
    steps = [replace(step, is_last=False) for pair in zip(*each, strict=True) for step in pair]
    steps[-1] = replace(steps[-1], is_last=True)
    options: Any = {"model": codec_models / "causal_mono", "monkeypatch": monkeypatch}
    found = reencode(tmp_path / "right", steps, codec, **options)
    assert (found.items, found.partly, found.problems) == (1, 0, ())
    assert found.codes == 2 * 8 * 375
    swapped = [replace(step, waveform=np.ascontiguousarray(-step.waveform)) for step in steps]
    assert reencode(tmp_path / "wrong", steps, codec, now=swapped, **options).wrong_frames > 300


@pytest.mark.parametrize(("reason", "is_gone"), [(RejectReason.VANISHED, True), (RejectReason.CORRUPT, False)])
def test_an_input_that_is_a_reject_now_is_told(
    codec_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: RejectReason, is_gone: bool
) -> None:
    codec, whole = load(codec_models, "causal_mono"), audio("causal_mono", 9600)
    now = [make_reject(0, reason, Stage.DECODE)]
    options: Any = {"model": codec_models / "causal_mono", "monkeypatch": monkeypatch}
    found = reencode(tmp_path, items(whole), codec, now=now, **options)
    assert (found.items, found.gone) == (0, int(is_gone))
    assert len(found.problems) == 1
