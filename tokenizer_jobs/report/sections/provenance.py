"""Where the codes come from: weights, recipe, generations, snapshots."""

import json

from tokenizer_jobs.report.facts import CodecShown, Provenance
from tokenizer_jobs.report.markup import Markup, audio_length, count, listed, section, table, tag
from tokenizer_jobs.wording import count_text

__all__ = ["provenance_section"]


def provenance_section(provenance: Provenance, codec: CodecShown) -> Markup:
    """Everything that another team needs to get the same codes."""
    return section(
        "provenance",
        "Provenance",
        listed((name, tag("code", value)) for name, value in _codec(codec, provenance) if value),
        tag("details", tag("summary", "The recipe"), tag("pre", tag("code", json.dumps(provenance.recipe, indent=2)))),
        tag("h3", "Generations"),
        _generations(provenance),
        tag("h3", "Snapshots"),
        _snapshots(provenance),
    )


def _codec(codec: CodecShown, provenance: Provenance) -> list[tuple[str, str | None]]:
    def shown(value: object, unit: str = "") -> str | None:
        return None if value is None else f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}"

    sizes = None if codec.codebook_size is None else f" of {codec.codebook_size:,} entries"
    books = None if codec.num_codebooks is None else f"{codec.num_codebooks}{sizes or ''}"
    return [
        ("codec", f"{codec.model}{', as imported' if codec.imported else ''}"),
        ("revision", codec.revision),
        ("weights sha256", codec.weights_sha256 or "unknown"),
        ("recipe id", provenance.recipe_id),
        ("sample rate", None if codec.sample_rate is None else f"{codec.sample_rate:,} Hz"),
        ("frames per second", shown(codec.frame_rate)),
        ("codebooks", books),
        ("bandwidth", shown(codec.bandwidth_kbps, " kbps")),
        ("precision", codec.precision),
        ("windows", "scales and window_frames are needed to decode" if codec.windowed else None),
    ]


def _generations(provenance: Provenance) -> Markup:
    if not provenance.generations:
        return tag("p", "Nothing is planned yet.", class_="empty")
    rows = [
        (
            one.number,
            one.cause,
            tag("time", f"{one.created_at:%Y-%m-%d %H:%M}"),
            one.source,
            count(one.items),
            count(one.units),
            ", ".join(f"{name} {version}" for name, version in one.versions.items()),
            one.package_version or "",
        )
        for one in provenance.generations
    ]
    heads = ("generation", "cause", "planned, UTC", "source", "items", "units", "decoders", "package")
    return table(heads, rows, numbers=(0, 4, 5))


def _snapshots(provenance: Provenance) -> Markup:
    older = f"{count_text(provenance.older_snapshots, 'older one')} retired or not shown."
    note = tag("p", older, class_="note") if provenance.older_snapshots else None
    if not provenance.snapshots:
        return tag("div", tag("p", "None yet; a run publishes one when it is done.", class_="empty"), note)
    rows = [
        (
            one.number,
            tag("time", f"{one.created_at:%Y-%m-%d %H:%M}"),
            count(one.rows),
            count(one.rejects),
            audio_length(one.hours),
            tag("code", one.digest, class_="digest"),
        )
        for one in provenance.snapshots
    ]
    heads = ("snapshot", "published, UTC", "rows", "rejects", "audio", "digest")
    return tag("div", table(heads, rows, numbers=(0, 2, 3, 4)), note)
