"""Recordings to windows of codes and back, as Meta's package cuts and joins them.

Letters in shapes: C channels, n samples, K codebooks in use (n_q), T frames.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encodec_core.batch_encoder import BatchEncoder
from encodec_core.config import EncodecConfig
from encodec_core.model import EncodecModel
from encodec_core.spans import each_window_span
from encodec_core.streaming import StreamingDecoder
from encodec_core.windows import linear_overlap_add

__all__ = ["Window", "decoded_waveform", "encoded_windows"]

MAX_WHOLE_SECONDS = 120
"""Longer recordings of a codec without windows go piece by piece. Whole, the 24 kHz codec took 17 MB a second."""
DECODED_FRAMES = 1024
"""Frames of a piece."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """Codes of one window, or of a recording that is encoded whole."""

    codes: NDArray[np.integer]
    """`[K, T]`."""
    scale: float | None
    """Loudness; None unless the codec normalises."""


def encoded_windows(model: EncodecModel, waveform: Tensor, *, bandwidth_kbps: float) -> Iterator[Window]:
    """Encode a recording float32 `[C, n]`, n > 0, window by window."""
    config = model.config
    num_samples = waveform.shape[-1]
    if config.chunk_length is None and _is_long(config, num_samples):
        (encoded,) = BatchEncoder(model, bandwidth_kbps, device=model.device).encode([waveform])
        yield Window(codes=encoded.codes.numpy(), scale=None)
        return
    n_q = config.n_q_for(bandwidth_kbps)
    for span in each_window_span(num_samples, length=config.chunk_length, stride=config.chunk_stride):
        codes, scale = model.encode_window(waveform[None, :, span].to(model.device), n_q=n_q)
        yield Window(codes=codes[0].cpu().numpy(), scale=None if scale is None else scale.item())


def decoded_waveform(model: EncodecModel, windows: Sequence[Window]) -> Tensor:
    """Decode windows to `[C, n]` on the CPU, n whole frames of the last one."""
    if model.config.chunk_length is None:
        (recording,) = windows
        if model.config.use_causal_conv and _is_long(model.config, recording.codes.shape[1] * model.config.hop_length):
            return _streamed(model, recording.codes)
        return _decoded(model, recording)
    decoded = [_decoded(model, window) for window in windows]
    return linear_overlap_add(decoded, stride=model.config.chunk_stride or model.config.chunk_length)


def _is_long(config: EncodecConfig, num_samples: int) -> bool:
    return num_samples > MAX_WHOLE_SECONDS * config.sampling_rate


def _decoded(model: EncodecModel, window: Window) -> Tensor:
    codes = torch.from_numpy(window.codes.astype(np.int64))[None].to(model.device)
    scale = None if window.scale is None else torch.tensor([[window.scale]], device=model.device, dtype=model.dtype)
    return model.decode_window(codes, scale)[0].cpu()


def _streamed(model: EncodecModel, codes: NDArray[np.integer]) -> Tensor:
    decoder = StreamingDecoder(model, device=model.device)
    pieces = torch.split(torch.from_numpy(codes.astype(np.int64)), DECODED_FRAMES, dim=-1)
    return torch.cat([*(decoder.push(piece) for piece in pieces), decoder.flush()], dim=-1)
