"""`audit`: everything of a dump is counted, a sample is encoded again, and what is wrong is put into words.

list both sides ─▶ match ids ─▶ choose the codec ─▶ read all of the dump ─▶ examine a sample ─▶ measure lengths ─▶ words
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.auditing.alternatives import alternatives
from tokenizer_jobs.auditing.census import Census, Row, matched, take_census, without_offsets
from tokenizer_jobs.auditing.counting import doubles, gaps, ranges
from tokenizer_jobs.auditing.diagnosis import Examined, Examiner, Subject
from tokenizer_jobs.auditing.findings import Finding, finding
from tokenizer_jobs.auditing.fitting import Fitted, fit_codec
from tokenizer_jobs.auditing.kinds import Kind
from tokenizer_jobs.auditing.lengths import AudioLength, read_lengths
from tokenizer_jobs.auditing.matching import Matching, match_ids
from tokenizer_jobs.auditing.opening import DumpPlace, audio_source, dump_place
from tokenizer_jobs.auditing.reading import Array, OpenedDump, open_dump
from tokenizer_jobs.auditing.sampled import sample_findings, upper_bound
from tokenizer_jobs.auditing.spans import Spans, measure_spans, span_findings
from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, ConfigError, ItemError
from tokenizer_jobs.importing.inspection import DumpSaid
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import make_source

__all__ = ["AuditResult", "audit"]

SAMPLE = 100
"""Items that are encoded again, unless said: what none of them has, less than 3 % of all have."""

Say = Callable[[str], None]


class AuditResult(BaseModel):
    """What an audit found, as `--json` prints it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    items: int
    """In the dump."""
    recordings: int
    """In the audio."""
    matched: int
    """Items of the dump that can be read and have audio."""
    codec: str
    weights_sha256: str
    num_codebooks: int
    """Of most items."""
    bandwidth_kbps: float | None
    """That these are of; None: the codec offers none with so many codebooks."""
    layout: str
    ids: str
    """How ids were read."""
    sampled: int
    """Items that were encoded again."""
    seed: int
    agreeing: int
    """Of these, items whose codes are those of their audio, but for near ties."""
    near_tie_frames: int
    seconds: float
    """Of audio that was compared."""
    first_codebook: float
    """Share of frames of the sample whose first codebook agrees with the item's own audio."""
    unseen: float
    """Share of the items that may at most have a fault that only encoding shows and none of the sample has (95 %);
    0 where all were encoded."""
    lengths_unknown: int
    """Items whose audio has no header that tells its length."""
    findings: tuple[Finding, ...]
    """Faults first."""

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each fault."""
        return tuple(each.line for each in self.findings if each.is_fault)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each finding that is no fault."""
        return tuple(each.line for each in self.findings if not each.is_fault)

    @property
    def exit_code(self) -> int:
        """0 when nothing is wrong, else 1."""
        return EXIT_FAILED if self.problems else EXIT_DONE


def audit(
    dump: str | Sequence[str],
    *,
    audio: str | Sequence[str] | SourceConfig,
    codec: str | Sequence[str] | None = None,
    revision: str | None = None,
    bandwidth_kbps: float | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    said: DumpSaid | None = None,
    say: Say | None = None,
) -> AuditResult:
    """Find out whether codes that anybody made stand for their audio; writes nothing.

    Doubles, gaps, ranges and lengths are looked for in everything, in one pass that keeps about a kilobyte an item;
    what only encoding shows, in a sample.

    Args:
        dump: Folders, globs or files of `.npy`, `.npz`, `.pt`, `.tar`, `.parquet` or `.arrow`; or an output of ours.
        audio: A source's configuration; or folders, files and globs; tars, tables or manifests by their endings; a job
            file (YAML), whose source is taken; or `demo`.
        codec: That should have made the codes: hub ids, folders, `.th` files, `demo`; None: those at hand are tried.
        revision: Of a codec of the hub.
        bandwidth_kbps: That the codes should have; None: any.
        sample: Items to encode again, at least 1.
        seed: Of the sample.
        said: What is known of the dump's layout; what is not is guessed.
        say: Is told of progress.

    Raises:
        ConfigError: either side is not there or cannot be understood, or no codec can be loaded.
        TransientError: the storage failed.
    """
    if sample < 1:
        raise ConfigError(f"sample = {sample} items is none; expected 1 or more, such as {SAMPLE}")
    tell: Say = say or (lambda _: None)
    place, said = dump_place(dump), said or DumpSaid()
    source = make_source(audio_source(audio))
    opened = open_dump(place.paths, key=said.key)
    items: Sequence[Item] = source.list().items
    matching = match_ids(opened.sample, items, said=said.ids)
    named = [place.codec] if codec is None and place.codec else [codec] if isinstance(codec, str) else list(codec or ())
    fitted = fit_codec(
        opened, matching, audio=items, source=source, codecs=named, revision=revision, said=said, say=tell
    )
    expected = _expected_codebooks(fitted, bandwidth_kbps, said)
    size = fitted.reencoder.facts.codebook_size
    census = take_census(opened, matching, fitted.settled, codebook_size=size, say=tell)
    lengths = _lengths(census, items, fitted)
    audited = _Audit(
        opened=opened, items=items, matching=matching, fitted=fitted, census=census, lengths=lengths, said=said
    )
    return audited.result(place, sample=sample, seed=seed, expected=expected, say=tell)


class _Audit:
    """All that is known of both sides."""

    def __init__(
        self,
        *,
        opened: OpenedDump,
        items: Sequence[Item],
        matching: Matching,
        fitted: Fitted,
        census: Census,
        lengths: dict[int, AudioLength],
        said: DumpSaid,
    ) -> None:
        self.opened = opened
        self.items = items
        self.matching = matching
        self.fitted = fitted
        self.census = census
        self.lengths = lengths
        self.said = said
        self.rows = [row for _, row in matched(census)]
        self.facts = fitted.reencoder.facts
        self.has_offsets = said.offsets == "codebook" or (said.offsets is None and census.with_offsets())
        counts = census.codebooks()
        self.num_codebooks = counts.most_common(1)[0][0] if counts else fitted.settled.num_codebooks

    def result(self, place: DumpPlace, *, sample: int, seed: int, expected: int | None, say: Say) -> AuditResult:
        """Examine, measure, and say."""
        drawn = sorted(random.Random(seed).sample(range(len(self.rows)), min(sample, len(self.rows))))
        examined = self._examine([self.rows[number] for number in drawn], say=say)
        spans = self._spans(examined)
        found = self._findings(place, examined, spans, expected=expected)
        compared = [each for each in examined if each.own is not None]
        total = sum(each.own.differs.size for each in compared if each.own is not None)
        first = sum(each.own.first * each.own.differs.size for each in compared if each.own is not None)
        return AuditResult(
            items=self.census.num_items,
            recordings=len(self.items),
            matched=len(self.rows),
            codec=self.fitted.model,
            weights_sha256=self.facts.weights_sha256,
            num_codebooks=self.num_codebooks,
            bandwidth_kbps=self.fitted.offered.get(self.num_codebooks),
            layout=self.fitted.settled.axes,
            ids=self.matching.told,
            sampled=len(examined),
            seed=seed,
            agreeing=sum(each.kind is None for each in examined),
            near_tie_frames=sum(each.num_near_tie_frames for each in examined),
            seconds=sum(each.seconds for each in examined),
            first_codebook=first / total if total else 0.0,
            unseen=0.0 if len(examined) == len(self.rows) else upper_bound(len(examined)),
            lengths_unknown=spans.unknown,
            findings=tuple(sorted(found, key=lambda each: not each.is_fault)),
        )

    def _findings(
        self, place: DumpPlace, examined: Sequence[Examined], spans: Spans, *, expected: int | None
    ) -> list[Finding]:
        kinds = Counter(each.kind for each in examined if each.kind is not None)
        agreeing = {each.id: each.own is not None and each.own.first >= 0.85 for each in examined}
        return [
            *doubles(self.census, self.matching, audio=self.items, reencoder=self.fitted.reencoder),
            *gaps(self.census, self.matching, audio=self.items, rejected=place.rejected),
            *ranges(
                self.census,
                num_codebooks=self.num_codebooks,
                expected_codebooks=expected,
                most_codebooks=max(self.fitted.offered),
                codebook_size=self.facts.codebook_size,
                has_offsets=self.has_offsets,
                sampled=kinds,
            ),
            *self._layout_findings(),
            *span_findings(self._spanned(), spans, frame_rate=self.facts.frame_rate, agreeing=agreeing),
            *sample_findings(
                examined,
                by_length=spans.explained,
                num_matched=len(self.rows),
                frame_rate=self.facts.frame_rate,
                hop_length=self.facts.hop_length,
            ),
        ]

    def _layout_findings(self) -> list[Finding]:
        axes, said, total = self.fitted.settled.axes, self.said.axes, self.census.num_items
        if said in ("KT", "TK") and axes != said:
            text = f"items are {axes} where {said} was said"
            return [finding(Kind.TRANSPOSED, text, count=total, of=total)]
        if axes == "TK" and said is None:
            return [finding(Kind.TIME_MAJOR, "codes lie time-major, as [T, K]", count=total, of=total)]
        return []

    def _examine(self, drawn: Sequence[Row], *, say: Say) -> list[Examined]:
        by_audio = {row.audio: row for row in self.rows}
        by_frames = defaultdict[int, list[int]](list)
        for number, length in self.lengths.items():
            by_frames[self.fitted.frames(max(1, length.samples_at(self.facts.sample_rate)))].append(number)
        with self.opened.reader() as reader:

            def read(row: Row) -> tuple[Array, Array] | None:
                try:
                    raw = self.opened.read(reader, row.candidate)
                except ItemError:
                    return None
                codes = self.fitted.settled.matrix(raw)
                if codes is None or not codes.size:
                    return None
                size = self.facts.codebook_size
                return raw, without_offsets(codes, codebook_size=size) if self.has_offsets else codes

            def codes_of(number: int) -> Array | None:
                found = read(by_audio[number]) if number in by_audio else None
                return None if found is None else found[1]

            examiner = Examiner(
                reencoder=self.fitted.reencoder,
                audio=_WithSeconds(self.items, self.lengths),
                offered=tuple(self.fitted.offered),
                num_codebooks=self.num_codebooks,
                codes_of=codes_of,
                same_length=lambda frames: by_frames.get(frames, ()),
            )

            def subjects() -> Iterator[Subject]:
                for number, row in enumerate(drawn, 1):
                    found = read(row)
                    if found is not None:
                        yield Subject(id=row.id, place=row.audio, raw=found[0], codes=found[1])
                    if number % 10 == 0:
                        say(f"progress sampled={number}/{len(drawn)}")

            return list(examiner.examine_all(subjects()))

    def _spanned(self) -> list[Row]:
        """Rows with the number of codebooks that most have: the others are found by that."""
        return [row for row in self.rows if row.num_codebooks == self.num_codebooks and not row.is_repeated]

    def _spans(self, examined: Sequence[Examined]) -> Spans:
        return measure_spans(
            self._spanned(),
            self.lengths,
            rate=self.facts.sample_rate,
            hop_length=self.facts.hop_length,
            frames=self.fitted.frames,
            alternatives=alternatives(
                examined,
                lengths=self.lengths,
                facts=self.facts,
                frames=self.fitted.frames,
                num_codebooks=self.num_codebooks,
            ),
        )


class _WithSeconds(Sequence[Item]):
    """Items whose estimated seconds are those of their headers."""

    def __init__(self, items: Sequence[Item], lengths: dict[int, AudioLength]) -> None:
        self._items = items
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> Item:  # type: ignore[override]
        item, length = self._items[place], self._lengths.get(place)
        return item if length is None else replace(item, estimated_seconds=length.num_samples / length.sample_rate)


def _expected_codebooks(fitted: Fitted, bandwidth_kbps: float | None, said: DumpSaid) -> int | None:
    """What was said of the number of codebooks: refused before all of the dump is read, if it cannot be."""
    if bandwidth_kbps is None:
        return said.num_codebooks
    found = next((n for n, kbps in fitted.offered.items() if kbps == bandwidth_kbps), None)
    if found is None:
        offered = ", ".join(f"{kbps:g}" for kbps in fitted.offered.values())
        raise ConfigError(
            f"bandwidth_kbps = {bandwidth_kbps:g} is not offered by {fitted.model}; choose one of {offered}"
        )
    return found


def _lengths(census: Census, items: Sequence[Item], fitted: Fitted) -> dict[int, AudioLength]:
    """Of all audio that codes are of, and of its neighbours in the list."""
    places = sorted({row.audio + step for row in census.rows if row.audio >= 0 for step in (-1, 0, 1)})
    places = [place for place in places if 0 <= place < len(items)]
    found = read_lengths([items[place] for place in places], fitted.reencoder.source)
    return {place: length for place, length in zip(places, found, strict=True) if length is not None}
