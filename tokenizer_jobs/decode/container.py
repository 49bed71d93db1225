"""Compare the sizes that a container declares with the bytes that are there.

libsndfile clamps lengths to the bytes present without a word, so a file that lost its end decodes short and even its
header seems to agree. Here the chunks of WAV (RIFF, RIFX, RF64, BW64), W64, AIFF, CAF, AU and NIST are walked.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tokenizer_jobs.decode.ac3 import inspect_ac3
from tokenizer_jobs.decode.boxes import inspect_matroska, inspect_mp4
from tokenizer_jobs.decode.flac import inspect_flac
from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.mpeg import inspect_mpeg
from tokenizer_jobs.decode.ogg import inspect_ogg
from tokenizer_jobs.decode.opened import InputBytes
from tokenizer_jobs.decode.sniff import AudioKind, Sniffed

__all__ = ["inspect"]

_UNKNOWN_SIZES = frozenset({0xFFFFFFFF, 0x7FFFF000})
"""Data lengths that writers to a pipe leave: FFmpeg's and SoX's. Zero is another, told apart from an empty file."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: bytes
    start: int
    """First byte of its content."""
    size: int
    """As declared."""

    @property
    def end(self) -> int:
        return self.start + self.size


def inspect(data: InputBytes, sniffed: Sniffed) -> Inspection:
    """Check an input by its container, without decoding.

    Raises:
        ItemError: the storage failed to give the bytes.
    """
    match sniffed.kind:
        case AudioKind.WAV:
            return _inspect_wav(data, sniffed.start)
        case AudioKind.W64:
            return _inspect_data_chunk(data, sniffed.start, _w64_chunks(data, sniffed.start), b"data")
        case AudioKind.AIFF:
            return _inspect_aiff(data, sniffed.start)
        case AudioKind.CAF:
            return _inspect_data_chunk(data, sniffed.start, _caf_chunks(data, sniffed.start), b"data")
        case AudioKind.AU:
            return _inspect_au(data, sniffed.start)
        case AudioKind.NIST:
            return _inspect_nist(data, sniffed.start)
        case AudioKind.FLAC:
            return inspect_flac(data, sniffed.start)
        case AudioKind.OGG:
            return inspect_ogg(data, sniffed.start)
        case AudioKind.MPEG:
            return inspect_mpeg(data, sniffed.start, junk_bytes=sniffed.junk_bytes)
        case AudioKind.MP4:
            return inspect_mp4(data, sniffed.start)
        case AudioKind.MATROSKA:
            return inspect_matroska(data, sniffed.start)
        case AudioKind.AC3:
            return inspect_ac3(data, sniffed.start)
        case _:
            return Inspection(skip=sniffed.start)


def _inspect_wav(data: InputBytes, start: int) -> Inspection:
    header = data.read_at(start, 12)
    order = ">" if header[:4] == b"RIFX" else "<"
    riff_end = start + 8 + struct.unpack(order + "I", header[4:8])[0]
    wide_size: int | None = None
    for chunk in _chunks(data, start + 12, order):
        if chunk.name == b"ds64":
            wide_size = struct.unpack("<8xQ8x", data.read_at(chunk.start, 24).ljust(24, b"\0"))[0]
        if chunk.name == b"data":
            size = chunk.size
            if size == 0xFFFFFFFF and wide_size:
                size = wide_size
            return _inspect_wav_data(data, _Chunk(b"data", chunk.start, size), riff_end, start=start, order=order)
    return Inspection(skip=start, truncation=f"a WAV of {data.size} bytes without its data chunk")


def _inspect_wav_data(data: InputBytes, chunk: _Chunk, riff_end: int, *, start: int, order: str) -> Inspection:
    present = data.size - chunk.start
    if chunk.size in _UNKNOWN_SIZES:
        return Inspection(skip=start)
    if chunk.size == 0:
        if riff_end == data.size or present == 0:
            return Inspection(skip=start)  # empty, and says so
        head = data.read_at(start, chunk.start - start - 4) + struct.pack(order + "I", min(present, 0xFFFFFFFE))
        return Inspection(head=head, skip=chunk.start)
    if present < chunk.size:
        return Inspection(skip=start, truncation=_too_few(chunk, present))
    if _goes_on(data, chunk, riff_end, order=order):
        return Inspection(
            skip=start,
            damage=f"the data chunk declares {chunk.size} bytes, and what follows it inside the RIFF is no chunk",
        )
    return Inspection(skip=start)


def _goes_on(data: InputBytes, chunk: _Chunk, riff_end: int, *, order: str) -> bool:
    """Whether bytes that no chunk explains follow the data: then its declared size is too small."""
    end = min(riff_end, data.size)
    if chunk.end + chunk.size % 2 >= end:
        return False
    # Some writers forget the byte that pads an odd chunk.
    return not any(_is_chunk(data, place, riff_end, order=order) for place in {chunk.end, chunk.end + chunk.size % 2})


def _is_chunk(data: InputBytes, place: int, riff_end: int, *, order: str) -> bool:
    header = data.read_at(place, 8)
    if len(header) < 8:
        return data.size - place < 8
    size: int = struct.unpack(order + "I", header[4:])[0]
    return all(0x20 <= byte < 0x7F for byte in header[:4]) and place + 8 + size <= riff_end + 1


def _inspect_data_chunk(data: InputBytes, start: int, chunks: Iterator[_Chunk], name: bytes) -> Inspection:
    chunk = next((chunk for chunk in chunks if chunk.name == name), None)
    if chunk is None:
        return Inspection(skip=start, truncation=f"{data.size} bytes without the {name.decode()} chunk")
    if chunk.size >= 0 and data.size < chunk.end:
        return Inspection(skip=start, truncation=_too_few(chunk, data.size - chunk.start))
    return Inspection(skip=start)


def _inspect_aiff(data: InputBytes, start: int) -> Inspection:
    chunks = {chunk.name: chunk for chunk in _chunks(data, start + 12, ">")}
    seen = _inspect_data_chunk(data, start, iter(chunks.values()), b"SSND")
    if b"COMM" not in chunks:
        return seen if seen.truncation else replace(seen, damage="an AIFF without its COMM chunk", sound_frames=0)
    return replace(seen, promised_frames=int.from_bytes(data.read_at(chunks[b"COMM"].start + 2, 4), "big"))


def _too_few(chunk: _Chunk, present: int) -> str:
    return f"the {chunk.name.decode()} chunk declares {chunk.size} bytes, {max(0, present)} are there"


def _chunks(data: InputBytes, place: int, order: str) -> Iterator[_Chunk]:
    while len(header := data.read_at(place, 8)) == 8:
        chunk = _Chunk(header[:4], place + 8, struct.unpack(order + "I", header[4:])[0])
        yield chunk
        place = chunk.end + chunk.size % 2


def _w64_chunks(data: InputBytes, start: int) -> Iterator[_Chunk]:
    place = start + 40
    while len(header := data.read_at(place, 24)) == 24:
        size = struct.unpack("<Q", header[16:])[0] - 24
        if size < 0:
            return
        yield _Chunk(header[:4], place + 24, size)
        place += 24 + size + -size % 8


def _caf_chunks(data: InputBytes, start: int) -> Iterator[_Chunk]:
    place = start + 8
    while len(header := data.read_at(place, 12)) == 12:
        chunk = _Chunk(header[:4], place + 12, struct.unpack(">q", header[4:])[0])
        yield chunk
        if chunk.size < 0:
            return
        place = chunk.end


def _inspect_au(data: InputBytes, start: int) -> Inspection:
    header = data.read_at(start, 12)
    if len(header) < 12:
        return Inspection(skip=start, truncation=f"an AU file of {data.size} bytes without its header")
    offset, size = struct.unpack(">2I" if header[:4] == b".snd" else "<2I", header[4:])
    chunk = _Chunk(b"data", start + offset, size)
    if size != 0xFFFFFFFF and data.size < chunk.end:
        return Inspection(skip=start, truncation=_too_few(chunk, data.size - chunk.start))
    return Inspection(skip=start)


def _inspect_nist(data: InputBytes, start: int) -> Inspection:
    header = data.read_at(start, 1024)
    if len(header) < 1024:
        return Inspection(skip=start, truncation=f"a NIST header of {len(header)} bytes, expected 1024")
    fields = dict(re.findall(rb"(?m)^(\w+) -i (\d{1,15})$", header))
    try:
        size = int(fields[b"sample_count"]) * int(fields.get(b"channel_count", 1)) * int(fields[b"sample_n_bytes"])
        chunk = _Chunk(b"data", start + int(header[8:16]), size)
    except (KeyError, ValueError):
        return Inspection(
            skip=start, damage="a NIST header without sample_count, sample_n_bytes or its own size", sound_frames=0
        )
    if data.size < chunk.end:
        return Inspection(skip=start, truncation=_too_few(chunk, data.size - chunk.start))
    return Inspection(skip=start)
