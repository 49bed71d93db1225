"""Lines of lhotse: cuts with their recording inside, and recordings.

A cut that spans its whole recording is the whole recording, which the manifest says lasts so long. Where a cut has some
of the channels of its recording, each of them is an item of its own; a cut of several has `#c<channel>` after its ids.
Of the supervisions `text` (joined by spaces, in order of time), `speaker`, `language` and `gender` (where all agree)
are columns; where there are several, all are in the column `supervisions` as JSON. `custom` is a column as JSON.
Features and what else lhotse keeps beside the audio are left out.

What lhotse would compute on the fly is refused: mixed and padded cuts, transforms of a recording, sources that are
commands or that hold the audio in the manifest, recordings of several files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizer_jobs.sources.manifest.entries import Entry, audio_path, own_id, seconds_of
from tokenizer_jobs.sources.manifest.lines import Line

__all__ = ["LhotseFields"]

_LEAST_SECONDS = 0.5e-3
"""A cut that differs from its recording by less is the whole of it: lhotse rounds times, never to less than that."""
_SHARED = ("speaker", "language", "gender")
_Object = Mapping[str, Any]


class LhotseFields:
    """Lines of lhotse; see `Reader`."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def entries(self, line: Line) -> tuple[Entry, ...]:
        """The items of a cut or of a recording."""
        columns = _columns(line.fields)
        self.names.update(columns)
        if isinstance(line.fields.get("sources"), list):
            return (_whole(line, columns),)
        recording = line.fields.get("recording")
        if isinstance(recording, dict):
            return tuple(_cuts(line, recording, columns))
        kind = line.fields.get("type") or ("MixedCut" if "tracks" in line.fields else "unknown")
        raise line.fault(
            f"a cut of type {kind} without a recording of its own; expected recordings, or cuts of type MonoCut or "
            "MultiCut with their recording, so save mixed and padded cuts as audio first"
        )


def _whole(line: Line, columns: _Object) -> Entry:
    source = _source(line, line.fields)
    return Entry(
        path=audio_path(line, "sources[0].source", source.get("source")),
        id=own_id(line, "id"),
        start_seconds=None,
        duration_seconds=_recording_seconds(line, line.fields),
        columns=columns,
    )


def _cuts(line: Line, recording: _Object, columns: _Object) -> Iterator[Entry]:
    item_id, source = own_id(line, "id"), _source(line, recording)
    path = audio_path(line, "recording.sources[0].source", source.get("source"))
    start, duration = seconds_of(line, "start") or 0.0, seconds_of(line, "duration")
    total = _recording_seconds(line, recording)
    is_whole = start == 0 and total is not None and (duration is None or abs(duration - total) < _LEAST_SECONDS)
    channels = _some_channels(line, source, recording)
    ids = [item_id] if len(channels) < 2 else [f"{item_id}#c{channel}" for channel in channels]
    places: list[int | None] = [*channels.values()] or [None]
    for cut_id, place in zip(ids, places, strict=True):
        yield Entry(
            path=path,
            id=cut_id,
            start_seconds=None if is_whole else start,
            duration_seconds=total if duration is None and is_whole else duration,
            channel=place,
            columns=columns,
        )


def _some_channels(line: Line, source: _Object, recording: _Object) -> dict[int, int]:
    """The cut's channels with their places in the file, where the file has others as well; else none."""
    value = line.fields.get("channel")
    channels = value if isinstance(value, list) else [] if value is None else [value]
    there = (
        source.get("channels") or recording.get("channel_ids") or list(range(max([0, *_whole_numbers(channels)]) + 1))
    )
    if not isinstance(there, list) or _whole_numbers(channels) != channels or _whole_numbers(there) != there:
        raise line.fault(f"channel = {value!r:.200} of channels {there!r:.200}; expected integers of 0 or more")
    missing = [channel for channel in channels if channel not in there]
    if missing:
        raise line.fault(f"channel = {value!r:.200}; its recording has the channels {there!r:.200}, so mend the line")
    if not channels or set(channels) == set(there):
        return {}
    return {channel: there.index(channel) for channel in channels}


def _whole_numbers(values: Sequence[Any]) -> list[int]:
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool) and value >= 0]


def _source(line: Line, recording: _Object) -> _Object:
    """The one file of a recording."""
    sources = recording.get("sources")
    if not isinstance(sources, list) or not sources or not all(isinstance(source, dict) for source in sources):
        raise line.fault(f"sources = {sources!r:.200}; expected a list with the recording's one file")
    if len(sources) > 1:
        raise line.fault(
            f"its recording {recording.get('id')!r:.200} has {len(sources)} files; expected one with all channels "
            "inside, so merge them"
        )
    kind = sources[0].get("type")
    if kind not in ("file", "url"):
        advice = "a command is not run; " if kind == "command" else ""
        raise line.fault(f"sources[0].type = {kind!r:.200}; expected file or url: {advice}save the audio as a file")
    if recording.get("transforms"):
        raise line.fault(
            f"its recording {recording.get('id')!r:.200} has transforms, which are not applied here; expected audio as "
            "it is stored, so save the transformed audio"
        )
    found: _Object = sources[0]
    return found


def _recording_seconds(line: Line, recording: _Object) -> float | None:
    return seconds_of(Line(line.manifest, line.number, dict(recording), line.is_text), "duration")


def _columns(fields: _Object) -> dict[str, Any]:
    columns = _supervision_columns(fields.get("supervisions") or [])
    if fields.get("custom"):
        columns["custom"] = _as_json(fields["custom"])
    return columns


def _supervision_columns(supervisions: Any) -> dict[str, Any]:
    if not isinstance(supervisions, list) or not all(isinstance(one, dict) for one in supervisions):
        return {"supervisions": _as_json(supervisions)}
    ordered = sorted(supervisions, key=lambda one: one["start"] if isinstance(one.get("start"), int | float) else 0.0)
    texts = [one["text"] for one in ordered if isinstance(one.get("text"), str)]
    columns: dict[str, Any] = {"text": " ".join(texts)} if texts else {}
    for name in _SHARED:
        values = [one.get(name) for one in ordered]
        if values and values[0] is not None and all(value == values[0] for value in values):
            columns[name] = values[0]
    if len(supervisions) > 1:
        columns["supervisions"] = _as_json(supervisions)
    return columns


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
