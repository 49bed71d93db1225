"""Codes of one window to bytes and back: packed, or by the arithmetic coder with a language model.

Letters in shapes: K codebooks in use (n_q), T frames, E entries of a codebook. In a stream the codes of a frame stand
together, coarse first, frame after frame.
"""

from array import array
from typing import BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from encodec_core.entropy.arithmetic import ArithmeticDecoder, ArithmeticEncoder, quantised_cdf
from encodec_core.entropy.bitpack import pack_bits, packed_size, unpack_bits
from encodec_core.entropy.errors import EcdcTruncatedError
from encodec_core.entropy.lm import LanguageModel
from encodec_core.modules.transformer import TransformerState

__all__ = [
    "CodePredictor",
    "FloatPredictor",
    "decode_window",
    "encode_window",
    "pack_window",
    "read_exactly",
    "unpack_window",
]

BLOCK_VALUES = 2**16
"""Values packed or unpacked at once: a multiple of 8, so that blocks meet between bytes."""


class CodePredictor(Protocol):
    """Says before each frame of a stream what share of 2**24 each code has; it remembers the frames before."""

    max_frames: int
    """Frames that may be asked for at once."""

    def ends(self, previous: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take the codes of the frame before each, plus 1, `[K, T]`, and return the ends of shares `[T, K, E]`."""


class FloatPredictor:
    """The language model as it is, frame by frame: the shares are those of Meta's package on one machine.

    Another machine, or another version of torch, can round a probability to another share, and cannot decode then.
    """

    max_frames = 1

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._state: TransformerState | None = None

    @torch.no_grad()
    def ends(self, previous: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `CodePredictor`; T is 1."""
        device = next(self._model.parameters()).device
        indices = torch.from_numpy(previous)[None].to(device)
        probabilities, self._state = self._model.probabilities(indices, self._state)
        return quantised_cdf(probabilities[0].permute(2, 1, 0))


def pack_window(codes: NDArray[np.int64], *, bits: int, file: BinaryIO) -> None:
    """Write codes `[K, T]`, `bits` bits each, filled to a whole byte at the end."""
    values = codes.T.ravel()
    for start in range(0, len(values), BLOCK_VALUES):
        file.write(pack_bits(values[start : start + BLOCK_VALUES], bits=bits))


def unpack_window(file: BinaryIO, *, num_codebooks: int, num_frames: int, bits: int) -> NDArray[np.uint16]:
    """Read what `pack_window` wrote: uint16 `[K, T]`.

    Memory grows with the bytes that are there, not with `num_frames`.

    Raises:
        EcdcTruncatedError: the stream ended.
    """
    blocks, left = [], num_codebooks * num_frames
    while left:
        num_values = min(left, BLOCK_VALUES)
        packed = read_exactly(file, packed_size(num_values, bits=bits))
        blocks.append(unpack_bits(packed, bits=bits, num_values=num_values).astype(np.uint16))
        left -= num_values
    return np.concatenate(blocks).reshape(num_frames, num_codebooks).T


def encode_window(codes: NDArray[np.int64], *, predictor: CodePredictor, file: BinaryIO) -> None:
    """Write codes `[K, T]` by the arithmetic coder; `predictor` is at the start of its stream."""
    encoder = ArithmeticEncoder(file.write)
    previous = np.zeros_like(codes)
    previous[:, 1:] = codes[:, :-1] + 1
    for first in range(0, codes.shape[1], predictor.max_frames):
        frames = slice(first, first + predictor.max_frames)
        ends = predictor.ends(previous[:, frames])
        starts = np.concatenate([np.zeros_like(ends[..., :1]), ends[..., :-1]], axis=-1)
        chosen = codes[:, frames].T[..., None]
        shares = (np.take_along_axis(edges, chosen, axis=-1).ravel().tolist() for edges in (starts, ends))
        for start, end in zip(*shares, strict=True):
            encoder.push(start, end)
    encoder.flush()


def decode_window(
    file: BinaryIO, *, num_codebooks: int, num_frames: int, predictor: CodePredictor
) -> NDArray[np.uint16]:
    """Read what `encode_window` wrote: uint16 `[K, T]`.

    Memory grows with the codes that the stream holds, not with `num_frames`.

    Raises:
        EcdcTruncatedError: the stream ended.
        EcdcError: the stream is not one that this predictor made.
    """
    decoder = ArithmeticDecoder(file)
    decoded = array("H")
    previous = np.zeros((num_codebooks, 1), np.int64)
    for _ in range(num_frames):
        frame = [decoder.pull(ends) for ends in predictor.ends(previous)[0]]
        decoded.extend(frame)
        previous = np.array(frame, np.int64)[:, None] + 1
    return np.frombuffer(decoded, np.uint16).reshape(num_frames, num_codebooks).T


def read_exactly(file: BinaryIO, num_bytes: int) -> bytes:
    """Read `num_bytes`, in as many reads as the file needs for them (sockets and pipes return fewer than asked).

    Raises:
        EcdcTruncatedError: the stream ended.
    """
    pieces, left = [], num_bytes
    while left:
        piece = file.read(left)
        if not piece:
            raise EcdcTruncatedError(
                f"the stream ended {left} bytes sooner than its header says; copy the file again, it was cut"
            )
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
