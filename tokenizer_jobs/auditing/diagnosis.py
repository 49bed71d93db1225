"""Why the codes of one item are not those of its audio: every explanation is put to the test by encoding.

Legend of shapes: K codebooks, T frames.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenizer_jobs.auditing.aligning import Place, heard, placed
from tokenizer_jobs.auditing.comparing import Likeness, best_lag, compare, seam_candidates
from tokenizer_jobs.auditing.kinds import Kind
from tokenizer_jobs.auditing.layout import readings
from tokenizer_jobs.auditing.reading import Array
from tokenizer_jobs.auditing.reference import Reencoder, Reference
from tokenizer_jobs.errors import ItemError
from tokenizer_jobs.records import EncodedItem, Item

__all__ = ["CLOSE", "Examined", "Examiner", "Subject"]

CLOSE = 0.85
"""Share of first codebooks that agree where codec and audio are the same but for the resampler or the precision. By the
demo codec over 8 clips of speech and made-up audio: 0.94 to 1.00 with other resamplers (linear interpolation the
lowest), 0.15 to 0.86 with another loudness, 0.00 to 0.08 with other audio."""
LEAST_EARLY = 0.6
"""Share of the first four codebooks that agree then: 0.8 and more by the same measurement."""
CHANCE = 0.15
"""At most what other audio or other weights give; the largest share seen with other items counts where it is higher."""
SEARCHED = 24
"""Items for which all explanations are tried; others must do with those that were found."""
MOST_TIES = 0.03
"""Share of frames with a near tie: 1 code in 5,000 at most, of up to 32 a frame; more is no matter of near ties."""
NEIGHBOURS = (1, -1, 2, -2, 3, -3)
LITTLE_SECONDS = 0.1
"""Decoders of MP3 and AAC differ by up to 2,112 samples in where a file begins: 0.05 s at 44.1 kHz."""
MOST_CLIMBED = 8
"""Steps of a decibel or so in search of a gain; from what decoded codes tell, 6 dB were needed at +20 dB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One item of the sample."""

    id: str
    place: int
    """Of its audio."""
    raw: Array
    """As it lies in the dump."""
    codes: Array
    """[K, T] by the settled layout, offsets taken off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What became of one item of the sample."""

    id: str
    kind: Kind | None
    """None: its codes are those of its audio, but for near ties."""
    detail: str = ""
    own: Likeness | None = None
    """With the reference of its own audio; None: it cannot be decoded."""
    likeness: Likeness | None = None
    """Under the explanation."""
    num_near_tie_frames: int = 0
    seconds: float = 0.0
    """Of audio that was compared."""
    number: int = 0
    """Of a shift, in items; of seams and beginnings, in samples; of a lag, in frames."""
    decibels: float = 0.0
    """Of another loudness."""


@dataclass(slots=True, kw_only=True)
class Examiner:
    """Examines items; what explained one is tried first on the next."""

    reencoder: Reencoder
    audio: Sequence[Item]
    """In the order of their list."""
    offered: Sequence[int]
    """Numbers of codebooks that the codec can have."""
    num_codebooks: int
    codes_of: Callable[[int], Array | None]
    """The codes that stand under the id of some audio."""
    same_length: Callable[[int], Sequence[int]]
    """Places of audio of so many frames."""
    shifts: Counter[int] = field(default_factory=Counter)
    periods: Counter[int] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    num_searched: int = 0
    num_placed: int = 0

    def examine(self, subject: Subject) -> Examined:
        """Compare one item with its audio, and find out why it differs."""
        try:
            reference = self.reencoder.reference(self.audio[subject.place])
        except ItemError as error:
            return Examined(id=subject.id, kind=Kind.UNREADABLE_AUDIO, detail=f"{error.reason}: {error.message}")
        own = compare(subject.codes, reference.codes)
        found = self._own_audio(subject, reference, own) if own.first >= CLOSE else None
        if found is None:
            found = self._other(subject, reference, own)
        kind, detail, likeness, number = found
        ties = 0
        if kind is Kind.CLOSE and own.differs.mean() <= MOST_TIES:
            ties = self._near_ties(subject, reference)
            kind = None if ties else kind
        return Examined(
            id=subject.id,
            kind=kind,
            detail=detail,
            own=own,
            likeness=likeness,
            num_near_tie_frames=ties,
            seconds=own.differs.size / self.reencoder.facts.frame_rate,
            number=number,
            decibels=float(detail) if kind is Kind.LOUDNESS else 0.0,
        )

    def examine_all(self, subjects: Iterator[Subject]) -> Iterator[Examined]:
        """Examine items; those that are merely close are looked at again with what was found in others."""
        close = list[tuple[int, Subject]]()
        examined = list[Examined]()
        for subject in subjects:
            found = self.examine(subject)
            if found.kind is Kind.CLOSE and len(close) < SEARCHED:
                close.append((len(examined), subject))
            examined.append(found)
        if self.periods or self.variants:
            for place, subject in close:
                examined[place] = self.examine(subject)
        yield from examined

    def _own_audio(self, subject: Subject, reference: Reference, own: Likeness) -> "_Found":
        """Of codes that clearly are of this audio."""
        if own.is_equal:
            return None, "", own, 0
        where = np.flatnonzero(own.differs)
        at_end = own.differs.size == reference.num_frames
        if at_end and where[-1] == own.differs.size - 1 and (len(where) == 1 or own.differs.size <= 8):
            return Kind.LAST_FRAME_DIFFERS, "", own, 0
        if subject.codes.shape[0] > 1 and own.early < LEAST_EARLY:
            return self._undelayed(subject, reference) or (Kind.OTHER_AUDIO, "", own, 0)
        is_known = bool(self.periods or self.variants)
        if is_known or own.codes < 0.9 or len(where) > 4:  # else a few near ties would cost all of the search
            found = self._seams(subject, reference, own) or self._variants(subject, reference, own)
            if found is not None:
                return found
        return Kind.CLOSE, "", own, 0

    def _other(self, subject: Subject, reference: Reference, own: Likeness) -> "_Found":
        """Of codes that are not simply those of this audio."""
        found = self._known(subject, reference, own) or self._by_array(subject, reference)
        if found is None and self.num_searched < SEARCHED:
            self.num_searched += 1
            found = (
                self._by_neighbours(subject)
                or self._variants(subject, reference, own)
                or self._seams(subject, reference, own)
            )
        place = None
        if found is None and (self.num_placed or self.num_searched < SEARCHED):
            place = self._place(subject, reference)
            found = None if place is None else self._placed(subject, reference, place)
        if found is not None:
            return found
        if place is not None:
            return Kind.OTHER_AUDIO, "", own, 0
        is_chance = own.first <= max(CHANCE, 1.5 * self._chance(subject))
        return (Kind.OTHER_WEIGHTS if is_chance else Kind.OTHER_AUDIO), "", own, 0

    def _known(self, subject: Subject, reference: Reference, own: Likeness) -> "_Found | None":
        """By what explained others."""
        for offset, _ in self.shifts.most_common(3):
            found = self._at(subject, subject.place + offset, offset)
            if found is not None:
                return found
        if self.variants and self.num_searched >= SEARCHED:
            return self._variants(subject, reference, own)
        return None

    def _by_array(self, subject: Subject, reference: Reference) -> "_Found | None":
        """Without encoding anything: other layouts, remainders, delays, lags."""
        settled = subject.codes
        counts = dict.fromkeys((settled.shape[0], *subject.raw.shape, self.num_codebooks))
        for num_codebooks in (count for count in counts if 0 < count <= reference.codes.shape[0]):
            for name, matrix in readings(subject.raw, num_codebooks=num_codebooks):
                likeness = compare(matrix, reference.codes)
                if likeness.first >= CLOSE:
                    kind = Kind.TRANSPOSED if name in ("KT", "TK") else Kind.RESHAPED
                    return kind, name, likeness, 0
        if settled.min() >= -128 and settled.max() <= 255:
            likeness = compare(settled, reference.codes, modulo=256)
            if likeness.first >= CLOSE:
                return Kind.NARROW_TYPE, "", likeness, 0
        delayed = self._undelayed(subject, reference)
        if delayed is not None:
            return delayed
        lag, share = best_lag(settled, reference.codes)
        if share >= CLOSE:
            return Kind.LATE, f"{lag} frames", compare(settled[:, lag:], reference.codes), lag
        return None

    def _undelayed(self, subject: Subject, reference: Reference) -> "_Found | None":
        for start in (0, 1):
            likeness = compare(_undelayed(subject.codes, start), reference.codes)
            if subject.codes.shape[0] > 1 and likeness.first >= CLOSE and likeness.early >= LEAST_EARLY:
                return Kind.DELAYED, "", likeness, start
        return None

    def _by_neighbours(self, subject: Subject) -> "_Found | None":
        places = [subject.place + offset for offset in NEIGHBOURS]
        near = sorted(self.same_length(subject.codes.shape[1]), key=lambda place: abs(place - subject.place))[:6]
        for place in dict.fromkeys([*near[:2], *places, *near]):
            found = self._at(subject, place, place - subject.place)
            if found is not None:
                return found
        return None

    def _at(self, subject: Subject, place: int, offset: int) -> "_Found | None":
        """Whether codes are those of the audio at another place."""
        if offset == 0 or not 0 <= place < len(self.audio):
            return None
        try:
            other = self.reencoder.reference(self.audio[place])
        except ItemError:
            return None
        likeness = compare(subject.codes, other.codes)
        if likeness.first < CLOSE:
            return None
        there, here = self.codes_of(place), self.reencoder.reference(self.audio[subject.place])
        if there is not None and compare(there, here.codes).first >= CLOSE:
            return Kind.SWAPPED, self.audio[place].id, likeness, offset
        self.shifts[offset] += 1
        return Kind.SHIFTED, self.audio[place].id, likeness, offset

    def _variants(self, subject: Subject, reference: Reference, own: Likeness) -> "_Found | None":
        """By wrong ways to come from the file to codes."""
        item = self.audio[subject.place]
        ways = self.reencoder.variants(item, reference, num_frames=subject.codes.shape[1])
        for way in sorted(ways, key=lambda way: -self.variants[way.kind + way.detail]):
            if self.num_searched >= SEARCHED and not self.variants[way.kind + way.detail]:
                continue
            codes = way.encode()
            likeness = None if codes is None else compare(subject.codes, codes)
            if likeness is not None and _explains(likeness, own):
                self.variants[way.kind + way.detail] += 1
                return way.kind, way.detail, likeness, 0
        return None

    def _place(self, subject: Subject, reference: Reference) -> Place | None:
        """Where decoded codes lie in their audio."""
        num_codebooks = min(subject.codes.shape[0], reference.codes.shape[0])
        size, codec = self.reencoder.facts.codebook_size, self.reencoder.codec
        decoded, ours = (
            heard(codec, codes[:num_codebooks, : reference.num_frames], codebook_size=size)
            for codes in (subject.codes, reference.codes)
        )
        if decoded is None or ours is None:
            return None
        return placed(decoded, reference.waveform, of_original=ours)

    def _placed(self, subject: Subject, reference: Reference, place: Place) -> "_Found | None":
        """By audio that begins elsewhere, or is louder or softer."""

        def at(start: int, gain: float) -> Likeness:
            waveform = reference.waveform[:, max(0, start) :]
            front = np.zeros((waveform.shape[0], max(0, -start)), np.float32)
            return compare(
                subject.codes, self.reencoder.encode(np.float32(gain) * np.concatenate([front, waveform], axis=1))
            )

        # Correlation is a sample off at times.
        tried = [(at(start, 1.0), start) for start in (place.start, place.start - 1, place.start + 1) if start]
        likeness, start = max(tried, key=lambda each: each[0].first, default=(None, 0))
        if likeness is not None and likeness.first >= CLOSE:
            self.num_placed += 1
            if abs(start) < LITTLE_SECONDS * self.reencoder.facts.sample_rate:
                return Kind.DISPLACED, "", likeness, start
            if start < 0:
                return Kind.LATE, f"{-start / self.reencoder.facts.sample_rate:.2f} s", likeness, start
            return Kind.TRIMMED, "", likeness, start
        start = 0 if abs(place.start) <= 1 else place.start
        decibels, likeness = _climbed(lambda level: at(start, 10 ** (level / 20)), place.decibels)
        if start or likeness.first < CLOSE:
            return None
        self.num_placed += 1
        return Kind.LOUDNESS, f"{decibels:.1f}", likeness, 0

    def _seams(self, subject: Subject, reference: Reference, own: Likeness) -> "_Found | None":
        known = [period for period, _ in self.periods.most_common(2)]
        guessed = (samples for frames in seam_candidates(own.differs) for samples in self._chunks(frames))
        for period in dict.fromkeys([*known, *guessed]):
            if period >= reference.waveform.shape[1]:
                continue
            likeness = compare(subject.codes, self.reencoder.restarted(reference, period_samples=period))
            if likeness.codes >= 0.95 and _explains(likeness, own):
                self.periods[period] += 1
                return Kind.SEAMS, "", likeness, period
        return None

    def _chunks(self, num_frames: int) -> list[int]:
        """Samples of chunks after which the frame of that number differs first.

        They are whole frames, or hundredths of a second: then the part-filled frame before the seam differs already.
        """
        facts = self.reencoder.facts
        hop, unit = facts.hop_length, facts.sample_rate // 100
        least, most = (num_frames - 1) * hop, (num_frames + 1) * hop
        return list(dict.fromkeys([num_frames * hop, *range(most - most % unit, least, -unit)]))

    def _chance(self, subject: Subject) -> float:
        """What other audio gives."""
        shares = [0.0]
        for offset in (7, -7, 11, -11):
            place = subject.place + offset
            if 0 <= place < len(self.audio):
                try:
                    other = self.reencoder.reference(self.audio[place])
                except ItemError:
                    continue
                shares.append(compare(subject.codes, other.codes).first)
        return max(shares)

    def _near_ties(self, subject: Subject, reference: Reference) -> int:
        """Frames that differ by near ties of the plain model, where all that differ do; else 0."""
        filled = reference.encoded.codes.copy()
        num_codebooks, num_frames = (min(a, b) for a, b in zip(filled.shape, subject.codes.shape, strict=True))
        stored = subject.codes[:num_codebooks, :num_frames]
        if stored.min() < 0 or stored.max() > np.iinfo(np.uint16).max:
            return 0
        filled[:num_codebooks, :num_frames] = stored
        encoded = EncodedItem(
            codes=filled, scales=reference.encoded.scales, window_frames=reference.encoded.window_frames
        )
        agreement = self.reencoder.codec.compare(reference.waveform, encoded)
        return agreement.num_near_tie_frames if agreement.is_faithful else 0


_Found = tuple[Kind | None, str, Likeness, int]


def _explains(likeness: Likeness, own: Likeness) -> bool:
    """Whether an explanation leaves much less to be explained."""
    if own.first < CLOSE:
        return likeness.first >= max(CLOSE, own.first + 0.05)
    return likeness.codes >= 0.9 and 1 - likeness.codes <= 0.25 * (1 - own.codes)


def _climbed(at: Callable[[float], Likeness], decibels: float) -> tuple[float, Likeness]:
    """The level at which codes agree most, from a guess on: up or down as long as it gets better."""
    best, level = at(decibels), decibels
    if best.first >= 0.97:
        return level, best
    for step in (1.0, -1.0):
        for _ in range(MOST_CLIMBED):
            next_one = at(level + step)
            if next_one.first <= best.first:
                break
            best, level = next_one, level + step
        if level != decibels:
            break
    return level, best


def _undelayed(codes: Array, start: int) -> Array:
    num_codebooks, num_frames = codes.shape
    length = num_frames - (num_codebooks - 1) - start
    if length < 1:
        return codes[:, :0]
    return np.stack([codes[k, start + k : start + k + length] for k in range(num_codebooks)])


def sorted_kinds(examined: Sequence[Examined]) -> Iterator[tuple[Kind, list[Examined]]]:
    """The items of each kind, the most frequent first."""
    kinds = Counter(each.kind for each in examined if each.kind is not None)
    return ((kind, [each for each in examined if each.kind is kind]) for kind, _ in kinds.most_common())
