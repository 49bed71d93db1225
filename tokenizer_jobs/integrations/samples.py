"""Samples that are decoded already, through the same channels, resampler, checks and levels as files.

Legend: C channels, n samples.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.decode.parts import ItemPart, rejected
from tokenizer_jobs.decode.readers import BLOCK_VALUES
from tokenizer_jobs.decode.verdicts import refuse_facts
from tokenizer_jobs.errors import ConfigError, ItemError
from tokenizer_jobs.integrations.audio_columns import Samples
from tokenizer_jobs.records import Decoded, Item

__all__ = ["decode_samples"]


def decode_samples(samples: Samples, *, item: Item, position: int, target: AudioTarget) -> Iterator[Decoded]:
    """Make the row of one item from samples, as decoding makes it from a file.

    Args:
        samples: The recording.
        item: What it stands for.
        position: Of the item in its unit.
        target: What it is made into.

    Raises:
        ConfigError: a decoder has mixed the channels that a stereo codec is to have.
    """
    _refuse_lost_stereo(samples, target)
    reader = _SampleReader(samples)
    try:
        refuse_facts(reader, target)
    except ItemError as error:
        yield rejected(position, error)
        return
    part = ItemPart(position, item, index=0, reader=reader, target=target, overlap_frames=0)
    if not part.is_finished:
        part.begin(np.float32)
        at = 0
        for block in reader.blocks(np.float32, block_values=BLOCK_VALUES):
            part.take(block, at=at)
            at += len(block)
            if part.is_finished:
                break
            yield from part.take_ready()
        if not part.is_finished:
            part.end(at, why_short=None, damage=None)
    yield from part.take_ready()


def _refuse_lost_stereo(samples: Samples, target: AudioTarget) -> None:
    num_channels = samples.waveform.shape[0]
    if target.channels == 1 or target.channel_policy == "mono" or num_channels >= (samples.source_channels or 0):
        return
    raise ConfigError(
        f"a decoder gives {num_channels} channels of a recording that has {samples.source_channels} to a stereo codec; "
        "cast the column to Audio() without num_channels, or ask for channels = 'mono'"
    )


class _SampleReader:
    """A `decode.readers.Reader` over samples in memory."""

    def __init__(self, samples: Samples) -> None:
        self._waveform = samples.waveform
        self.sample_rate = samples.sample_rate
        self.channels, num_frames = samples.waveform.shape
        self.num_frames: int | None = num_frames
        self.source_format = f"array/{samples.waveform.dtype}"
        self.is_pcm16 = False
        self.can_seek = False

    def blocks(
        self,
        dtype: type[np.generic],
        *,
        block_values: int,
        first_frame: int = 0,
    ) -> Iterator[npt.NDArray[np.generic]]:
        """Samples [n, C] as float32 in blocks of about `block_values` values."""
        assert dtype is np.float32, "whole numbers are scaled here"
        assert first_frame == 0, "read from the beginning"
        num_frames = max(1, block_values // max(1, self.channels))
        for start in range(0, self._waveform.shape[1], num_frames):
            yield _as_float(self._waveform[:, start : start + num_frames].T)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _as_float(block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            return block.astype(np.float32)
    full_scale = np.float32(2.0 ** (8 * block.dtype.itemsize - 1))
    scaled = block.astype(np.float32) / full_scale
    return scaled - np.float32(1) if block.dtype.kind == "u" else scaled
