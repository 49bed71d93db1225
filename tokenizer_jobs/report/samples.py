"""A few rows to look at and to listen to: what the codec heard, beside what its codes give back.

The original is read through the source again, as `verify --reencode` does; where it is gone, the sample says so.
"""

import heapq
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.commits import read_all_commits
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.encoding import describe_codec
from tokenizer_jobs.errors import ConfigError, IntegrityError, ItemError, TransientError
from tokenizer_jobs.planning import PlanSummary, read_units
from tokenizer_jobs.receipts import read_receipts
from tokenizer_jobs.recipe import CodecFacts, ResolvedRecipe
from tokenizer_jobs.records import Item, RejectedItem
from tokenizer_jobs.report.spectrogram import band_levels, png_of_levels
from tokenizer_jobs.row_places import PlacedRow, placed_row
from tokenizer_jobs.shards import StoredRow, find_row, read_batches
from tokenizer_jobs.sources import make_source
from tokenizer_jobs.storage import Storage

__all__ = ["Clip", "Sample", "draw_samples"]

CLIP_SECONDS = 8.0
"""Of each sample: a page of them stays a few megabytes."""
LATEST_START_SECONDS = 600.0
"""Of a slice that is preferred as a sample: whatever comes before it has to be decoded too."""
_SHORTEST_SAMPLES = 2048
"""Below, a mel distance says nothing."""

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One player."""

    flac: bytes
    """16 bits, at the codec's rate."""
    seconds: float
    sample_rate: int
    """In Hz."""
    png: bytes
    """Its spectrogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row, as audio."""

    id: str
    row_seconds: float
    """Of the whole row; a clip is its beginning."""
    decoded: Clip
    original: Clip | None
    missing: str | None
    """Why there is no original."""
    si_snr_db: float | None
    """Scale-invariant signal-to-noise ratio of the clip; None without an original, and of silence."""
    mel_distance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A unit that samples are taken from."""

    generation: int
    unit_id: str
    paths: tuple[str, ...]


def draw_samples(
    storage: Storage, *, recipe: ResolvedRecipe, plans: Sequence[PlanSummary], number: int, model: str | None = None
) -> tuple[list[Sample], list[str]]:
    """Decode some rows, and their originals where these can still be read.

    The same output gives the same samples.

    Args:
        storage: The output.
        recipe: Of the output.
        plans: Of the output.
        number: How many.
        model: Where the codec is now; None: where the recipe says.

    Returns:
        The samples, and a line for each thing that kept one from being made.
    """
    if number <= 0:
        return [], []
    if recipe.has_unknown_codec:
        return [], ["these codes were imported without a codec, so that nothing here can decode them"]
    try:
        facts = _same_codec(recipe, model=model)
    except ConfigError as error:
        return [], [f"no sample could be decoded: {error}"]
    samples, notes = list[Sample](), list[str]()
    by_number = {plan.generation: plan for plan in plans}
    units = _draw_units(storage, plans, number=number)
    for place, drawn in enumerate(units):
        wanted = number // len(units) + (place < number % len(units))
        try:
            for row in _rows_of(storage, drawn, number=wanted, sample_rate=facts.sample_rate):
                samples.append(
                    _sample(storage, row, drawn, plan=by_number[drawn.generation], recipe=recipe, facts=facts)
                )
        except (IntegrityError, FileNotFoundError) as error:
            notes.append(f"samples of unit {drawn.unit_id} could not be read: {error}")
    return samples, notes


def _same_codec(recipe: ResolvedRecipe, *, model: str | None) -> CodecFacts:
    named = recipe.codec.model_copy(update={"precision": "fp32"})
    if model is not None:
        named = named.model_copy(update={"model": model, "revision": None})
    facts = describe_codec(named)
    if facts.weights_sha256 != recipe.weights_sha256:
        raise ConfigError(
            f"{named.model!r} has weights {facts.weights_sha256[:16]}…, the output needs "
            f"{recipe.weights_sha256[:16]}…; give the codec that made it with --model"
        )
    return facts


def _draw_units(storage: Storage, plans: Sequence[PlanSummary], *, number: int) -> list[_Drawn]:
    """Units with rows, as good as drawn: their ids are hashes."""

    def with_rows() -> Iterator[_Drawn]:
        numbers = [plan.generation for plan in plans]
        for commit in read_all_commits(storage, numbers, receipts=read_receipts(storage)):
            if commit.num_rows:
                paths = tuple(file.path for file in commit.shards)
                yield _Drawn(generation=commit.generation, unit_id=commit.unit_id, paths=paths)

    return heapq.nsmallest(number, with_rows(), key=lambda drawn: (drawn.unit_id, drawn.generation))


def _rows_of(storage: Storage, drawn: _Drawn, *, number: int, sample_rate: int) -> Iterator[StoredRow]:
    """Rows of a unit, evenly spread over it."""
    ids, early = list[str](), list[str]()
    for path in drawn.paths:
        for batch in read_batches(storage, path, columns=("id", "start_sample")):
            starts = batch.column("start_sample").to_numpy()
            ids += batch.column("id").to_pylist()
            early += batch.column("id").filter(starts < LATEST_START_SECONDS * sample_rate).to_pylist()
    choice = early or ids
    for place in np.unique(np.linspace(0, len(choice) - 1, min(number, len(choice))).round().astype(int)):
        row = find_row(storage, drawn.paths, row_id=choice[place])
        if row is not None:
            yield row


def _sample(
    storage: Storage, row: StoredRow, drawn: _Drawn, *, plan: PlanSummary, recipe: ResolvedRecipe, facts: CodecFacts
) -> Sample:
    num_samples = int(row.columns["num_samples"])
    limit = min(num_samples, round(CLIP_SECONDS * facts.sample_rate))
    decoded = _decoded(row, facts=facts, recipe=recipe, num_samples=num_samples, limit=limit)
    try:
        original = _original(storage, row, drawn, plan=plan, recipe=recipe, facts=facts, limit=limit)
        missing = None
    except (ItemError, ConfigError, TransientError, FileNotFoundError) as error:
        original, missing = None, getattr(error, "message", None) or str(error)
    snr, mel = (None, None) if original is None else _compare(original, decoded, sample_rate=facts.sample_rate)
    levels = [band_levels(each, sample_rate=facts.sample_rate) for each in (decoded, original) if each is not None]
    loudest = max(float(each.max()) for each in levels)
    clips = [
        Clip(
            flac=_flac(waveform, sample_rate=facts.sample_rate),
            seconds=waveform.shape[1] / facts.sample_rate,
            sample_rate=facts.sample_rate,
            png=png_of_levels(level, loudest_db=loudest),
        )
        for waveform, level in zip((decoded, original), levels, strict=False)
        if waveform is not None
    ]
    return Sample(
        id=row.id,
        row_seconds=num_samples / facts.sample_rate,
        decoded=clips[0],
        original=clips[1] if len(clips) > 1 else None,
        missing=missing,
        si_snr_db=snr,
        mel_distance=mel,
    )


def _decoded(row: StoredRow, *, facts: CodecFacts, recipe: ResolvedRecipe, num_samples: int, limit: int) -> Waveform:
    """The beginning of what the codes of a row give, float32 [C, limit]."""
    from tokenizer_jobs.encoding import decode_in_blocks

    named = recipe.codec.model_copy(
        update={"precision": "fp32", "model": facts.name, "revision": facts.revision or recipe.codec.revision}
    )
    blocks = decode_in_blocks(named, row.encoded, num_samples=num_samples, device="auto")
    return _beginning(blocks, limit)


def _original(
    storage: Storage,
    row: StoredRow,
    drawn: _Drawn,
    *,
    plan: PlanSummary,
    recipe: ResolvedRecipe,
    facts: CodecFacts,
    limit: int,
) -> Waveform:
    """The beginning of the audio that a row stands for, float32 [C, limit], at the codec's rate.

    Raises:
        ItemError: the source does not have it any more, or it cannot be decoded now.
        ConfigError: the source cannot be opened, or no planned item has the row.
        TransientError: the storage failed.
    """
    placed = placed_row(row.columns, per_channel=recipe.audio.channels == "each")
    item = _item_of(storage, placed, drawn)
    selection = plan.read_selection()
    target = AudioTarget.for_codec(facts, audio=recipe.audio, filters=selection.filters)
    steps = decode_items([(0, item)], source=make_source(selection.source), target=target)

    def pieces() -> Iterator[Waveform]:
        for step in steps:
            if isinstance(step, RejectedItem):
                raise ItemError(step.message, stage=step.stage, reason=step.reason)
            if (step.place.channel, step.place.slice_index) == (placed.place.channel, placed.place.slice_index):
                yield step.float_waveform()

    with closing(steps):  # type: ignore[type-var]
        return _beginning(pieces(), limit)


def _item_of(storage: Storage, placed: PlacedRow, drawn: _Drawn) -> Item:
    for unit in read_units(storage, drawn.generation):
        if unit.unit_id == drawn.unit_id:
            for item in unit.items:
                if item.id == placed.item_id:
                    return item
    raise ConfigError(f"no planned item has the row {placed.id!r}; `tokenizer-jobs verify` says what is wrong")


def _beginning(pieces: Iterator[Waveform], limit: int) -> Waveform:
    found, num_samples = list[Waveform](), 0
    for piece in pieces:
        found.append(np.asarray(piece, dtype=np.float32)[:, : limit - num_samples])
        num_samples += found[-1].shape[1]
        if num_samples >= limit:
            break
    if not found:
        raise ConfigError("the recording does not have this part any more")
    return np.concatenate(found, axis=1)


def _compare(original: Waveform, decoded: Waveform, *, sample_rate: int) -> tuple[float | None, float | None]:
    import torch

    from encodec_core.training import MultiScaleMelLoss, si_snr

    length = min(original.shape[1], decoded.shape[1])
    if length < _SHORTEST_SAMPLES or original.shape[0] != decoded.shape[0] or not original.any():
        return None, None
    reference, estimate = (
        torch.from_numpy(np.ascontiguousarray(each[None, :, :length])) for each in (original, decoded)
    )
    with torch.no_grad():
        return float(si_snr(reference, estimate).mean()), float(MultiScaleMelLoss(sample_rate)(reference, estimate))


def _flac(waveform: Waveform, *, sample_rate: int) -> bytes:
    import soundfile

    content = io.BytesIO()
    samples = np.clip(waveform.T, -1.0, 1.0)
    with soundfile.SoundFile(
        content, "w", samplerate=sample_rate, channels=waveform.shape[0], format="FLAC", subtype="PCM_16"
    ) as file:
        file.write(samples)
    return content.getvalue()
