"""What the fields of a manifest's lines mean. Whose fields they are, the first line of a file says by their names:

    lhotse        an object `recording`, a list `tracks`, or `id` and a list `sources`; see `manifest_lhotse`
    nemo          `audio_filepath`
    audiocraft    `path`, `duration`, `sample_rate`, and `amplitude`, `weight` or `info_path`
    plain         none of these; or `path_column` is set

Where two of the first three would do, `selection.source.format` has to be set. In all but lhotse a line names the path,
and may name where a cut begins and how long it is; a duration without a beginning is what the whole file is said to
last. Of several usual names for one thing the first counts. `sample_rate`, `num_samples` and `duration_seconds` restate
what is stored of every item anyway: they are passed through only where `columns` asks for them.
"""

from dataclasses import dataclass

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.source_config import ManifestSource
from tokenizer_jobs.sources.manifest.entries import Entry, Reader, audio_path, own_id, seconds_of
from tokenizer_jobs.sources.manifest.lhotse import LhotseFields
from tokenizer_jobs.sources.manifest.lines import Line

__all__ = ["reader_of"]

_PATHS = (
    *("path", "file", "filename", "file_name", "file_path", "filepath", "audio", "audio_path", "audio_file"),
    *("audio_filepath", "wav", "wav_path", "uri", "url"),
)
_STARTS = ("start", "offset", "start_seconds", "begin")
_DURATIONS = ("duration", "duration_seconds", "dur", "length_seconds")
_ENDS = ("end", "end_seconds")
_RESTATED = frozenset({"sample_rate", "num_samples", "duration_seconds"})
_MOST_KINDS_OF_LINES = 1024


def reader_of(first: Line, config: ManifestSource) -> Reader:
    """Find out whose fields a file's lines have, by its first line.

    Raises:
        ConfigError: the fields are nobody's, or could be of several.
    """
    dialect = _dialect(first, config)
    if dialect != "lhotse":
        return _Fields(first, config, paths={"nemo": ("audio_filepath",), "audiocraft": ("path",)}.get(dialect, _PATHS))
    for key in ("path_column", "id_column", "start_column", "duration_column"):
        if getattr(config, key) is not None:
            raise ConfigError(
                f"selection.source.{key} = {getattr(config, key)!r} has no effect on {first.manifest}, whose lines "
                "have lhotse's fields; leave it out, or set selection.source.format"
            )
    return LhotseFields()


def _dialect(first: Line, config: ManifestSource) -> str:
    if config.format != "auto":
        return config.format
    if config.path_column is not None:
        return "plain"
    fields, names = first.fields, frozenset(first.fields)
    is_cut = isinstance(fields.get("recording"), dict) or isinstance(fields.get("tracks"), list)
    is_recording = "id" in names and isinstance(fields.get("sources"), list)
    is_audiocraft = names >= {"path", "duration", "sample_rate"} and names & {"amplitude", "weight", "info_path"}
    found = [
        *(["lhotse"] if is_cut or is_recording else []),
        *(["nemo"] if "audio_filepath" in names else []),
        *(["audiocraft"] if is_audiocraft else []),
    ]
    if len(found) > 1:
        raise first.fault(
            f"its fields ({', '.join(first.fields)}) are those of {' and of '.join(found)}; set "
            "selection.source.format to one of them, or selection.source.path_column"
        )
    return found[0] if found else "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Roles:
    """Which field is what, in lines with the same fields; None: no field is."""

    start: str | None
    duration: str | None
    end: str | None
    columns: tuple[str, ...]


class _Fields:
    """Lines that name a path, and perhaps an id and times, under names that are known or configured.

    Args:
        first: The first line of the file: it decides which field is the path, and whether lines have ids.
        config: Names that are set there come before the usual ones.
        paths: Usual names of the path, the first that is there counts.
    """

    def __init__(self, first: Line, config: ManifestSource, *, paths: tuple[str, ...]) -> None:
        self.names: set[str] = set()
        self._config = config
        known = paths if config.path_column is None else (config.path_column,)
        path = next((name for name in known if name in first.fields), None)
        if path is None:
            header = "; the first line of CSV and TSV has to name the columns" if first.is_text else ""
            raise first.fault(
                f"none of its fields ({', '.join(first.fields)}) is {' or '.join(known)}; name the one that holds the "
                f"audio's path in selection.source.path_column{header}"
            )
        self._path = path
        self._id = config.id_column or ("id" if first.fields.get("id") is not None and path != "id" else None)
        self._roles: dict[tuple[str, ...], _Roles] = {}

    def entries(self, line: Line) -> tuple[Entry, ...]:
        """The one item of a line; see `Reader`."""
        fields, roles = line.fields, self._roles_of(tuple(line.fields))
        if self._id is None and self._path != "id" and fields.get("id") is not None:
            raise line.fault(
                f"it has an id, {fields['id']!r:.200}, and the first line of the file has none; give every line an id, "
                "or none"
            )
        start, duration = seconds_of(line, roles.start), seconds_of(line, roles.duration)
        end = seconds_of(line, roles.end)
        if duration is None and end is not None:
            if end < (start or 0.0):
                raise line.fault(f"{roles.end} = {end:g} lies before {roles.start} = {start:g}; mend the line")
            start, duration = start or 0.0, end - (start or 0.0)
        entry = Entry(
            path=audio_path(line, self._path, fields.get(self._path)),
            id=None if self._id is None else own_id(line, self._id),
            start_seconds=None if not start and duration is None else start,
            duration_seconds=duration,
            columns={name: fields[name] for name in roles.columns},
        )
        return (entry,)

    def _roles_of(self, names: tuple[str, ...]) -> _Roles:
        roles = self._roles.get(names)
        if roles is None:
            if len(self._roles) >= _MOST_KINDS_OF_LINES:
                self._roles.clear()
            self.names.update(names)
            roles = self._roles[names] = self._find_roles(names)
        return roles

    def _find_roles(self, names: tuple[str, ...]) -> _Roles:
        config = self._config
        start = _first_of((config.start_column,) if config.start_column else _STARTS, names)
        duration = _first_of((config.duration_column,) if config.duration_column else _DURATIONS, names)
        end = _first_of(_ENDS, names) if start is not None and duration is None else None
        if config.columns is not None:
            kept = [name for name in config.columns if name in names]
        else:
            used = {self._path, self._id, start, duration, end, *_RESTATED}
            kept = [name for name in names if name not in used]
        return _Roles(start=start, duration=duration, end=end, columns=tuple(kept))


def _first_of(wanted: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    return next((name for name in wanted if name in names), None)
