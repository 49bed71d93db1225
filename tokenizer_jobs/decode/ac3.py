"""Walk the frames of AC-3 and E-AC-3 by their headers: FFmpeg decodes what lost its end short, without an error."""

from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.opened import InputBytes

__all__ = ["inspect_ac3"]

_SYNC = b"\x0bw"
_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_WINDOW_BYTES = 1 << 20
_HEADER_BYTES = 6


def inspect_ac3(data: InputBytes, start: int) -> Inspection:
    """Check that the last frame is whole; a cut between two frames cannot be told, nor what follows damage."""
    place = offset = start
    window = b""
    while place < data.size:
        if place + _HEADER_BYTES > offset + len(window):
            window, offset = data.read_at(place, _WINDOW_BYTES), place
        header = window[place - offset : place - offset + _HEADER_BYTES]
        if len(header) < _HEADER_BYTES and _SYNC.startswith(header[:2]):
            return Inspection(skip=start, truncation=f"the last AC-3 frame has {len(header)} bytes")
        size = _frame_bytes(header)
        if size is None:
            return Inspection(skip=start)
        place += size
    if place > data.size:
        return Inspection(skip=start, truncation=f"the last AC-3 frame lacks {place - data.size} of its bytes")
    return Inspection(skip=start)


def _frame_bytes(header: bytes) -> int | None:
    if header[:2] != _SYNC:
        return None
    if header[5] >> 3 > 10:  # E-AC-3
        return 2 * ((header[2] & 7) << 8 | header[3]) + 2
    rate, code = header[4] >> 6, header[4] & 63
    if rate == 3 or code >= 2 * len(_KBPS):
        return None
    kbps = _KBPS[code // 2]
    return (4 * kbps, 2 * (kbps * 320 // 147 + code % 2), 6 * kbps)[rate]
