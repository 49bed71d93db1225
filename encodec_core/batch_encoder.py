"""BatchEncoder: many recordings to codes at once, each as if it were alone.

Letters in shapes: C audio channels, n samples of an item, K codebooks in use (n_q), T frames of an item, S windows of
an item, D latent channels.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from encodec_core.codes import Codes
from encodec_core.fast.lanes import Finish, LaneEncoder
from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.loudness import window_loudness
from encodec_core.fast.padded import PaddedEncoder
from encodec_core.fast.placement import checked_dtype, resolve_device
from encodec_core.fast.plain import without_weight_norm
from encodec_core.fast.precision import Precision, exact_float32
from encodec_core.fast.quantizer import FrameQuantizer
from encodec_core.model import EncodecModel
from encodec_core.windows import linear_overlap_add, window_spans

__all__ = ["BatchEncoder"]

MAX_PADDED_SECONDS = 60
"""Longer items are not padded into a batch on a GPU: their activations, 128 bytes per sample and more, go there tile
by tile."""
GPU_TILE_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """What is encoded at once: an item, or a window of one."""

    item: int
    start: int
    end: int

    @property
    def num_samples(self) -> int:
        return self.end - self.start


class BatchEncoder:
    """Encodes recordings of any lengths, in any batches, to the codes that each gives alone.

    Args:
        model: float32 or float64; copied, and later changes to it do not matter.
        bandwidth_kbps: one of the model's.
        device: of torch; "auto": a GPU where torch sees one, else the CPU.
        precision: "fp32", or for convolutions only "tf32" (on a GPU) or "bf16". Distances are always float32.

    On a CPU an item's codes and latents are equal to the last bit whatever else is in the call, however many threads
    torch has: measured on x86 with AVX2 and with AVX-512, and promised nowhere else. Memory beyond the waveforms is
    bounded for codecs without windows too, because long items go through the convolutions in tiles. On a GPU short
    items share padded batches, and rounding can differ with the shape of the batch.

    Raises:
        ValueError: the bandwidth is not offered, the precision is unknown or cannot take effect, the model is of
            another dtype.
    """

    def __init__(
        self,
        model: EncodecModel,
        bandwidth_kbps: float = 6.0,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
    ) -> None:
        self._config = model.config
        self.n_q = model.config.n_q_for(bandwidth_kbps)
        """Codebooks in use."""
        self.device = resolve_device(device)
        """Where codes are computed."""
        self._dtype = checked_dtype(model.dtype)
        _check_precision(precision, self._dtype, self.device)
        self._tf32 = precision == "tf32"
        convolution_dtype = torch.bfloat16 if precision == "bf16" else self._dtype
        with torch.no_grad(), exact_float32():
            encoder = fold_encoder(model.encoder, device=self.device, convolution_dtype=convolution_dtype)
            on_gpu = self.device.type != "cpu"
            tile_samples = GPU_TILE_SECONDS * self._config.sampling_rate if on_gpu else None
            self._lanes = LaneEncoder(encoder, convolution_dtype=convolution_dtype, tile_samples=tile_samples)
            self._padded = PaddedEncoder(encoder, convolution_dtype=convolution_dtype) if on_gpu else None
            self._frame_quantizer = FrameQuantizer(
                model.quantizer.codebooks[: self.n_q], device=self.device, dtype=self._dtype
            )
            self._quantizer = copy.deepcopy(model.quantizer).to(self.device)
            self._decoder = without_weight_norm(model.decoder).to(self.device)

    @torch.no_grad()
    def encode(self, waveforms: Sequence[Tensor]) -> list[Codes]:
        """Turn audio into codes.

        Args:
            waveforms: `[C, n]` each, n > 0, of the model's dtype (float32), in [-1, 1] at the model's rate. Values are
                not checked: what is not finite gives some codes.

        Returns:
            For each waveform its codes, T = ceil(n / hop_length); for a codec with windows those of all its windows,
            one after the other.

        Raises:
            ValueError: a waveform has another shape or dtype.
        """
        self._check_waveforms(waveforms)
        spans = self._spans(waveforms)
        scales = self._scales(waveforms, spans)
        codes = [piece.cpu() for piece in self._run(waveforms, spans, scales, finish=self._quantize)]
        if scales is None:
            scales = [torch.ones(())] * len(spans)
        by_item = zip(_by_item(codes, spans, len(waveforms)), _by_item(scales, spans, len(waveforms)), strict=True)
        return [self._merge(item_codes, item_scales) for item_codes, item_scales in by_item]

    @torch.no_grad()
    def latents(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Return what `encode` quantizes: for each waveform `[C, n]` its latents `[D, T]`, on the encoder's device."""
        self._check_waveforms(waveforms)
        spans = self._spans(waveforms)
        latents = self._run(waveforms, spans, self._scales(waveforms, spans), finish=list)
        return [torch.cat(pieces, -1) for pieces in _by_item(latents, spans, len(waveforms))]

    @torch.no_grad()
    def decode(self, codes: Sequence[Codes]) -> list[Tensor]:
        """Turn codes into audio, item by item, each at once: an hour needs gigabytes.

        Args:
            codes: what `encode` returned; K may be lower, or that of another bandwidth.

        Returns:
            For each item `[C, n]` on the CPU, n whole frames of its last (or only) window; cut it to the length of the
            audio.

        Raises:
            ValueError: the codes have windows and the codec has none, or the reverse, or more codebooks than the codec.
        """
        with exact_float32():
            return [self._decode(item).cpu() for item in codes]

    def _spans(self, waveforms: Sequence[Tensor]) -> list[_Span]:
        length, stride = self._config.chunk_length, self._config.chunk_stride
        return [
            _Span(item=item, start=span.start, end=span.stop)
            for item, waveform in enumerate(waveforms)
            for span in window_spans(waveform.shape[-1], length=length, stride=stride)
        ]

    def _scales(self, waveforms: Sequence[Tensor], spans: Sequence[_Span]) -> list[Tensor] | None:
        if not self._config.normalize:
            return None
        return [window_loudness(waveforms[span.item][:, span.start : span.end]) for span in spans]

    def _run(
        self, waveforms: Sequence[Tensor], spans: Sequence[_Span], scales: Sequence[Tensor] | None, *, finish: Finish
    ) -> list[Tensor]:
        def loaded(index: int) -> Tensor:
            span = spans[index]
            audio = waveforms[span.item][:, span.start : span.end]
            return (audio if scales is None else audio / scales[index]).to(self.device)

        results: dict[int, Tensor] = {}
        for encoder, chosen in self._routes(spans):
            for group in encoder.groups([spans[index].num_samples for index in chosen]):
                members = [chosen[place] for place in group]
                with exact_float32(tf32_convolutions=self._tf32):
                    encoded = encoder.encode([loaded(index) for index in members], finish=finish)
                results |= dict(zip(members, encoded, strict=True))
        return [results[index] for index in range(len(spans))]

    def _routes(self, spans: Sequence[_Span]) -> list[tuple[LaneEncoder | PaddedEncoder, list[int]]]:
        """Say which spans go which way."""
        if self._padded is None:
            return [(self._lanes, list(range(len(spans))))]
        limit = MAX_PADDED_SECONDS * self._config.sampling_rate
        is_short = [span.num_samples <= limit for span in spans]
        return [
            (self._padded, [index for index, short in enumerate(is_short) if short]),
            (self._lanes, [index for index, short in enumerate(is_short) if not short]),
        ]

    def _quantize(self, latents: list[Tensor]) -> list[Tensor]:
        frames = torch.cat([piece.t() for piece in latents])
        # In the exact_float32 of `_run`, where TF32, if any, is for convolutions alone.
        codes = self._frame_quantizer.encode(frames).to(torch.int32)
        return [piece.t() for piece in torch.split(codes, [piece.shape[-1] for piece in latents])]

    def _merge(self, codes: list[Tensor], scales: list[Tensor]) -> Codes:
        merged = torch.cat(codes, -1).to(torch.uint16).contiguous()
        if self._config.chunk_length is None:
            return Codes(codes=merged)
        window_frames = torch.tensor([window.shape[-1] for window in codes], dtype=torch.int32)
        return Codes(codes=merged, scales=torch.stack(scales).float().cpu(), window_frames=window_frames)

    def _decode(self, item: Codes) -> Tensor:
        has_windows = self._config.chunk_length is not None
        if (item.window_frames is not None) != has_windows:
            raise ValueError(
                f"{item} {'has no windows, the codec has' if has_windows else 'has windows, the codec has none'}; "
                "were they made by another codec?"
            )
        codes = item.codes.to(self.device, torch.int64)[None]
        if item.window_frames is None or item.scales is None:
            return self._decode_window(codes)[0]
        scales = item.scales.to(self.device, self._dtype)
        windows = torch.split(codes, item.window_frames.tolist(), dim=-1)
        decoded = [self._decode_window(window) * scale for window, scale in zip(windows, scales, strict=True)]
        return linear_overlap_add(decoded, stride=self._config.chunk_stride or 1)[0]

    def _decode_window(self, codes: Tensor) -> Tensor:
        decoded: Tensor = self._decoder(self._quantizer.dequantize(codes))
        return decoded

    def _check_waveforms(self, waveforms: Sequence[Tensor]) -> None:
        channels = self._config.audio_channels
        for index, waveform in enumerate(waveforms):
            if waveform.dim() != 2 or waveform.shape[0] != channels or waveform.shape[1] == 0:
                raise ValueError(
                    f"waveform {index} has the shape {list(waveform.shape)}; expected [{channels}, samples > 0]: "
                    f"mix or duplicate its channels to {channels}, and leave out empty items"
                )
            if waveform.dtype != self._dtype:
                raise ValueError(
                    f"waveform {index} is {waveform.dtype}; expected {self._dtype}, the model's: "
                    "convert it, integers scaled to [-1, 1]"
                )


def _by_item(pieces: Sequence[Tensor], spans: Sequence[_Span], num_items: int) -> list[list[Tensor]]:
    items: list[list[Tensor]] = [[] for _ in range(num_items)]
    for piece, span in zip(pieces, spans, strict=True):
        items[span.item].append(piece)
    return items


def _check_precision(precision: str, dtype: torch.dtype, device: torch.device) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision = {precision!r} is unknown; choose one of {', '.join(get_args(Precision))}")
    if precision != "fp32" and dtype != torch.float32:
        raise ValueError(
            f"precision = {precision!r} cannot take effect on a model of {dtype}; choose fp32 or call model.float()"
        )
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision = 'tf32' cannot take effect on {device}; choose fp32, or a GPU")
