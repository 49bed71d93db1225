"""The header of an `.ecdc` file.

    "ECDC" | version, 1 byte | length of the JSON, 4 bytes, big-endian | JSON | windows

    version 0    Meta's: {"m": codec, "al": samples, "nc": codebooks, "lm": whether a language model was used}
    version 1    the same, "lm" true, and "fp": version of the fixed-point arithmetic; after the windows a CRC-32 (4
                 bytes, big-endian) of the bytes of the header and, for each window, of its scale as in the file (4
                 bytes, where there are any) and its codes (2 bytes each, little-endian, frame after frame). Meta's
                 package refuses it ("Version not supported")

Where a language model is not the published one of a published codec, "lw" names it: 16 digits of the sha256 of its
weights and shape.
"""

import json
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from encodec_core.entropy.coding import read_exactly
from encodec_core.entropy.errors import EcdcError
from encodec_core.entropy.fixed_point import FIXED_POINT_VERSION

__all__ = [
    "FIXED_POINT_FORMAT",
    "REFERENCE_FORMAT",
    "EcdcHeader",
    "encoded_header",
    "read_encoded_header",
    "read_header",
]

MAGIC = b"ECDC"
REFERENCE_FORMAT = 0
FIXED_POINT_FORMAT = 1
MAX_JSON_BYTES = 4096
"""Real headers have about 60."""
MAX_SAMPLES = 2**48
"""186 years at 48 kHz."""
MAX_CODEBOOKS = 2**16
_PREAMBLE = struct.Struct("!4sBI")


@dataclass(frozen=True, slots=True, kw_only=True)
class EcdcHeader:
    """What is known of a file before its codes."""

    codec_name: str
    """See `naming`."""
    num_samples: int
    """Of each channel, at the codec's rate; at least 1."""
    num_codebooks: int
    """K."""
    uses_lm: bool
    """Whether the codes went through the arithmetic coder; else they are packed."""
    fixed_point: bool = False
    """Whether the language model ran in fixed-point arithmetic."""
    lm_digits: str | None = None
    """First digits of the sha256 of the language model's weights and shape; None: the one that the codec's name
    implies, or none."""

    def __post_init__(self) -> None:
        for key, value, limit in (("al", self.num_samples, MAX_SAMPLES), ("nc", self.num_codebooks, MAX_CODEBOOKS)):
            if type(value) is not int or not 1 <= value <= limit:
                raise EcdcError(f"the header's {key} is {value!r}; expected an integer from 1 to {limit}")
        if not isinstance(self.codec_name, str) or not isinstance(self.lm_digits, str | None):
            raise EcdcError(f"the header's names are {self.codec_name!r} and {self.lm_digits!r}; expected text")
        if type(self.uses_lm) is not bool or (self.fixed_point and not self.uses_lm):
            raise EcdcError(f"the header's lm is {self.uses_lm!r}; expected true or false, and true in a later format")


def encoded_header(header: EcdcHeader) -> bytes:
    """Return the bytes of the header; those of the reference's format are the reference's."""
    keys: dict[str, Any] = {
        "m": header.codec_name,
        "al": header.num_samples,
        "nc": header.num_codebooks,
        "lm": header.uses_lm,
    }
    if header.fixed_point:
        keys["fp"] = FIXED_POINT_VERSION
    if header.lm_digits is not None:
        keys["lw"] = header.lm_digits
    encoded = json.dumps(keys).encode()
    version = FIXED_POINT_FORMAT if header.fixed_point else REFERENCE_FORMAT
    return _PREAMBLE.pack(MAGIC, version, len(encoded)) + encoded


def read_header(file: BinaryIO) -> EcdcHeader:
    """Read the header.

    Raises:
        EcdcError: this is no `.ecdc` file, one of another version, or its header makes no sense.
        EcdcTruncatedError: the stream ended.
    """
    header, _ = read_encoded_header(file)
    return header


def read_encoded_header(file: BinaryIO) -> tuple[EcdcHeader, bytes]:
    """Read the header, and return its bytes too; see `read_header`."""
    preamble = read_exactly(file, _PREAMBLE.size)
    magic, version, num_bytes = _PREAMBLE.unpack(preamble)
    if magic != MAGIC:
        raise EcdcError(f"the stream begins with {magic!r}, an .ecdc file with {MAGIC!r}; give a compressed file")
    if version not in (REFERENCE_FORMAT, FIXED_POINT_FORMAT):
        raise EcdcError(
            f"version {version} of the .ecdc format is unknown; this program reads {REFERENCE_FORMAT} and "
            f"{FIXED_POINT_FORMAT}. Update it, or copy the file again"
        )
    if num_bytes > MAX_JSON_BYTES:
        raise EcdcError(f"a header of {num_bytes} bytes; expected at most {MAX_JSON_BYTES}. Copy the file again")
    encoded = read_exactly(file, num_bytes)
    keys = _parsed(encoded)
    fixed_point = version == FIXED_POINT_FORMAT
    if fixed_point and keys.get("fp") != FIXED_POINT_VERSION:
        raise EcdcError(
            f"version {keys.get('fp')!r} of the fixed-point arithmetic is unknown; this program has "
            f"{FIXED_POINT_VERSION}. Decompress with the program that made the file"
        )
    if not fixed_point and "fp" in keys:
        raise EcdcError(f"a header of version {version} has fixed-point arithmetic; copy the file again")
    header = EcdcHeader(
        codec_name=keys["m"],
        num_samples=keys["al"],
        num_codebooks=keys["nc"],
        uses_lm=keys["lm"],
        fixed_point=fixed_point,
        lm_digits=keys.get("lw"),
    )
    return header, preamble + encoded


def _parsed(encoded: bytes) -> dict[str, Any]:
    try:
        keys = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise EcdcError(f"the header is no JSON ({type(error).__name__}: {error}); copy the file again") from error
    if not isinstance(keys, dict) or not {"m", "al", "nc", "lm"} <= keys.keys():
        raise EcdcError(f"the header is {str(keys)[:200]}; expected the keys m, al, nc and lm. Copy the file again")
    return keys
