"""What is said against a recording, or against a part of it, before and after its samples are read."""

from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.parts import ItemPart
from tokenizer_jobs.decode.readers import Reader
from tokenizer_jobs.decode.target import AudioTarget
from tokenizer_jobs.errors import ItemError, RejectReason, Stage

__all__ = ["refuse_cut", "refuse_damage", "refuse_facts", "truncated_item", "why_short"]

_SAMPLE_RATES = range(100, 1_000_001)
"""What a recording may claim; beyond it a header is damaged, and a resampler's filter would grow without bound."""


def refuse_facts(reader: Reader, target: AudioTarget) -> None:
    """Refuse a recording by what its header says."""
    if reader.sample_rate not in _SAMPLE_RATES or reader.channels < 1:
        raise _corrupt(f"{reader.sample_rate} Hz and {reader.channels} channels, expected 100 to 1,000,000 Hz")
    if target.min_sample_rate is not None and reader.sample_rate < target.min_sample_rate:
        raise ItemError(
            f"{reader.sample_rate} Hz, below selection.filters.min_sample_rate = {target.min_sample_rate}",
            stage=Stage.FILTER,
            reason=RejectReason.LOW_SAMPLE_RATE,
        )


def refuse_damage(inspection: Inspection, target: AudioTarget) -> None:
    """Refuse a whole recording by what its container says."""
    if inspection.truncation is not None and target.on_truncated == "reject":
        raise truncated_item(inspection.truncation)
    if inspection.damage is not None:
        raise _corrupt(inspection.damage)


def refuse_cut(part: ItemPart, seen: Inspection, reader: Reader) -> None:
    """Refuse a cut that reaches into what is known to be damaged or lost; see `cuts`."""
    sound = seen.sound_frames
    if sound is None:
        return
    if seen.promised_rate is not None:
        sound = sound * reader.sample_rate // seen.promised_rate
    if seen.damage is not None and (part.settled_at is None or part.settled_at > sound):
        raise _corrupt(seen.damage)
    if seen.truncation is not None and part.span.first >= sound:
        raise truncated_item(seen.truncation)


def why_short(num_frames: int, reader: Reader, seen: Inspection) -> str | None:
    """Why audio must be missing from a recording that seemed whole, going by the number of its samples."""
    promised = seen.promised_frames if seen.promised_frames is not None else reader.num_frames or 0
    if seen.promised_rate is not None:
        promised = promised * reader.sample_rate // seen.promised_rate
    promised -= seen.tolerance_frames
    return f"{num_frames} samples decoded, expected {promised}" if num_frames < promised else None


def truncated_item(message: str) -> ItemError:
    """The error of an item that is shorter than was promised."""
    return ItemError(message, stage=Stage.DECODE, reason=RejectReason.TRUNCATED)


def _corrupt(message: str) -> ItemError:
    return ItemError(message, stage=Stage.DECODE, reason=RejectReason.CORRUPT)
