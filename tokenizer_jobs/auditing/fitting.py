"""Choosing the codec, and with it how the dump's arrays are read: by what a few of them agree with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tokenizer_jobs.auditing.codecs import codecs_at_hand, load_highest, not_loadable
from tokenizer_jobs.auditing.comparing import compare
from tokenizer_jobs.auditing.layout import Settled, settle_layout
from tokenizer_jobs.auditing.lengths import FrameCount, frame_counter, read_lengths
from tokenizer_jobs.auditing.matching import Matching
from tokenizer_jobs.auditing.reading import Array, OpenedDump
from tokenizer_jobs.auditing.reference import Reencoder
from tokenizer_jobs.errors import ConfigError, ItemError
from tokenizer_jobs.importing.inspection import DumpSaid
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources import Source

__all__ = ["Fitted", "fit_codec"]

TRIED = 6
"""Items that a codec is tried on."""
ENOUGH = 0.85
"""Mean agreement of first codebooks at which no other codec is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A codec, and the layout that goes with it."""

    model: str
    reencoder: Reencoder
    frames: FrameCount
    offered: dict[int, float]
    settled: Settled
    agreement: float
    """Of first codebooks over the items that it was tried on."""


def fit_codec(
    dump: OpenedDump,
    matching: Matching,
    *,
    audio: Sequence[Item],
    source: Source,
    codecs: Sequence[str],
    revision: str | None,
    said: DumpSaid,
    say: Callable[[str], None],
) -> Fitted:
    """Choose the codec that agrees best with the beginning of a dump.

    Raises:
        ConfigError: no codec can be loaded, or no layout fits at all.
    """
    pairs = _pairs(dump, matching)
    lengths = list(read_lengths([audio[place] for _, place in pairs if place >= 0], source))
    known = iter(lengths)
    by_pair = [next(known) if place >= 0 else None for _, place in pairs]
    best: Fitted | None = None
    errors = list[ConfigError]()
    for name in codecs_at_hand(codecs):
        try:
            codec, offered = load_highest(name, revision=revision)
        except ConfigError as error:
            errors.append(error)
            continue
        reencoder = Reencoder(source=source, codec=codec)
        frames = frame_counter(reencoder.facts)
        rate = reencoder.facts.sample_rate
        num_frames = [None if each is None else frames(max(1, each.samples_at(rate))) for each in by_pair]
        settled = settle_layout(
            [array for array, _ in pairs],
            num_frames,
            axes=said.axes if said.axes not in ("KT", "TK") else None,
            num_codebooks=said.num_codebooks,
            offered=tuple(offered),
        )
        settled, agreement = _best_order(pairs, audio, reencoder, settled, said)
        say(f"codec {name}: {agreement:.1%} of first codebooks agree over {min(len(pairs), TRIED)} items")
        fitted = Fitted(
            model=name,
            reencoder=reencoder,
            frames=frames,
            offered=offered,
            settled=settled,
            agreement=agreement,
        )
        if best is None or agreement > best.agreement + 0.05:
            best = fitted
        if best.agreement >= ENOUGH:
            break
    if best is None:
        raise not_loadable(codecs, errors)
    return best


def _pairs(dump: OpenedDump, matching: Matching) -> list[tuple[Array, int]]:
    """Arrays from the beginning of the dump, with the places of their audio."""
    pairs = list[tuple[Array, int]]()
    with dump.reader() as reader:
        for candidate in dump.sample:
            name = matching.rule.of(candidate)
            try:
                pairs.append((dump.read(reader, candidate), -1 if name is None else matching.place(name)))
            except ItemError:
                continue
    return pairs


def _best_order(
    pairs: Sequence[tuple[Array, int]], audio: Sequence[Item], reencoder: Reencoder, settled: Settled, said: DumpSaid
) -> tuple[Settled, float]:
    """The layout, of a flat one the order that agrees better, and how well it does."""
    orders = [settled]
    if settled.axes == "flat" and said.axes is None:
        orders.append(replace(settled, axes="flat-by-codebook"))
    scores = [0.0] * len(orders)
    tried = [(array, place) for array, place in pairs if place >= 0][:TRIED]
    for array, place in tried:
        try:
            reference = reencoder.reference(audio[place])
        except ItemError:
            continue
        for number, order in enumerate(orders):
            codes = order.matrix(array)
            if codes is not None and codes.size:
                size = reencoder.facts.codebook_size
                scores[number] += compare(codes % size, reference.codes).first / len(tried)
    place = scores.index(max(scores))
    return orders[place], scores[place]
