"""Tell what an input is by its bytes; names and extensions lie. Only kinds that can be checked for damage are known."""

from dataclasses import dataclass
from enum import Enum, auto

from tokenizer_jobs.decode.mpeg import find_mpeg_frames
from tokenizer_jobs.decode.opened import InputBytes

__all__ = ["AudioKind", "Sniffed", "sniff"]


class AudioKind(Enum):
    """Containers that are told apart."""

    WAV = auto()
    W64 = auto()
    AIFF = auto()
    AU = auto()
    CAF = auto()
    NIST = auto()
    FLAC = auto()
    OGG = auto()
    MPEG = auto()
    MP4 = auto()
    MATROSKA = auto()
    AC3 = auto()
    OTHER = auto()
    """Read by FFmpeg alone: ASF, AAC, AMR, WavPack and others."""
    G722 = auto()
    """Raw codes without a header; the only kind that is taken by its extension."""
    TEXT = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sniffed:
    """What an input is, and where it begins."""

    kind: AudioKind
    start: int = 0
    """First byte after ID3 tags, or after junk before MPEG audio."""
    junk_bytes: int = 0
    """Before the first MPEG frame; zeros after a tag are padding and not counted."""


W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")

_MAGIC: tuple[tuple[bytes, AudioKind], ...] = (
    (b"fLaC", AudioKind.FLAC),
    (b"OggS", AudioKind.OGG),
    (W64_RIFF, AudioKind.W64),
    (b".snd", AudioKind.AU),
    (b"dns.", AudioKind.AU),
    (b"caff", AudioKind.CAF),
    (b"NIST_1A", AudioKind.NIST),
    (b"\x1aE\xdf\xa3", AudioKind.MATROSKA),
    (bytes.fromhex("3026b2758e66cf11"), AudioKind.OTHER),  # ASF: wma
    (b"#!AMR", AudioKind.OTHER),
    (b"\x0bw", AudioKind.AC3),
    (b"wvpk", AudioKind.OTHER),
    (b"MAC ", AudioKind.OTHER),
    (b"TTA1", AudioKind.OTHER),
)


def sniff(data: InputBytes, *, extension: str) -> Sniffed:
    """Recognise an input.

    Args:
        data: The input.
        extension: Of its name, lower case without the dot; believed for raw G.722 alone.
    """
    start = _after_id3(data)
    head = data.read_at(start, 64)
    kind = _by_magic(head)
    if kind is not AudioKind.UNKNOWN:
        return Sniffed(kind=kind, start=start)
    if (first := find_mpeg_frames(data, start)) is not None:
        before = data.read_at(start, first - start)
        return Sniffed(kind=AudioKind.MPEG, start=first, junk_bytes=len(before.lstrip(b"\0") if start else before))
    if _is_text(data.read_at(0, 1024)):
        return Sniffed(kind=AudioKind.TEXT)
    return Sniffed(kind=AudioKind.G722 if extension == "g722" else AudioKind.UNKNOWN)


def _by_magic(head: bytes) -> AudioKind:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return AudioKind.WAV
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return AudioKind.AIFF
    if head[4:8] == b"ftyp":
        return AudioKind.MP4
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: MPEG sync with layer 0
        return AudioKind.OTHER
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), AudioKind.UNKNOWN)


def _after_id3(data: InputBytes) -> int:
    start = 0
    while (tag := data.read_at(start, 10))[:3] == b"ID3" and len(tag) == 10:
        size = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]  # four times seven bits
        start += 10 + size + (10 if tag[5] & 0x10 else 0)
    return start


def _is_text(head: bytes) -> bool:
    try:
        text = head.removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character cut at the end is still text
            return False
        text = head[: error.start].decode()
    return bool(text) and all(character.isprintable() or character in "\r\n\t\f" for character in text)
