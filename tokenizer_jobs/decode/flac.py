"""Check FLAC by its STREAMINFO and its last frame: libFLAC stops where STREAMINFO says, right or wrong."""

from dataclasses import dataclass

from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.opened import InputBytes

__all__ = ["ends_with_whole_frame", "inspect_flac"]

_TAIL_BYTES = 1 << 20
_BLOCK_SIZES = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{c: 256 << c - 8 for c in range(8, 16)}}


@dataclass(frozen=True, slots=True)
class _LastFrame:
    offset: int
    """In the tail that was searched."""
    end_sample: int


@dataclass(frozen=True, slots=True)
class _StreamInfo:
    block_size: int
    max_frame_bytes: int
    total_samples: int
    channels: int


def inspect_flac(data: InputBytes, start: int) -> Inspection:
    """Compare STREAMINFO's total with the number of the last frame."""
    info = _stream_info(data, start)
    if info is None:
        return Inspection(skip=start, truncation=f"a FLAC of {data.size} bytes without its STREAMINFO")
    last = _last_frame(data, start, info)
    total = info.total_samples
    seen = Inspection(skip=start, promised_frames=total or None)
    if last is None or (total and last.end_sample < total):
        there = 0 if last is None else last.end_sample
        return Inspection(
            skip=start,
            truncation=f"STREAMINFO promises {total} samples, the last frame ends at {there}",
            sound_frames=there or None,
        )
    if total and last.end_sample > total:
        return Inspection(skip=start, damage=f"STREAMINFO says {total} samples, the frames go on to {last.end_sample}")
    return seen if total else Inspection(skip=start, promised_frames=last.end_sample)


def ends_with_whole_frame(data: InputBytes, start: int) -> bool:
    """Whether the checksum of the last frame agrees: then a decoder's error lies before it."""
    info = _stream_info(data, start)
    last = None if info is None else _last_frame(data, start, info)
    if last is None:
        return False
    tail = data.read_at(last.offset, data.size - last.offset)
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    return _crc16(tail) == 0


def _stream_info(data: InputBytes, start: int) -> _StreamInfo | None:
    header = data.read_at(start, 42)
    if len(header) < 42 or header[4] & 0x7F != 0:
        return None
    packed = int.from_bytes(header[18:26], "big")
    return _StreamInfo(
        block_size=int.from_bytes(header[10:12], "big"),
        max_frame_bytes=int.from_bytes(header[15:18], "big"),
        total_samples=packed & 0xFFFFFFFFF,
        channels=(packed >> 41 & 7) + 1,
    )


def _last_frame(data: InputBytes, start: int, info: _StreamInfo) -> _LastFrame | None:
    # Twice the largest frame holds the start of one, whatever tag follows; STREAMINFO may not know it, or lie.
    size = min(data.size - start, max(1 << 16, 2 * info.max_frame_bytes + 1024))
    for tail_bytes in (size, min(data.size - start, _TAIL_BYTES)):
        offset = data.size - tail_bytes
        tail = data.read_at(offset, tail_bytes)
        place = len(tail)
        while (place := tail.rfind(b"\xff", 0, place)) >= 0:
            if (end_sample := _frame_end(tail[place : place + 20], info)) is not None:
                return _LastFrame(offset + place, end_sample)
    return None


def _frame_end(header: bytes, info: _StreamInfo) -> int | None:
    """Where the frame whose header this is ends, in samples; None when it is no frame header of this stream."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    variable, size_code, rate_code = header[1] & 1, header[2] >> 4, header[2] & 15
    channels = header[3] >> 4
    if size_code == 0 or rate_code == 15 or channels > 10 or header[3] >> 1 & 7 == 3:
        return None
    if (channels + 1 if channels < 8 else 2) != info.channels:
        return None
    number, place = _coded_number(header, 4)
    if number is None:
        return None
    extra = {6: 1, 7: 2}.get(size_code, 0)
    block = int.from_bytes(header[place : place + extra], "big") + 1 if extra else _BLOCK_SIZES[size_code]
    place += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(header) or _crc8(header[:place]) != header[place]:
        return None
    return (number if variable else number * info.block_size) + block


def _coded_number(header: bytes, place: int) -> tuple[int | None, int]:
    """A number coded like UTF-8, of up to 7 bytes, and the place after it."""
    first = header[place]
    if first < 0x80:
        return first, place + 1
    length = 8 - (~first & 0xFF).bit_length()
    if length < 2 or length > 7:
        return None, place
    number = first & (0x7F >> length)
    for byte in header[place + 1 : place + length]:
        if byte & 0xC0 != 0x80:
            return None, place
        number = number << 6 | byte & 0x3F
    return number, place + length


def _crc_table(polynomial: int, bits: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << bits - 8
        for _ in range(8):
            crc = crc << 1 ^ (polynomial if crc >> bits - 1 & 1 else 0)
            crc &= (1 << bits) - 1
        table.append(crc)
    return tuple(table)


_CRC8, _CRC16 = _crc_table(0x07, 8), _crc_table(0x8005, 16)


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc16(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc
