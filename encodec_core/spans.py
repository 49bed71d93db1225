"""Where the windows of a recording lie."""

from collections.abc import Iterator

__all__ = ["each_window_span", "window_length", "window_spans", "window_stride"]


def window_length(seconds: float | None, *, sampling_rate: int) -> int | None:
    """Return the samples of a window; None: a recording is encoded whole."""
    return None if seconds is None else int(seconds * sampling_rate)


def window_stride(length: int | None, *, overlap: float | None) -> int | None:
    """Return the samples from the start of a window to the start of the next; None: no windows, or no overlap is set.

    Args:
        length: samples of a window.
        overlap: share of a window that the next one repeats.
    """
    if length is None or overlap is None:
        return None
    # Rounded down as in both references: 47,520 for windows of 48,000 that repeat 0.01.
    return max(1, int((1.0 - overlap) * length))


def window_spans(num_samples: int, *, length: int | None, stride: int | None) -> list[slice]:
    """Return where each window of a recording lies: one starts at every multiple of `stride` below `num_samples`.

    At 48 kHz (stride 47,520, window 48,000) a recording whose length mod 47,520 is 1 to 479 ends in two part-filled
    windows:

        0           47520      95040   95140 = end
        |--- 48000 ---|
                    |--- 47620 ---|
                               |- 100 -|

    Args:
        num_samples: of the recording.
        length: samples of a window; None: the recording is one.
        stride: None: windows do not overlap.
    """
    return list(each_window_span(num_samples, length=length, stride=stride))


def each_window_span(num_samples: int, *, length: int | None, stride: int | None) -> Iterator[slice]:
    """Yield what `window_spans` returns, one by one: a file's header may claim any number of samples."""
    if length is None:
        yield slice(0, num_samples)
        return
    for start in range(0, num_samples, stride or length):
        yield slice(start, min(start + length, num_samples))
