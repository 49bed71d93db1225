"""Which channels of a source become which channels of the codec. Mixing comes before resampling.

Legend: n samples, C channels of the codec, c channels of the source.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import ItemError, RejectReason, Stage

__all__ = ["ChannelMix", "choose_channels", "choose_rows"]

ALL_CHANNELS = -1
MOST_ROWS = 64
"""Channels that may be rows of their own; a header that claims more is damaged, or no recording of voices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMix:
    """What happens to the channels of one item."""

    channel: int
    """The one that is picked, or -1 for a mix or all of them."""
    mean: bool
    """Whether several channels are mixed into one."""
    copies: int
    """How often the result is repeated to fill the codec's channels."""

    def apply(self, block: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Mix [n, c] into [n, C / copies], keeping its type unless channels are mixed."""
        if self.channel != ALL_CHANNELS:
            return block[:, self.channel : self.channel + 1]
        if not self.mean:
            return block
        if block.shape[1] == 2 and block.dtype == np.float32:
            # numpy's mean over so short an axis takes as long as decoding mp3; the samples are the same to the bit.
            pair = cast(npt.NDArray[np.float32], block)
            total = pair[:, :1] + pair[:, 1:]
            total += 0.0  # two negative zeros have the mean 0
            total *= 0.5
            return total
        mean: npt.NDArray[np.float32] = block.mean(axis=1, dtype=np.float32, keepdims=True)
        return mean


def choose_channels(*, source_channels: int, codec_channels: int, policy: str) -> ChannelMix:
    """Apply the channel policy to one item.

    Args:
        source_channels: As stored, at least 1.
        codec_channels: 1 or 2.
        policy: `auto`, `mono`, `stereo`, `first`, `left` or `right`.

    Raises:
        ItemError: the policy has no rule for that many channels.
    """
    if policy in ("first", "left", "right"):
        channel = 1 if policy == "right" else 0
        if channel >= source_channels:
            raise _unsupported(source_channels, policy, "at least 2")
        return ChannelMix(channel=channel, mean=False, copies=codec_channels)
    if policy in ("auto", "stereo") and source_channels > 2:
        raise _unsupported(source_channels, policy, "1 or 2")
    if policy == "mono" or codec_channels == 1:
        return ChannelMix(channel=ALL_CHANNELS, mean=source_channels > 1, copies=codec_channels)
    return ChannelMix(channel=ALL_CHANNELS, mean=False, copies=codec_channels // source_channels)


def choose_rows(
    *, source_channels: int, codec_channels: int, policy: str, channel: int | None
) -> tuple[ChannelMix, ...]:
    """Apply the channel policy to one item: one mix for each of its rows, of several under `each` alone.

    Args:
        source_channels: As stored, at least 1.
        codec_channels: 1 or 2.
        policy: `recipe.audio.channels`.
        channel: That the item names, from 0; None: the policy decides.

    Raises:
        ItemError: the policy has no rule for that many channels, or the item's channel is not there.
    """
    if channel is not None:
        if not 0 <= channel < source_channels:
            raise ItemError(
                f"channel {channel} of a recording with {source_channels}, counted from 0",
                stage=Stage.DECODE,
                reason=RejectReason.OUTSIDE,
            )
        return (ChannelMix(channel=channel, mean=False, copies=codec_channels),)
    if policy != "each":
        return (choose_channels(source_channels=source_channels, codec_channels=codec_channels, policy=policy),)
    if source_channels > MOST_ROWS:
        raise _unsupported(source_channels, policy, f"at most {MOST_ROWS}")
    return tuple(ChannelMix(channel=row, mean=False, copies=codec_channels) for row in range(source_channels))


def _unsupported(source_channels: int, policy: str, expected: str) -> ItemError:
    return ItemError(
        f"{source_channels} channels, expected {expected} under recipe.audio.channels = {policy}; "
        "choose mono (the mean of all) or first to take such files",
        stage=Stage.DECODE,
        reason=RejectReason.UNSUPPORTED_CHANNELS,
    )
