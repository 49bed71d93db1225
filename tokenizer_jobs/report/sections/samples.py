"""Samples to look at and to listen to: what the codec heard, beside what its codes give back."""

from collections.abc import Sequence

from tokenizer_jobs.report.markup import Markup, data_uri, section, tag
from tokenizer_jobs.report.samples import Clip, Sample

__all__ = ["samples_section"]


def samples_section(samples: Sequence[Sample], *, notes: Sequence[str], asked: int) -> Markup:
    """Players side by side, with their spectrograms."""
    told = [tag("p", note, class_="callout") for note in notes]
    if not samples:
        words = (
            "Audio may be private, so that none is in this page unless it is asked for: `--samples 8` adds eight rows."
            if not asked
            else "There is no row to listen to."
        )
        return section("samples", "Samples", *told, tag("p", words, class_="empty"))
    note = (
        "Left what the codec heard, at its own rate and channels; right what its codes give back. SI-SNR: higher is "
        "closer; mel distance: lower is closer. Clips are the beginnings of their rows."
    )
    return section("samples", "Samples", *told, tag("p", note, class_="note"), *map(_sample, samples))


def _sample(sample: Sample) -> Markup:
    facts = [f"{sample.row_seconds:.2f} s"]
    if sample.si_snr_db is not None:
        facts.append(f"SI-SNR {sample.si_snr_db:.1f} dB")
    if sample.mel_distance is not None:
        facts.append(f"mel distance {sample.mel_distance:.2f}")
    original = (
        tag("div", tag("p", "original"), tag("p", f"not at hand: {sample.missing}", class_="empty"))
        if sample.original is None
        else _side(sample.original, name="original", row_id=sample.id)
    )
    return tag(
        "article",
        tag("h3", tag("bdi", sample.id)),
        tag("p", " · ".join(facts), class_="note"),
        tag("div", original, _side(sample.decoded, name="decoded", row_id=sample.id), class_="sides"),
        class_="sample",
    )


def _side(clip: Clip, *, name: str, row_id: str) -> Markup:
    shown = tag(
        "img",
        src=data_uri(clip.png, kind="image/png"),
        alt=f"Spectrogram of {row_id}, {name}: {clip.seconds:.2f} seconds from left to right, low to high frequency",
    )
    player = tag(
        "audio",
        controls="controls",
        preload="metadata",
        src=data_uri(clip.flac, kind="audio/flac"),
        aria_label=f"{row_id}, {name}",
        data_seconds=f"{clip.seconds:.4f}",
    )
    return tag("div", tag("p", f"{name}, {clip.seconds:.2f} s"), shown, player)
