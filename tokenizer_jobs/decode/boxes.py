"""Check the containers that only FFmpeg reads, MP4 and Matroska, by sizes of boxes and counts of tables."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.opened import InputBytes

__all__ = ["inspect_matroska", "inspect_mp4"]

_TABLE_BYTES = 1 << 20
"""Of a table of durations; those of audio have a few entries."""


@dataclass(frozen=True, slots=True)
class _Box:
    name: bytes
    start: int
    """First byte of its content."""
    end: int


def inspect_mp4(data: InputBytes, start: int) -> Inspection:
    """Walk the top-level boxes of MP4 / M4A, the last of which must end with the file, and the tables of its tracks."""
    place, moov = start, None
    while len(header := data.read_at(place, 16)) >= 8:
        size = struct.unpack(">I", header[:4])[0]
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:])[0]
        if size == 0:  # to the end of the file
            size = data.size - place
        if size < 8:
            return Inspection(skip=start, damage=f"an MP4 box of {size} bytes at byte {place}", sound_frames=0)
        if header[4:8] == b"moov":
            moov = _Box(b"moov", place + 8, place + size)
        place += size
    if place > data.size:
        return Inspection(skip=start, truncation=f"the MP4 boxes need {place - start} bytes, {data.size} are there")
    if moov is None:
        return Inspection(skip=start, truncation="an MP4 without its moov box")
    damage = next(filter(None, (_track_damage(data, box) for box in _inside(data, moov) if box.name == b"trak")), None)
    return Inspection(skip=start, damage=damage, sound_frames=None if damage is None else 0)


def _track_damage(data: InputBytes, track: _Box) -> str | None:
    """What is wrong with the tables of an audio track: decoders go by one of them and drop what it does not show.

    The edit list is not among them: it may hide audio on purpose.
    """
    boxes: dict[bytes, _Box] = {}
    path = [track]
    while path:
        for box in _inside(data, path.pop()):
            boxes.setdefault(box.name, box)
            if box.name in (b"mdia", b"minf", b"stbl"):
                path.append(box)
    if b"hdlr" not in boxes or data.read_at(boxes[b"hdlr"].start + 8, 4) != b"soun":
        return None
    sizes = boxes.get(b"stsz") or boxes.get(b"stz2")
    if sizes is None or b"mdhd" not in boxes or b"stts" not in boxes:
        return f"an MP4 audio track with {', '.join(sorted(name.decode('latin-1') for name in boxes))} alone"
    time_scale, duration = _media_header(data, boxes[b"mdhd"])
    if time_scale == 0:
        return "an MP4 audio track with a time scale of 0"
    num_packets = int.from_bytes(data.read_at(sizes.start + 8, 4), "big")
    counted, spent = _durations(data, boxes[b"stts"])
    if counted != num_packets:
        return f"the tables of an MP4 count {counted} and {num_packets} packets"
    if sizes.name == b"stsz" and (needed := _packet_bytes(data, sizes, num_packets)) > data.size:
        return f"the packets of an MP4 need {needed} bytes, {data.size} are there"
    unknown = duration in (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) or counted == 0  # fragments have their own tables
    if not unknown and abs(duration - spent) > max(time_scale // 10, duration // 100):
        return f"an MP4 audio track of {duration / time_scale:g} s whose packets last {spent / time_scale:g} s"
    return None


def _inside(data: InputBytes, parent: _Box) -> Iterator[_Box]:
    place = parent.start
    while place + 8 <= parent.end:
        size, name = struct.unpack(">I4s", data.read_at(place, 8).ljust(8, b"\0"))
        if size < 8:
            return
        yield _Box(name, place + 8, min(place + size, parent.end))
        place += size


def _media_header(data: InputBytes, box: _Box) -> tuple[int, int]:
    """Time scale in Hz and duration in its units."""
    content = data.read_at(box.start, 32).ljust(32, b"\0")
    scale, duration = struct.unpack(">20xIQ" if content[0] == 1 else ">12xII", content[: 32 if content[0] == 1 else 20])
    return scale, duration


def _durations(data: InputBytes, box: _Box) -> tuple[int, int]:
    """How many packets a table of durations counts, and how long they last together."""
    content = data.read_at(box.start, min(box.end - box.start, _TABLE_BYTES))
    num_entries = int.from_bytes(content[4:8], "big")
    entries = content[8 : 8 + 8 * num_entries]
    pairs = list(struct.iter_unpack(">2I", entries[: len(entries) // 8 * 8]))
    return sum(count for count, _ in pairs), sum(count * each for count, each in pairs)


def _packet_bytes(data: InputBytes, box: _Box, num_packets: int) -> int:
    """What the packets of a table of sizes take together; of those that it counts and does not list, 4 GiB each."""
    each = int.from_bytes(data.read_at(box.start + 4, 4), "big")
    if each:
        return each * num_packets
    place, end, needed = box.start + 12, min(box.end, box.start + 12 + 4 * num_packets), 0
    needed += (num_packets - max(0, end - place) // 4) << 32
    while place < end and (part := data.read_at(place, min(_TABLE_BYTES, end - place))):
        needed += int(np.frombuffer(part, ">u4", len(part) // 4).sum(dtype=np.int64))
        place += len(part)
    return needed


def inspect_matroska(data: InputBytes, start: int) -> Inspection:
    """Compare the size of the Segment of Matroska / WebM, where it is known, with the bytes present."""
    header = data.read_at(start, 64)
    size, place = _vint(header, 4)
    place += max(0, size or 0)
    if header[place : place + 4] != b"\x18\x53\x80\x67":
        return Inspection(skip=start)
    size, place = _vint(header, place + 4)
    if size is not None and start + place + size > data.size:
        return Inspection(
            skip=start, truncation=f"the Segment declares {size} bytes, {data.size - start - place} are there"
        )
    return Inspection(skip=start)


def _vint(header: bytes, place: int) -> tuple[int | None, int]:
    """A number of EBML and the place after it; None when it says "unknown" or is cut."""
    if place >= len(header) or header[place] == 0:
        return None, place + 1
    length = 9 - header[place].bit_length()
    number = int.from_bytes(header[place : place + length], "big") & (1 << 7 * length) - 1
    return (None if number == (1 << 7 * length) - 1 else number), place + length
