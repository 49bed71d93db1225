"""Check Ogg by its pages: libsndfile takes whatever page it finds last for the end of the stream."""

import itertools
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.opened import InputBytes

__all__ = ["check_pages", "inspect_ogg", "is_opus"]

_LARGEST_PAGE = 27 + 255 + 255 * 255
_BEGIN_OF_STREAM, _END_OF_STREAM = 2, 4


def is_opus(data: InputBytes, start: int) -> bool:
    """Whether the first packet of an Ogg stream is an Opus header."""
    return data.read_at(start + 28, 8) == b"OpusHead"


@dataclass(slots=True)
class _Stream:
    """One logical stream of audio, as its page headers tell."""

    count_samples: Callable[[list[bytes]], int]
    """How many samples its first packets hold."""
    pre_skip: int = 0
    """Samples that Opus drops at the start."""
    first_position: int | None = None
    """At the end of the first page with audio, in samples."""
    first_samples: int = 0
    """That the packets of this page hold."""
    last_position: int = 0
    last_page: int = 0
    """Its first byte."""

    @property
    def num_samples(self) -> int:
        """At least this many.

        A stream that was cut out of a longer one does not begin at zero; its first page is left out, since what it
        holds is known for the usual encoders alone.
        """
        first = self.first_position or 0
        start = 0 if first <= self.first_samples else first
        return max(0, self.last_position - start - self.pre_skip)


def inspect_ogg(data: InputBytes, start: int) -> Inspection:
    """Walk the pages: each audio stream must end with a whole page that says so, and its positions are a promise.

    libsndfile skips damaged pages and takes the last good one for the end, without an error.
    """
    streams: dict[bytes, _Stream] = {}
    place = start
    while len(header := data.read_at(place, 27 + 255 + 64)) >= 27 and header[:4] == b"OggS":
        length = _page_length(header)
        if length is None or place + length > data.size:
            return Inspection(skip=start, truncation=f"the Ogg page at byte {place} is cut")
        _note_page(streams, data, header, place)
        place += length
    left = data.read_at(place, 1 << 16)
    if any(left):
        if left[:4] == b"OggS"[: len(left)]:
            return Inspection(skip=start, truncation=f"the Ogg page at byte {place} is cut")
        return Inspection(skip=start, damage=f"no Ogg page at byte {place} of {data.size}, where the one before ends")
    if not streams:
        return Inspection(skip=start, damage="an Ogg without a stream of audio")
    return _check_ends(data, start, streams)


def check_pages(data: InputBytes, start: int, seen: Inspection) -> Inspection:
    """Add to what `inspect_ogg` saw where the first damage lies, which takes reading every page.

    Decoders leave a damaged page out without an error: what follows it is heard too early.
    """
    streams: dict[bytes, _Stream] = {}
    place, damage = start, seen.damage
    while len(header := data.read_at(place, 27 + 255 + 64)) >= 27 and header[:4] == b"OggS":
        length = _page_length(header)
        if length is None or place + length > data.size:
            break
        page = data.read_at(place, length)
        if _checksum(page) != struct.unpack("<I", page[22:26])[0]:
            damage = damage or f"the checksum of the Ogg page at byte {place} is wrong"
            break
        _note_page(streams, data, header, place)
        place += length
    if damage is None:
        return seen
    sound = next(iter(streams.values())).num_samples if len(streams) == 1 else 0
    return replace(
        seen, damage=damage, sound_frames=sound, promised_rate=48_000 if is_opus(data, start) else seen.promised_rate
    )


def _note_page(streams: dict[bytes, _Stream], data: InputBytes, header: bytes, place: int) -> None:
    flags, position, serial = struct.unpack("<xxxxxBq4s", header[:18])
    if flags & _BEGIN_OF_STREAM and (stream := _begin(header[27 + header[26] :])) is not None:
        if serial in streams:  # a later link of a chain may use the number again
            streams[serial + place.to_bytes(8, "big")] = streams.pop(serial)
        streams[serial] = stream
    current = streams.get(serial)
    if current is None:
        return
    current.last_page = place
    if position > 0:
        if current.first_position is None:
            current.first_position = position
            current.first_samples = current.count_samples(_packet_starts(data, header, place))
        current.last_position = position


def _packet_starts(data: InputBytes, header: bytes, place: int) -> list[bytes]:
    """The first two bytes of each packet that ends on a page."""
    lacing = header[27 : 27 + header[26]]
    body = data.read_at(place + 27 + header[26], sum(lacing))
    starts, start, end = [], 0, 0
    for length in lacing:
        end += length
        if length < 255:
            starts.append(body[start : min(end, start + 2)])
            start = end
    return starts


def _begin(packet: bytes) -> _Stream | None:
    """A stream by its first packet; None when it is no audio."""
    if packet[:7] == b"\x01vorbis" and len(packet) > 28:
        return _Stream(partial(_vorbis_samples, short=1 << (packet[28] & 15), long=1 << (packet[28] >> 4)))
    if packet[:8] == b"OpusHead":
        return _Stream(_opus_samples, pre_skip=int.from_bytes(packet[10:12], "little"))
    if packet[:5] == b"\x7fFLAC" or packet[:8] == b"Speex   ":
        return _Stream(len)
    return None


def _vorbis_samples(packets: list[bytes], *, short: int, long: int) -> int:
    # The bit after the packet type is the mode; libvorbis has two, of which the second is the long block.
    blocks = [long if packet[:1] and packet[0] & 2 else short for packet in packets]
    return sum((before + block) // 4 for before, block in itertools.pairwise(blocks))


def _opus_samples(packets: list[bytes]) -> int:
    return sum(_opus_frame_samples(packet) * _opus_frames(packet) for packet in packets if packet)


def _opus_frame_samples(packet: bytes) -> int:
    """By the configuration in a packet's first byte (RFC 6716, table 2), at 48 kHz."""
    configuration = packet[0] >> 3
    if configuration < 12:
        return (480, 960, 1920, 2880)[configuration & 3]
    if configuration < 16:
        return (480, 960)[configuration & 1]
    return 120 << (configuration & 3)


def _opus_frames(packet: bytes) -> int:
    return (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[packet[0] & 3]


def _check_ends(data: InputBytes, start: int, streams: Mapping[bytes, _Stream]) -> Inspection:
    for stream in streams.values():
        page = data.read_at(stream.last_page, _LARGEST_PAGE)
        page = page[: _page_length(page)]
        if _checksum(page) != struct.unpack("<I", page[22:26])[0]:
            return Inspection(skip=start, damage="the checksum of the last Ogg page is wrong")
        if not page[5] & _END_OF_STREAM:
            return Inspection(skip=start, truncation="the last Ogg page does not end the stream")
        # Decoders trim what the positions leave no room for, down to nothing and without an error.
        if stream.last_position < stream.pre_skip and int.from_bytes(page[18:22], "little") > 1:
            return Inspection(
                skip=start,
                damage=f"the Opus stream ends at sample {stream.last_position}, within the {stream.pre_skip} it skips",
                sound_frames=0,
            )
    if len(streams) > 1:
        return Inspection(
            skip=start, truncation=f"{len(streams)} streams of audio in one Ogg file, of which decoders read the first"
        )
    (stream,) = streams.values()
    return Inspection(
        skip=start, promised_frames=stream.num_samples, promised_rate=48_000 if is_opus(data, start) else None
    )


def _page_length(page: bytes) -> int | None:
    if len(page) < 27 or len(page) < 27 + page[26]:
        return None
    return 27 + page[26] + sum(page[27 : 27 + page[26]])


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _checksum(page: bytes) -> int:
    """Of a whole page: zlib's polynomial with the bits in the other order, which is a hundred times Python's speed."""
    content = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED_BITS)
    crc = zlib.crc32(content, 0xFFFFFFFF) ^ 0xFFFFFFFF  # begins with zeros, and is not inverted
    return int.from_bytes(crc.to_bytes(4, "little").translate(_REVERSED_BITS))
