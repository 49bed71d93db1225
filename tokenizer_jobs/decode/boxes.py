"""Check the containers that only FFmpeg reads, MP4 and Matroska, by the sizes of their outermost boxes."""

import struct

from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.opened import InputBytes

__all__ = ["inspect_matroska", "inspect_mp4"]


def inspect_mp4(data: InputBytes, start: int) -> Inspection:
    """Walk the top-level boxes of MP4 / M4A; the last one must end with the file."""
    place, names = start, set()
    while len(header := data.read_at(place, 16)) >= 8:
        size = struct.unpack(">I", header[:4])[0]
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:])[0]
        if size == 0:  # to the end of the file
            size = data.size - place
        if size < 8:
            return Inspection(skip=start, damage=f"an MP4 box of {size} bytes at byte {place}", sound_frames=0)
        names.add(header[4:8])
        place += size
    if place > data.size:
        return Inspection(skip=start, truncation=f"the MP4 boxes need {place - start} bytes, {data.size} are there")
    if b"moov" not in names:
        return Inspection(skip=start, truncation="an MP4 without its moov box")
    return Inspection(skip=start)


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
