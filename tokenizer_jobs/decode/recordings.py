"""Decode the items of one recording in one pass over it, however many cuts of it they are.

    open ──▶ sniff ──▶ inspect ──▶ read blocks ──▶ each item takes its samples: check, mix, resample, measure

    recording  ├───────────────────────────────────────────┤
    cuts           ├─────────┤                                  in front: its pieces are given out as they come
                        ├─────────┤                             decoded meanwhile, waits for its turn
                                          ├────┤                where decoders seek exactly, long gaps are skipped

The pass is made again for items that were put off, since too much waited behind the one in front, and for cuts in which
the decoder failed: then in small blocks, of which less is lost, and each from its own beginning where that can be
sought. So what becomes of a cut is decided by its own samples, whichever others are decoded with it.
"""

import posixpath
from collections import deque
from collections.abc import Iterator, Sequence

from tokenizer_jobs.decode.container import inspect
from tokenizer_jobs.decode.cuts import is_cut
from tokenizer_jobs.decode.ogg import check_pages
from tokenizer_jobs.decode.opened import InputBytes, open_input
from tokenizer_jobs.decode.parts import rejected
from tokenizer_jobs.decode.passes import Effort, Numbered, Pass, Recording
from tokenizer_jobs.decode.sniff import AudioKind, sniff
from tokenizer_jobs.decode.target import AudioTarget
from tokenizer_jobs.decode.verdicts import refuse_damage
from tokenizer_jobs.errors import ItemError
from tokenizer_jobs.records import Decoded, Item, RejectedItem
from tokenizer_jobs.sources import Source

__all__ = ["decode_recording"]


def decode_recording(items: Sequence[Numbered], *, source: Source, target: AudioTarget) -> Iterator[Decoded]:
    """Decode items of one recording, in the order given.

    Args:
        items: Pairs of position in the unit and item, of one input, best by their start.
        source: Opens the recording, once.
        target: What they are made into.

    Raises:
        TransientError: the storage failed; nothing is said about the items.
    """
    left = deque(items)
    try:
        with open_input(items[0][1], source=source) as data:
            for decoded in _passes(items, data, target=target):
                if isinstance(decoded, RejectedItem) or decoded.is_last:
                    left.popleft()
                if not left:
                    last = decoded
                    break  # the last is given out when its bytes need no memory any more
                yield decoded
    except ItemError as error:
        while left:
            yield rejected(left.popleft()[0], error)
        return
    yield last


def _passes(items: Sequence[Numbered], data: InputBytes, *, target: AudioTarget) -> Iterator[Decoded]:
    sniffed = sniff(data, extension=_extension(items[0][1]))
    inspection = inspect(data, sniffed)
    if not any(is_cut(item) for _, item in items):
        refuse_damage(inspection, target)
    elif sniffed.kind is AudioKind.OGG:
        inspection = check_pages(data, sniffed.start, inspection)
    recording = Recording(data=data, sniffed=sniffed, inspection=inspection)
    effort, left, num_given, one_by_one = Effort.TOGETHER, items, 0, False
    while left:
        one_pass = Pass(left[:1] if one_by_one else left, recording, target=target, effort=effort)
        num_known = num_given
        for decoded in one_pass.decoded():
            ends_item = isinstance(decoded, RejectedItem) or decoded.is_last
            if num_known and not ends_item:
                num_known -= 1  # the item in front gave the same before the decoder failed in it
                continue
            num_known, num_given = (0, 0) if ends_item else (0, num_given + 1)
            yield decoded
        left = left[one_pass.num_ended :]
        effort = _next_effort(effort, one_pass)
        one_by_one = effort is not Effort.TOGETHER and one_pass.can_seek


def _next_effort(effort: Effort, done: Pass) -> Effort:
    if done.has_failed:
        return Effort.ALONE if done.can_seek and effort is Effort.TOGETHER else Effort.FROM_START
    return min(effort, Effort.ALONE)


def _extension(item: Item) -> str:
    name = item.source_member or item.source_uri
    return posixpath.splitext(name)[1].removeprefix(".").lower()
