"""Which codecs can be streamed, and the layout of what N streams push."""

from torch import Tensor

from encodec_core.config import EncodecConfig

__all__ = ["as_batch", "check_batch_size", "check_streamable", "from_batch", "why_not_streamed"]


def why_not_streamed(config: EncodecConfig) -> str | None:
    """Say why a codec needs the whole recording; None for one with windows, and for a causal one."""
    if config.chunk_length is not None:
        return None
    reasons = {
        "its convolutions are not causal, so that codes depend on audio to come": not config.use_causal_conv,
        "it normalises over the whole recording (norm_type = 'time_group_norm')": config.norm_type != "weight_norm",
        "it divides a recording by its loudness (normalize = True)": config.normalize,
        "it pads a recording with its other end (pad_mode = 'circular')": config.pad_mode == "circular",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def check_streamable(config: EncodecConfig) -> None:
    """Raise a ValueError for a codec that needs the whole recording."""
    reason = why_not_streamed(config)
    if reason is not None:
        raise ValueError(
            f"this {config.sampling_rate} Hz codec cannot be streamed: {reason}, and it has no windows; "
            "use BatchEncoder, whose encode and decode take recordings whole"
        )


def check_batch_size(batch_size: int) -> None:
    """Raise a ValueError unless it is a number of streams."""
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; expected 1 or more streams")


def as_batch(pushed: Tensor, *, batch_size: int) -> Tensor:
    """Return what was pushed as `[N, ..]`: one stream pushes without that dimension."""
    return pushed[None] if batch_size == 1 else pushed


def from_batch(result: Tensor, *, batch_size: int) -> Tensor:
    """Return a result `[N, ..]` in the layout of what was pushed."""
    return result[0] if batch_size == 1 else result
