"""The errors of the service, drawn by who must act, and the closed list of reasons for a reject.

    TokenizerJobsError
    ├── ConfigError            the user: a value, a path, a clash of recipes
    │   └── OutputBusyError    the user: another live run holds the output
    ├── ItemError              nobody: the item becomes a reject with this reason
    ├── TransientError         the retry loop: storage or a worker failed, trying again may work
    └── IntegrityError         a person, at once: what is stored contradicts itself
        └── NewerFormatError   the user: a newer version of this package wrote it

Every class keeps its message as the only required argument, or says in `__reduce__` how it is rebuilt, so that
all of them survive pickling between processes.
"""

from enum import StrEnum
from typing import Any

__all__ = [
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_STOPPED",
    "ConfigError",
    "IntegrityError",
    "ItemError",
    "NewerFormatError",
    "OutputBusyError",
    "RejectReason",
    "Stage",
    "TokenizerJobsError",
    "TransientError",
]


EXIT_DONE, EXIT_FAILED, EXIT_STOPPED = 0, 1, 75
"""Exit codes of commands: done; refused or faulty; stopped and resumable (EX_TEMPFAIL of sysexits.h)."""


class Stage(StrEnum):
    """Where an item was when it was rejected."""

    READ = "read"
    DECODE = "decode"
    FILTER = "filter"
    ENCODE = "encode"


class RejectReason(StrEnum):
    """Why an item has no row. The list is closed: a new reason is a new format version."""

    VANISHED = "vanished"
    """The input was there when planned and is gone now."""
    CHANGED = "changed"
    """The input's size, etag or modification time is not what was planned."""
    PERMISSION_DENIED = "permission_denied"
    """The input exists and may not be read."""
    UNREADABLE = "unreadable"
    """The storage failed to give the input's bytes, again and again."""
    EMPTY = "empty"
    """The input has no bytes, or its container holds no samples."""
    NOT_AUDIO = "not_audio"
    """No decoder recognises the bytes as audio."""
    CORRUPT = "corrupt"
    """The decoder recognised the format and failed in the middle."""
    TRUNCATED = "truncated"
    """Fewer samples than the container or the manifest promised."""
    NON_FINITE = "non_finite"
    """The decoded samples hold NaN or infinity."""
    ABSURD_PEAK = "absurd_peak"
    """A decoded sample is beyond 4 in magnitude, where full scale is 1: damage, not loudness."""
    UNSUPPORTED_CHANNELS = "unsupported_channels"
    """More channels than the channel policy has a rule for."""
    TOO_SHORT = "too_short"
    """Shorter than `selection.filters.min_seconds`."""
    TOO_LONG = "too_long"
    """Longer than `selection.filters.max_seconds`."""
    SILENT = "silent"
    """A larger share of it is silent than `selection.filters.max_silent_fraction`."""
    CLIPPED = "clipped"
    """A larger share of its samples is clipped than `selection.filters.max_clipped_fraction`."""
    LOW_SAMPLE_RATE = "low_sample_rate"
    """Its sample rate is below `selection.filters.min_sample_rate`."""
    DUPLICATE = "duplicate"
    """Another item has the same bytes (`selection.deduplicate`)."""
    OUTSIDE = "outside"
    """A cut that begins beyond the end of its recording, or a channel that the recording does not have."""
    TIMED_OUT = "timed_out"
    """Decoding it took longer than its size allows, twice while it ran alone."""
    OUT_OF_MEMORY = "out_of_memory"
    """Decoding it took more memory than a decode worker may have, twice while it ran alone."""
    CRASHED_WORKER = "crashed_worker"
    """Its worker process died twice on it while it ran alone."""


class TokenizerJobsError(Exception):
    """Base of every error that the service raises on purpose."""


class ConfigError(TokenizerJobsError):
    """The user must act: the message names the value, what was expected, and what to do."""


class OutputBusyError(ConfigError):
    """Another live run holds the output's lease."""


class TransientError(TokenizerJobsError):
    """Trying again may work: storage or a worker failed."""


class IntegrityError(TokenizerJobsError):
    """What is stored contradicts itself; a person must look before anything else is written."""


class NewerFormatError(IntegrityError):
    """What is stored has a higher format version than this package knows; nothing is wrong with it."""


class ItemError(TokenizerJobsError):
    """One item cannot be tokenized; it becomes a reject and its unit goes on.

    Args:
        message: What was seen and what was expected, for a person.
        stage: Where the item was.
        reason: The entry of the closed list.
    """

    def __init__(self, message: str, *, stage: Stage, reason: RejectReason) -> None:
        super().__init__(message)
        self.message = message
        self.stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _item_error, (self.message, self.stage, self.reason)


def _item_error(message: str, stage: Stage, reason: RejectReason) -> ItemError:
    return ItemError(message, stage=stage, reason=reason)
