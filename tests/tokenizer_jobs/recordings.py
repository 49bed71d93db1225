"""Recordings as decoding gives them, and reduced codecs that encode them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from tests.encodec_core.models import waveforms
from tests.tokenizer_jobs.factories import make_facts
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding import EncodecCodec, Waveform, load_codec
from tokenizer_jobs.records import DecodedItem, DecodedStretch, RowPlace


@cache
def load(models: Path, name: str) -> EncodecCodec:
    return load_codec(CodecRecipe(model=str(models / name), bandwidth_kbps=6.0), device="cpu")


@cache
def audio(name: str, num_samples: int, number: int = 0) -> Waveform:
    made: Waveform = waveforms(name, num_samples, batch_size=number + 1)[number].numpy()
    return made


def slices(whole: Waveform, slice_samples: int | None) -> list[tuple[RowPlace, Waveform]]:
    """The rows of a recording, each with its audio."""
    size = slice_samples or whole.shape[1]
    starts = range(0, whole.shape[1], size)
    return [
        (RowPlace(slice_index=index, start_sample=start), whole[:, start : start + size])
        for index, start in enumerate(starts)
    ]


def stretches(
    whole: Waveform,
    cuts: Sequence[int] = (),
    *,
    slice_samples: int | None = None,
    channel: int | None = None,
    position: int = 0,
) -> list[DecodedStretch]:
    """A recording in stretches, cut at rows and at `cuts`; the last of them ends the item."""
    made: list[DecodedStretch] = []
    for place, row in slices(whole, slice_samples):
        inside = [cut - place.start_sample for cut in sorted(cuts)]
        pieces = np.split(row, [cut for cut in inside if 0 < cut < row.shape[1]], axis=1)
        for number, piece in enumerate(pieces, 1):
            facts = make_facts(1, num_samples=row.shape[1]) if number == len(pieces) else None
            at = replace(place, channel=channel)
            made.append(DecodedStretch(position=position, waveform=piece, place=at, facts=facts, is_last=False))
    made[-1] = replace(made[-1], is_last=True)
    return made


def items(whole: Waveform, *, slice_samples: int | None = None, position: int = 0) -> list[DecodedItem]:
    """A recording as rows that are encoded afresh."""
    rows = slices(whole, slice_samples)
    return [
        DecodedItem(
            position=position,
            waveform=row,
            facts=make_facts(1, num_samples=row.shape[1]),
            place=place,
            is_last=number == len(rows),
        )
        for number, (place, row) in enumerate(rows, 1)
    ]
