"""The card of an output: `README.md` for people and for the hub, `stats.json` for machines; both made anew at will.

A card says by its last line that it is ours, and unchanged. One that somebody else wrote, or has edited, is left alone.
"""

import hashlib
import logging
import re
from pathlib import PurePosixPath

from pydantic import ValidationError

from tokenizer_jobs.catalog import Snapshot, newest_snapshot
from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.logs import log_event
from tokenizer_jobs.planning import PlanSummary
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.report.facts import CodecShown, codec_shown, read_plans
from tokenizer_jobs.report.statistics import Counts, Statistics
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.wording import audio_text, bytes_text

__all__ = [
    "CARD_PATH",
    "COLUMNS_NOTE",
    "PAGE_MARK",
    "PAGE_PATH",
    "STATS_PATH",
    "WINDOWS_NOTE",
    "card_of",
    "facts_table",
    "publish_card",
    "size_category",
    "write_card",
    "write_statistics",
]

CARD_PATH = "README.md"
STATS_PATH = "stats.json"
PAGE_PATH = "report.html"
PAGE_MARK = "tokenizer-jobs report"
"""Near the beginning of every page that is ours."""

_log = logging.getLogger(__name__)

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
_LAST_LINE = re.compile(r"<!-- tokenizer-jobs card ([0-9a-f]{64}) -->\n\Z")


def size_category(num_rows: int) -> str:
    """The hub's word for a number of rows."""
    return next((name for limit, name in _SIZES if num_rows < limit), "n>1B")


def facts_table(facts: dict[str, object]) -> str:
    """A table of Markdown with two columns; what is None is left out."""
    lines = [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def publish_card(storage: Storage, snapshot: Snapshot | None = None) -> None:
    """Leave card and statistics beside a snapshot; what `report` has found out about this very snapshot stays.

    Both are told from records, no shard is read. Where items were dropped, a page from before goes: it may show their
    ids, or let them be heard. A storage that fails is only told of in the log: they can be had
    again by `report`.

    Crash points: each file appears whole, over an older one. Between the two, `stats.json` is newer than the card.

    Args:
        storage: The output.
        snapshot: Just published; None takes the newest.
    """
    try:
        snapshot = newest_snapshot(storage) if snapshot is None else snapshot
        if snapshot is None:
            return
        stored = _stored_statistics(storage)
        is_known = stored is not None and stored.snapshot == snapshot.number
        if stored is not None and is_known and stored.counts.digest == snapshot.facts.digest:
            write_card(storage, stored, snapshot=snapshot)
            return
        statistics = _statistics_of(storage, snapshot)
        if snapshot.facts.dropped and (stored is None or stored.counts.dropped < snapshot.facts.dropped):
            _forget_page(storage)
        _write_if_new(storage, STATS_PATH, to_json(statistics))
        write_card(storage, statistics, snapshot=snapshot)
    except TransientError as error:
        log_event(_log, logging.WARNING, "card_not_written", output=storage.name, detail=str(error))


def write_card(storage: Storage, statistics: Statistics, *, snapshot: Snapshot | None) -> bool:
    """Write the card unless somebody else's is there; whether it is ours now."""
    try:
        found = storage.read_bytes(CARD_PATH)
    except FileNotFoundError:
        return storage.put_if_absent(CARD_PATH, card_of(statistics, snapshot=snapshot).encode())
    if not _is_ours(found):
        return False
    content = card_of(statistics, snapshot=snapshot).encode()
    if content != found:
        storage.replace(CARD_PATH, content)
    return True


def write_statistics(storage: Storage, statistics: Statistics) -> None:
    """Write `stats.json`, over an older one."""
    storage.replace(STATS_PATH, to_json(statistics))


def to_json(statistics: Statistics) -> bytes:
    """The content of `stats.json`."""
    return statistics.model_dump_json().encode() + b"\n"


def card_of(statistics: Statistics, *, snapshot: Snapshot | None) -> str:
    """Text of the card.

    Args:
        statistics: Of the output.
        snapshot: The newest; None before the first: then no file is named for loading.
    """
    counts = statistics.counts
    suffixes = {PurePosixPath(shard.path).suffix for shard in snapshot.shards} if snapshot is not None else set()
    body = [
        _front_matter(counts, snapshot, suffix=min(suffixes, default=None)),
        "# Audio codes",
        f"{counts.rows:,} rows, {counts.frames:,} frames, {audio_text(counts.hours)} of audio as discrete codes.",
        facts_table(_facts(statistics)),
        f"{COLUMNS_NOTE}\n{WINDOWS_NOTE}",
        *([_loading(min(suffixes))] if suffixes else []),
        *_rejects(counts),
        *_use(statistics),
    ]
    text = "\n\n".join(body) + "\n"
    return f"{text}\n<!-- tokenizer-jobs card {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def _is_ours(content: bytes) -> bool:
    text = content.decode("utf-8", "replace")
    found = _LAST_LINE.search(text)
    if found is None:
        return False
    # The empty line before the last one is no part of what is hashed.
    return hashlib.sha256(text[: found.start() - 1].encode()).hexdigest() == found[1]


def _forget_page(storage: Storage) -> None:
    try:
        with storage.open_file(PAGE_PATH) as file:
            is_ours = PAGE_MARK.encode() in file.read(4096)
    except FileNotFoundError:
        return
    if is_ours:
        storage.delete(PAGE_PATH)


def _write_if_new(storage: Storage, path: str, content: bytes) -> None:
    try:
        if storage.read_bytes(path) == content:
            return
    except FileNotFoundError:
        pass
    storage.replace(path, content)


def _stored_statistics(storage: Storage) -> Statistics | None:
    try:
        return Statistics.model_validate_json(storage.read_bytes(STATS_PATH))
    except (FileNotFoundError, ValidationError):  # none yet, or of another version: it is made anew
        return None


def _statistics_of(storage: Storage, snapshot: Snapshot) -> Statistics:
    """What a snapshot's own sums say; the same bytes for the same snapshot."""
    plans, facts = read_plans(storage), snapshot.facts
    return Statistics(
        made_at=facts.created_at,
        snapshot=facts.number,
        counts=Counts(
            state="done",
            items=facts.items,
            rows=facts.rows,
            rejects=facts.rejects,
            filtered=facts.filtered,
            dropped=facts.dropped,
            units=sum(plan.num_units for plan in plans),
            units_committed=facts.units,
            frames=facts.frames,
            hours=facts.hours,
            bytes=facts.bytes,
            digest=facts.digest,
            rejects_by_reason=facts.rejects_by_reason,
            planned_hours=_planned_hours(plans),
        ),
        codec=codec_shown(read_recipe(storage), plans),
    )


def _planned_hours(plans: list[PlanSummary]) -> float:
    return sum(plan.estimated_seconds for plan in plans if not plan.takes_over) / 3600


def _front_matter(counts: Counts, snapshot: Snapshot | None, *, suffix: str | None) -> str:
    configs = []
    if suffix is not None and snapshot is not None:
        configs.append(_config("default", snapshot, path=f"codes/*{suffix}"))
        if counts.rejects:
            configs.append(_config("rejects", snapshot, path=f"rejects/*{suffix}"))
    lines = [
        "---",
        "pretty_name: Audio codes",
        "size_categories:",
        f"- {size_category(counts.rows)}",
        "tags:",
        "- audio",
        "- audio-codes",
        "- encodec",
        *(["configs:", *configs] if configs else []),
        "---",
    ]
    return "\n".join(lines)


def _config(name: str, snapshot: Snapshot, *, path: str) -> str:
    # `datasets` 5.2 keeps what it loaded from a folder under the folder's last name and a hash of this block, of which
    # the files are no part. Without the description another output of that name, or this one once it has grown, gives
    # the rows that were loaded first.
    facts = snapshot.facts
    description = f"snapshot {facts.number} of {facts.created_at.isoformat()}, digest {facts.digest}"
    files = f'  data_files:\n  - split: train\n    path: "{path}"'
    return f'- config_name: {name}\n  description: "{description}"\n{files}'


def _facts(statistics: Statistics) -> dict[str, object]:
    counts, codec = statistics.counts, statistics.codec
    books = None if codec.num_codebooks is None else f"{codec.num_codebooks} of {codec.codebook_size} entries"
    return {
        "codec": _codec_text(codec),
        "weights sha256": codec.weights_sha256,
        "sample rate": None if codec.sample_rate is None else f"{codec.sample_rate} Hz",
        "frames per second": None if codec.frame_rate is None else f"{codec.frame_rate:g}",
        "codebooks": books,
        "bandwidth": None if codec.bandwidth_kbps is None else f"{codec.bandwidth_kbps:g} kbps",
        "precision": codec.precision,
        "size": bytes_text(counts.bytes),
        "rejects": f"{counts.rejects:,} of {counts.items:,} items",
        "snapshot": None if statistics.snapshot is None else f"{statistics.snapshot}, digest {counts.digest}",
    }


def _codec_text(codec: CodecShown) -> str:
    revision = "" if codec.revision is None else f" at {codec.revision}"
    return f"{codec.model}{revision}{', as imported' if codec.imported else ''}"


COLUMNS_NOTE = """`codes` is a list [K, T] of raw code indices: no offsets, no delay, no special tokens. `codes_sha256`
is the hex sha256 of the C-order little-endian uint16 array [K, T]. `num_samples` is the exact length of the audio at
`sample_rate`. The first n codebooks of a row are its codes at a lower bandwidth."""
WINDOWS_NOTE = """`scales` and `window_frames` belong to the windows of a codec and are needed to decode; else they
are null."""


def _loading(suffix: str) -> str:
    glob = f"codes/*{suffix}"
    return f"""## Loading

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train").with_format("numpy")
```

`{glob}` holds the rows of the newest snapshot and no others. For training, `tokenizer_jobs.TokenDataset`
reads the same folder in shuffled crops; `tokenizer-jobs decode` gives back a row's audio, and `tokenizer-jobs verify`
checks every byte."""


def _rejects(counts: Counts) -> list[str]:
    if not counts.rejects:
        return []
    ordered = sorted(counts.rejects_by_reason.items(), key=lambda pair: (-pair[1], pair[0]))
    table = "\n".join(f"| {_cell(reason)} | {count:,} |" for reason, count in ordered)
    return [f"## Rejects\n\nItems without a row; `rejects/` says why.\n\n| reason | items |\n| --- | ---: |\n{table}"]


def _use(statistics: Statistics) -> list[str]:
    """How the codebooks are used, where somebody has looked."""
    content = statistics.content
    if content is None or not content.codebooks:
        return []
    lines = [
        f"| {use.index} | {use.perplexity:,.0f} | {use.entropy_bits:.2f} | {use.dead:,} |" for use in content.codebooks
    ]
    share = f", by {content.shards_read:,} of {content.shards:,} shards" if content.is_sampled else ""
    return [
        f"## Use of the codebooks{share}\n\n| codebook | perplexity | entropy in bits | dead entries |\n"
        "| --- | ---: | ---: | ---: |\n" + "\n".join(lines)
    ]


def _cell(value: object) -> str:
    """Text as a cell of a table: nothing in it is Markdown, and it stays on its line."""
    words = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]<>()#|!~])", r"\\\1", words) if re.search(r"[\\`*\[\]<>|]", words) else words
