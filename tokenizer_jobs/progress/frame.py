"""What a terminal shows of a run at one moment, as lines: pure functions.

    12.41 h of 40.00 h ━━━━━━━━━━━━━━━━━─────────────────────────────────────  31 %
    73 × real time · 22 min 40 s left · 12/40 units · 27.59 h to do · 2 rejects · 10 min 12 s so far
    decode ━━━━━━━━━━━━━━━━━─────────────────────────────────────  31 %
    encode ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━─────────────────────  62 %
    write  ━─────────────────────────────────────────────────────   2 %
    encoders: encoder-0 encoding 2 units · encoder-1 loading

The bars of stages are shares of the time of the latest units: waiting for their audio to be decoded, with the codec or
in its queue, being written.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from tokenizer_jobs.wording import audio_text, count_text, span_text, speed_text

if TYPE_CHECKING:
    from tokenizer_jobs.results import Progress
    from tokenizer_jobs.watch import EncoderNow

__all__ = ["Scene", "frame"]

STAGES: Mapping[str, tuple[str, ...]] = {
    "decode": ("decode_wait",),
    "encode": ("encode", "encode_wait"),
    "write": ("write",),
}
"""Of a commit's stages, by the name of their bar."""
MOST_NAMED = 8
"""Encoders that are shown one by one; of more only those are named that do not work."""
SHOWN_BAR = 60
"""Columns of the longest bar of a stage."""
_FULL, _EMPTY = "━", "─"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that is known at one moment."""

    progress: "Progress | None"
    """The last report; None before the first."""
    elapsed_seconds: float
    """Since the run began."""
    speed: float | None = None
    """Hours of audio per hour."""
    eta_seconds: float | None = None
    encoders: "Sequence[EncoderNow] | None" = None
    """None where nobody can say what they do."""
    stage_shares: Mapping[str, float] | None = None
    """Of the latest units; None before the first."""
    stop_seconds_left: float | None = None
    """Until what is in hand is given up; None as long as nobody asked to stop."""
    note: str = ""
    """A line that somebody has not ended yet, such as the bar of a download."""


def frame(scene: Scene, *, columns: int, rows: int) -> list[Text]:
    """The lines of a moment, each within the columns, and fewer than the rows; what matters least is left out first.

    Args:
        scene: The moment.
        columns: Of the terminal.
        rows: Of the terminal.
    """
    width = max(8, columns - 1)  # a line that fills the last column wraps on some terminals
    lines = [_note(scene.note, width), *_stopping(scene, width), *_work(scene, width)]
    shown = [line for line in lines if line is not None][: max(1, rows - 1)]
    for line in shown:
        line.truncate(width, overflow="ellipsis")
    return shown


def _note(note: str, width: int) -> Text | None:
    return Text(note[:width], "dim") if note else None


def _stopping(scene: Scene, width: int) -> list[Text]:
    if scene.stop_seconds_left is None:
        return []
    left = span_text(scene.stop_seconds_left)
    facts = ["stopping", f"units in hand may end, {left} at most", "Ctrl-C again gives them up"]
    return _wrapped(facts, width, style="yellow")


def _work(scene: Scene, width: int) -> list[Text]:
    progress = scene.progress
    if progress is None or progress.units == 0:
        doing = "starting" if progress is None else "planning"
        return [Text(f"{doing} · {span_text(scene.elapsed_seconds)}")]
    return [
        _head(progress, width),
        *_wrapped(_facts(scene, progress), width),
        *_stages(scene.stage_shares, width),
        *_encoders(scene.encoders, width, is_done=_is_done(progress)),
    ]


def _is_done(progress: "Progress") -> bool:
    """Whether no unit of the generation is left: estimates of its hours may say something else."""
    return progress.units_committed >= progress.units


def _head(progress: "Progress", width: int) -> Text:
    """Hours that are done, as words and as a bar."""
    total, done = progress.hours_total, progress.hours_done
    share = 1.0 if _is_done(progress) else min(done / total, 1.0) if total > 0 else 0.0
    words = f"{audio_text(done)} of {audio_text(total)} "
    return _bar(words, share, columns=width - len(words), style="green")


def _facts(scene: Scene, progress: "Progress") -> list[str]:
    """In the order of their weight: a low terminal shows the first."""
    is_done = _is_done(progress)
    left = "finishing" if is_done else None if scene.eta_seconds is None else f"{span_text(scene.eta_seconds)} left"
    to_do = max(0.0, progress.hours_total - progress.hours_done)
    facts = [
        None if scene.speed is None else speed_text(scene.speed),
        left,
        f"{progress.units_committed:,}/{count_text(progress.units, 'unit')}",
        None if is_done or not progress.hours_done else f"{audio_text(to_do)} to do",
        count_text(progress.rejects, "reject") if progress.rejects else None,
        f"{span_text(scene.elapsed_seconds)} so far",
    ]
    return [fact for fact in facts if fact is not None]


def _stages(shares: Mapping[str, float] | None, width: int) -> list[Text]:
    if not shares:
        return []
    label = max(map(len, STAGES)) + 1
    return [
        _bar(f"{name:<{label}}", sum(shares.get(stage, 0.0) for stage in stages),
             columns=min(width - label, SHOWN_BAR), style="cyan")
        for name, stages in STAGES.items()
    ]  # fmt: skip


def _encoders(encoders: "Sequence[EncoderNow] | None", width: int, *, is_done: bool) -> list[Text]:
    if encoders is None:
        return []
    if not encoders:  # after the work they are gone again
        return [] if is_done else [Text("encoders: none yet", "dim")]
    if len(encoders) <= MOST_NAMED:
        return _wrapped([_one_encoder(one) for one in encoders], width, start="encoders: ", style="dim")
    counts = Counter(str(one.state) for one in encoders)
    facts = [f"{count:,} {state}" for state, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    idle = [f"{one.name} {one.state}" for one in encoders if one.state not in ("encoding", "waiting")]
    facts += idle[:MOST_NAMED] + (["…"] if len(idle) > MOST_NAMED else [])
    return _wrapped(facts, width, start="encoders: ", style="dim")


def _one_encoder(one: "EncoderNow") -> str:
    if one.num_items:
        return f"{one.name} {one.state} {one.num_decoded:,}/{count_text(one.num_items, 'item')}"
    held = f" {count_text(one.num_units, 'unit')}" if one.num_units > 1 else ""
    return f"{one.name} {one.state}{held}"


def _bar(words: str, share: float, *, columns: int, style: str) -> Text:
    """Words, a bar over the columns that are left, and the share in percent."""
    percent = f" {100 * share:3.0f} %"
    length = max(0, columns - len(percent))
    full = min(length, round(share * length))
    return Text.assemble(words, (_FULL * full, style), (_EMPTY * (length - full), "dim"), percent)


def _wrapped(facts: Iterable[str], width: int, *, start: str = "", style: str = "") -> list[Text]:
    """Facts between dots, on as many lines as they need."""
    lines = [start]
    for fact in facts:
        has_fact = lines[-1].strip() and lines[-1] != start
        longer = f"{lines[-1]} · {fact}" if has_fact else lines[-1] + fact
        if len(longer) > width and has_fact:
            lines.append(" " * min(len(start), 2) + fact)
        else:
            lines[-1] = longer
    return [Text(line, style) for line in lines]
