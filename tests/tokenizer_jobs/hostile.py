"""Audio files that are broken on purpose, made by code from a seed, each with what may become of it.

What cannot be told from the bytes alone, and is therefore allowed to pass as a row:

- Raw samples have no checksum: flipped or zeroed bytes inside WAV data are other audio, of the same length.
- A WAV's `fmt ` chunk is believed where it does not contradict itself: another rate or channel count is other audio.
- MP3 and AAC frames have no checksum: damage inside one is noise of the same length. The counts in the Xing header and
  in the sample tables of MP4 tell when frames are missing. Of MP3 a damaged last frame that the decoder drops can pass.
- The edit list of an MP4 may hide audio on purpose; damage to its time scales and durations has the same effect.
- Ogg pages and FLAC frames are checksummed: damage there is found.
"""

import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from tests.tokenizer_jobs.clips import encode, speechlike
from tests.tokenizer_jobs.test_decode_ffmpeg import encode_by_ffmpeg
from tokenizer_jobs.decode.ogg import _checksum
from tokenizer_jobs.errors import RejectReason

RATE = 16000
SECONDS = 0.5

EMPTY, NOT_AUDIO, CORRUPT, TRUNCATED = (
    RejectReason.EMPTY,
    RejectReason.NOT_AUDIO,
    RejectReason.CORRUPT,
    RejectReason.TRUNCATED,
)
DAMAGED = frozenset({CORRUPT, TRUNCATED})
UNKNOWN = frozenset({NOT_AUDIO, CORRUPT, TRUNCATED})
WILD = UNKNOWN | {EMPTY, RejectReason.ABSURD_PEAK, RejectReason.NON_FINITE, RejectReason.UNSUPPORTED_CHANNELS}
"""What may become of a file whose header was hit at random."""

LEAST = {"wav": 0.99, "flac": 0.99, "ogg": 0.99, "opus": 0.99, "mp3": 1 - 576 / (SECONDS * RATE), "m4a": 0.99}
"""How much of a clip's audio there must be in a row of it after damage that cannot be seen."""
EXTENSIONS = {"wav": "wav", "flac": "flac", "ogg": "ogg", "opus": "opus", "mp3": "mp3", "m4a": "m4a"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """One broken file."""

    kind: str
    damage: str
    """What was done to it."""
    content: bytes
    reasons: frozenset[RejectReason]
    """Which rejects are right; empty: only a row is."""
    may_pass: bool = False
    """Whether a row is right as well."""
    least_share: float = 0.0
    """Of a row: how much of the clean clip's audio there must be."""
    extension: str | None = None
    """Of its name; None: that of its kind."""


@lru_cache
def clean(kind: str) -> bytes:
    """A whole clip of half a second."""
    num_samples = round(SECONDS * RATE)
    match kind:
        case "wav":
            return encode(speechlike(num_samples), container="WAV", coding="PCM_16")
        case "flac":
            return encode(speechlike(num_samples), container="FLAC", coding="PCM_16")
        case "ogg":
            return encode(speechlike(num_samples), container="OGG", coding="VORBIS")
        case "mp3":
            return encode(speechlike(num_samples), container="MP3", coding="MPEG_LAYER_III")
        case _:
            return encode_by_ffmpeg(kind, round(SECONDS * 48000))


def corpus(*, seed: int = 0, density: int = 1) -> Iterator[Hostile]:
    """Every broken file: about 450, and `density` times as many of those that are made at random."""
    for kind in EXTENSIONS:
        yield from _cuts(kind, random.Random(f"{seed} cut {kind}"), number=16 * density)
        yield from _flips(kind, random.Random(f"{seed} flip {kind}"), number=14 * density)
        yield from _holes(kind, random.Random(f"{seed} hole {kind}"), number=8 * density)
        yield from _strangers(kind, random.Random(f"{seed} strange {kind}"))
        yield from _LIES[kind](clean(kind))


def _cuts(kind: str, chance: random.Random, *, number: int) -> Iterator[Hostile]:
    whole = clean(kind)
    places = {place + step for place in _boundaries(kind, whole) for step in (-1, 0, 1)}
    places |= {1, len(whole) - 1} | {chance.randrange(len(whole)) for _ in range(number)}
    for size in sorted(place for place in places if 0 < place < len(whole)):
        reasons = UNKNOWN | {EMPTY} if size < 16 else frozenset({TRUNCATED})
        if kind == "mp3" and size < 1000:  # a frame or two: too few to tell from noise
            reasons |= {NOT_AUDIO}
        yield Hostile(kind=kind, damage=f"cut at {size}", content=whole[:size], reasons=reasons)


def _boundaries(kind: str, whole: bytes) -> list[int]:
    """Where headers, blocks, pages and frames begin: of many the first and the last."""
    match kind:
        case "wav":
            return [12, 20, 36, 44]
        case "flac":
            return [4, 8, *_flac_blocks(whole)]
        case "ogg" | "opus":
            pages = [place for place in range(len(whole)) if whole.startswith(b"OggS", place)]
            return [*pages[:3], *(page + 27 for page in pages[:3]), *pages[-2:]]
        case "mp3":
            frames = [place for place in range(len(whole)) if whole.startswith(whole[:2], place)]
            return [*frames[:3], *frames[-2:]]
        case _:
            return [place for place, _ in _boxes(whole)]


def _flac_blocks(whole: bytes) -> list[int]:
    places, place, is_last = [], 4, False
    while not is_last:
        is_last = bool(whole[place] & 0x80)
        place += 4 + int.from_bytes(whole[place + 1 : place + 4], "big")
        places.append(place)
    return places


def _boxes(whole: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Start and name of every box of an MP4, those inside `moov` too."""
    place, end = start, len(whole) if end is None else end
    while place + 8 <= end:
        size, name = struct.unpack(">I4s", whole[place : place + 8])
        yield place, name
        if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            yield from _boxes(whole, place + 8, place + size)
        place += size


def _flips(kind: str, chance: random.Random, *, number: int) -> Iterator[Hostile]:
    whole = clean(kind)
    header = _header_bytes(kind, whole)
    for turn in range(number):
        in_header = turn % 3 == 0
        content = bytearray(whole)
        places = [
            chance.randrange(header) if in_header else chance.randrange(header, len(whole)) for _ in range(1 + turn % 4)
        ]
        for place in places:
            content[place] ^= 1 << chance.randrange(8)
        yield Hostile(
            kind=kind,
            damage=f"bits flipped at {', '.join(map(str, sorted(places)))}",
            content=bytes(content),
            reasons=WILD if in_header or kind in ("m4a", "mp3") else DAMAGED,
            may_pass=in_header or kind in ("wav", "mp3", "m4a"),
            least_share=0.0
            if in_header or any(_is_description(kind, whole, place) for place in places)
            else LEAST[kind],
        )


def _header_bytes(kind: str, whole: bytes) -> int:
    """How many bytes come before the audio."""
    match kind:
        case "wav":
            return 44
        case "flac":
            return _flac_blocks(whole)[-1]
        case "ogg" | "opus":
            return 60
        case "mp3":  # the first frame holds the Xing header, whose delay and padding are believed
            return whole.index(whole[:2], 2)
        case _:
            return next(place for place, name in _boxes(whole) if name == b"mdat") + 8


def _holes(kind: str, chance: random.Random, *, number: int) -> Iterator[Hostile]:
    whole = clean(kind)
    header = _header_bytes(kind, whole)
    for turn in range(number):
        length = (512, 64, 1024, 4096)[turn % 4]
        place = chance.randrange(header, max(header + 1, len(whole) - 8))
        length = min(length, len(whole) - place)
        yield Hostile(
            kind=kind,
            damage=f"{length} zeros at {place}",
            content=whole[:place] + bytes(length) + whole[place + length :],
            reasons=WILD if kind in ("m4a", "mp3") else DAMAGED,
            may_pass=kind in ("wav", "mp3", "m4a"),
            least_share=0.0
            if any(_is_description(kind, whole, hit) for hit in range(place, place + length, 4))
            else LEAST[kind],
        )


def _is_description(kind: str, whole: bytes, place: int) -> bool:
    """Whether a byte tells an MP4's time scales, durations and edits."""
    if kind != "m4a":
        return False
    _, name = max((start, name) for start, name in _boxes(whole) if start <= place)
    return name in (b"mvhd", b"edts", b"mdhd", b"stts")


_PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>nothing here</body></html>\n"


def _strangers(kind: str, chance: random.Random) -> Iterator[Hostile]:
    """Files that are not what their names say."""
    others = [other for other in EXTENSIONS if other != kind]
    for other in others:
        yield Hostile(
            kind=kind,
            damage=f"named .{EXTENSIONS[other]}",
            content=clean(kind),
            reasons=frozenset(),
            may_pass=True,
            least_share=0.99,
            extension=EXTENSIONS[other],
        )
    nothing: Mapping[str, tuple[bytes, frozenset[RejectReason]]] = {
        "empty": (b"", frozenset({EMPTY})),
        "a page": (_PAGE, frozenset({NOT_AUDIO})),
        "a long page": (_PAGE * 400, frozenset({NOT_AUDIO})),
        "JSON": (b'{"error": "expired"}', frozenset({NOT_AUDIO})),
        "zeros": (bytes(5000), UNKNOWN),
        "noise": (chance.randbytes(20_000), UNKNOWN),
        "a picture": (
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\0\0\0\0:~\x9bU" + chance.randbytes(300),
            UNKNOWN,
        ),
        "the header twice": (clean(kind)[:64] + clean(kind), WILD),
    }
    for damage, (content, reasons) in nothing.items():
        yield Hostile(
            kind=kind,
            damage=damage,
            content=content,
            reasons=reasons,
            may_pass=damage == "the header twice",
        )


def _lie(
    kind: str, damage: str, content: bytes, *reasons: RejectReason, passes: bool = False, share: float = 0.0
) -> Hostile:
    return Hostile(
        kind=kind, damage=damage, content=content, reasons=frozenset(reasons), may_pass=passes, least_share=share
    )


def _put(whole: bytes, place: int, layout: str, value: int) -> bytes:
    field = struct.pack(layout, value)
    return whole[:place] + field + whole[place + len(field) :]


def _wav_lies(whole: bytes) -> Iterator[Hostile]:
    for size in (0, 0xFFFFFFFF):
        yield _lie("wav", f"data of {size:#x} bytes", _put(whole, 40, "<I", size), CORRUPT, passes=True, share=0.99)
    for size in (len(whole) - 42, 0x7FFFFFFF, 0xFFFFFFF0):
        yield _lie("wav", f"data of {size:#x} bytes", _put(whole, 40, "<I", size), TRUNCATED)
    yield _lie("wav", "data of half its bytes", _put(whole, 40, "<I", (len(whole) - 44) // 2), CORRUPT)
    for size in (0, 0xFFFFFFFF, 36):
        yield _lie("wav", f"RIFF of {size:#x} bytes", _put(whole, 4, "<I", size), *DAMAGED, passes=True, share=0.99)
    for rate in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
        yield _lie("wav", f"{rate} Hz", _put(whole, 24, "<I", rate), CORRUPT, NOT_AUDIO)
    for channels in (0, 255, 65535):
        reasons = {CORRUPT, NOT_AUDIO, RejectReason.UNSUPPORTED_CHANNELS}
        yield _lie("wav", f"{channels} channels", _put(whole, 22, "<H", channels), *reasons)
    for bits in (0, 255):
        yield _lie("wav", f"{bits} bits", _put(whole, 34, "<H", bits), CORRUPT, NOT_AUDIO, passes=bits == 0, share=0.99)
    for coding in (0, 0xFFFF, 0x55):
        yield _lie("wav", f"coding {coding:#x}", _put(whole, 20, "<H", coding), *WILD)
    yield _lie("wav", "fmt of 0xffffffff bytes", _put(whole, 16, "<I", 0xFFFFFFFF), *UNKNOWN)
    yield _lie("wav", "fmt of 0 bytes", _put(whole, 16, "<I", 0), *UNKNOWN)


def _flac_lies(whole: bytes) -> Iterator[Hostile]:
    info = int.from_bytes(whole[18:26], "big")  # rate 20 bits, channels - 1 in 3, bits - 1 in 5, samples in 36
    clean_info = info & ~0xFFFFFFFFF
    for samples in (1, RATE * 3600, (1 << 36) - 1):
        reasons = {CORRUPT} if samples == 1 else DAMAGED
        yield _lie("flac", f"{samples} samples", _put(whole, 18, ">Q", clean_info | samples), *reasons)
    yield _lie("flac", "unknown samples", _put(whole, 18, ">Q", clean_info), passes=True, share=0.99)
    for rate in (0, (1 << 20) - 1):
        content = _put(whole, 18, ">Q", info & ((1 << 44) - 1) | rate << 44)
        # 0: each frame says the rate again.
        yield _lie("flac", f"{rate} Hz", content, CORRUPT, NOT_AUDIO, passes=rate == 0, share=0.99)
    content = _put(whole, 18, ">Q", info | 7 << 41)
    yield _lie("flac", "8 channels", content, *DAMAGED, RejectReason.UNSUPPORTED_CHANNELS)
    yield _lie("flac", "a block of 0xffffff bytes", _put(whole, 4, ">I", 0xFFFFFF), *UNKNOWN)


def _ogg_lies(whole: bytes) -> Iterator[Hostile]:
    for kind_channels in (0, 255):
        content = _with_checksums(_put(whole, whole.index(b"\x01vorbis") + 11, "B", kind_channels))
        yield _lie("ogg", f"{kind_channels} channels", content, *UNKNOWN, RejectReason.UNSUPPORTED_CHANNELS, EMPTY)
    for rate in (0, 0xFFFFFFFF):
        content = _with_checksums(_put(whole, whole.index(b"\x01vorbis") + 12, "<I", rate))
        yield _lie("ogg", f"{rate} Hz", content, *UNKNOWN, EMPTY)
    yield from _position_lies("ogg", whole)


def _opus_lies(whole: bytes) -> Iterator[Hostile]:
    head = whole.index(b"OpusHead")
    for channels in (0, 255):
        content = _with_checksums(_put(whole, head + 9, "B", channels))
        yield _lie("opus", f"{channels} channels", content, *UNKNOWN, RejectReason.UNSUPPORTED_CHANNELS, EMPTY)
    yield _lie("opus", "65535 samples skipped", _with_checksums(_put(whole, head + 10, "<H", 65535)), *UNKNOWN, EMPTY)
    yield from _position_lies("opus", whole)


def _position_lies(kind: str, whole: bytes) -> Iterator[Hostile]:
    last = whole.rindex(b"OggS")
    for position, reasons in ((-1, DAMAGED), (0, DAMAGED), (1 << 40, DAMAGED)):
        content = _with_checksums(_put(whole, last + 6, "<q", position))
        yield _lie(kind, f"the end at {position}", content, *reasons, EMPTY, passes=True, share=0.99)
    yield _lie(kind, "no last page", _with_checksums(_put(whole, last + 5, "B", 0)), TRUNCATED)
    yield _lie(kind, "a checksum of 0", _put(whole, last + 22, "<I", 0), *DAMAGED)


def _with_checksums(whole: bytes) -> bytes:
    pages = whole.split(b"OggS")[1:]
    mended = []
    for page in pages:
        content = bytearray(b"OggS" + page)
        content[22:26] = bytes(4)
        content[22:26] = struct.pack("<I", _checksum(bytes(content)))
        mended.append(bytes(content))
    return b"".join(mended)


def _mp3_lies(whole: bytes) -> Iterator[Hostile]:
    tag = next(whole.index(name) for name in (b"Xing", b"Info") if name in whole)
    for frames in (0, 1, 1_000_000, 0xFFFFFFFF):
        content = _put(whole, tag + 8, ">I", frames)
        yield _lie("mp3", f"{frames} frames", content, *DAMAGED, passes=frames == 0, share=0.99)
    for size in (1, 0xFFFFFFFF):
        yield _lie("mp3", f"{size} bytes", _put(whole, tag + 12, ">I", size), *DAMAGED, passes=True, share=0.99)
    tagged = b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + whole
    yield _lie("mp3", "a tag of 256 MiB", tagged, *UNKNOWN)
    yield _lie("mp3", "junk before", bytes(range(1, 200)) + whole, *DAMAGED, passes=True, share=0.99)


def _m4a_lies(whole: bytes) -> Iterator[Hostile]:
    places = {name: place for place, name in _boxes(whole)}
    for name in (b"moov", b"mdat", b"stbl", b"stsz", b"stco"):
        for size in (0, 1, 7, 0xFFFFFFFF):
            content = _put(whole, places[name], ">I", size)
            yield _lie("m4a", f"{name.decode()} of {size:#x} bytes", content, *UNKNOWN, EMPTY, passes=True, share=0.95)
    for count in (0, 1, 0x7FFFFFFF):
        content = _put(whole, places[b"stsz"] + 16, ">I", count)
        yield _lie("m4a", f"{count} packets", content, *UNKNOWN, EMPTY, passes=True, share=0.95)
    content = _put(whole, places[b"mdhd"] + 24, ">I", 0x7FFFFFFF)
    yield _lie("m4a", "2^31 samples", content, *UNKNOWN, passes=True, share=0.95)


_LIES: Mapping[str, Callable[[bytes], Iterator[Hostile]]] = {
    "wav": _wav_lies,
    "flac": _flac_lies,
    "ogg": _ogg_lies,
    "opus": _opus_lies,
    "mp3": _mp3_lies,
    "m4a": _m4a_lies,
}
