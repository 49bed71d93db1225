"""Samples to look at and to listen to: what the codec heard, beside what its codes give back."""

from collections.abc import Sequence

from tokenizer_jobs.report.maps import sound
from tokenizer_jobs.report.markup import Markup, data_uri, section, tag
from tokenizer_jobs.report.samples import Clip, Sample

__all__ = ["samples_section"]


def samples_section(samples: Sequence[Sample], *, notes: Sequence[str], asked: int) -> Markup:
    """Players side by side, with their spectrograms."""
    told = [tag("p", note, class_="callout") for note in notes]
    if not samples:
        words: tuple[str, ...] = ("There is no row to listen to.",)
        if not asked:
            why = "Audio may be private, so that none is in this page unless it is asked for: "
            words = (why, tag("code", "tokenizer-jobs report OUTPUT --samples 8"), " adds eight rows.")
        return section("samples", "Samples", *told, tag("p", *words, class_="empty"))
    note = (
        "Left what the codec heard, at its own rate and channels; right what its codes give back. The mel distance "
        "compares spectra: lower is closer. SI-SNR compares waveforms, so that noise has a low one however it sounds: "
        "higher is closer. Spectrograms of a pair share one scale of brightness, over 80 dB."
    )
    return section("samples", "Samples", *told, tag("p", note, class_="note"), *map(_sample, samples))


def _sample(sample: Sample) -> Markup:
    facts = [f"{sample.row_seconds:.2f} s"]
    if sample.decoded.seconds < sample.row_seconds - 0.01:
        facts = [f"the first {sample.decoded.seconds:.2f} s of {sample.row_seconds:,.2f} s"]
    if sample.si_snr_db is not None:
        facts.append(f"SI-SNR {sample.si_snr_db:.1f} dB")
    if sample.mel_distance is not None:
        facts.append(f"mel distance {sample.mel_distance:.2f}")
    original = (
        tag("div", tag("h4", "Original"), tag("p", f"not at hand: {sample.missing}", class_="empty"))
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
    told = f"Spectrogram of {row_id}, {name}: {clip.seconds:.2f} seconds from left to right, low to high frequency"
    picture = data_uri(clip.png, kind="image/png")
    player = tag(
        "audio",
        controls="controls",
        preload="metadata",
        src=data_uri(clip.flac, kind="audio/flac"),
        aria_label=f"{row_id}, {name}",
        data_seconds=f"{clip.seconds:.4f}",
    )
    shown = sound(picture, label=told, seconds=clip.seconds, sample_rate=clip.sample_rate)
    return tag("div", tag("h4", name.capitalize()), shown, player)
