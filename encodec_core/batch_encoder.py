"""BatchEncoder: many recordings to codes at once, each as if it were alone.

Letters in shapes: C audio channels, n samples of an item, K codebooks in use (n_q), T frames of an item, S windows of
an item, D latent channels.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from encodec_core.codes import Codes
from encodec_core.fast.gpu.decoder import decode_in_batches
from encodec_core.fast.gpu.encoder import GpuEncoder
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.lanes import Finish, LaneEncoder
from encodec_core.fast.layers import fold_decoder, fold_encoder
from encodec_core.fast.loudness import window_loudness
from encodec_core.fast.native.decoder import BlockedDecoder, can_decode_blocked
from encodec_core.fast.native.encoder import BlockedEncoder, can_run_blocked
from encodec_core.fast.placement import checked_dtype, resolve_device, takes_large_batches, why_not_faster
from encodec_core.fast.plain import without_weight_norm
from encodec_core.fast.precision import Precision, exact_float32
from encodec_core.fast.quantizer import FrameQuantizer
from encodec_core.model import EncodecModel
from encodec_core.spans import window_spans
from encodec_core.windows import linear_overlap_add

__all__ = ["BatchEncoder"]

WINDOWS_AT_ONCE = 128
"""Windows that are divided by their loudness before they are encoded; each is a copy of its audio."""


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
    torch has: measured on x86 with AVX2 and with AVX-512, and promised nowhere else. With AVX-512 and the kernels of
    `fast.native` they are those of `EncodecModel`, on one thread, for the same item alone. Memory beyond the waveforms
    is bounded for codecs without windows too, because long items go through the convolutions in tiles. On a GPU items
    share padded batches, and rounding can differ with the shape of the batch; batches are sized by the memory that is
    free at the first call, and halved where it does not suffice.

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
            codebooks = model.quantizer.codebooks[: self.n_q]
            self._gpu: GpuEncoder | None = None
            if takes_large_batches(self.device):
                self._gpu = GpuEncoder(
                    encoder,
                    DeviceQuantizer(codebooks, device=self.device, dtype=self._dtype),
                    convolution_dtype=convolution_dtype,
                    normalize=self._config.normalize,
                )
            self._blocked: BlockedEncoder | None = None
            if can_run_blocked(encoder, codebooks):
                self._blocked = BlockedEncoder(encoder, codebooks, hop_length=self._config.hop_length)
            self._lanes = LaneEncoder(encoder, convolution_dtype=convolution_dtype)
            self._frame_quantizer = FrameQuantizer(codebooks, device=self.device, dtype=self._dtype)
            self._quantizer = copy.deepcopy(model.quantizer).to(self.device)
            self._blocked_decoder: BlockedDecoder | None = None
            decoder = fold_decoder(model.decoder, device=self.device)
            if self._gpu is None and can_decode_blocked(decoder):
                self._blocked_decoder = BlockedDecoder(decoder, hop_length=self._config.hop_length)
            else:
                self._decoder = without_weight_norm(model.decoder).to(self.device)

    @property
    def num_padded_samples(self) -> int:
        """Samples, so far, that `encode` computed to fill items up to others of their batch; none on a CPU."""
        return 0 if self._gpu is None else self._gpu.num_padded_samples

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
        if self._gpu is not None:
            codes, scales = self._encode_on_gpu(self._gpu, waveforms, spans)
        else:
            scales = self._scales(waveforms, spans)
            if self._blocked is not None:
                codes = self._run_blocked(waveforms, spans, scales, encode=self._blocked.encode)
            else:
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
        if self._gpu is not None:
            with exact_float32(tf32_convolutions=self._tf32):
                latents = self._gpu.latents(_cut(waveforms, spans))
        elif self._blocked is not None:
            scales = self._scales(waveforms, spans)
            latents = self._run_blocked(waveforms, spans, scales, encode=self._blocked.latents)
        else:
            latents = self._run(waveforms, spans, self._scales(waveforms, spans), finish=list)
        return [torch.cat(pieces, -1) for pieces in _by_item(latents, spans, len(waveforms))]

    @torch.no_grad()
    def decode(self, codes: Sequence[Codes]) -> list[Tensor]:
        """Turn codes into audio.

        With the kernels of `fast.native` what an item becomes depends on nothing else, and for codecs without windows
        memory beyond the audio is bounded. Where torch decodes, it takes each item at once: an hour needs gigabytes.

        Args:
            codes: what `encode` returned; K may be lower, or that of another bandwidth.

        Returns:
            For each item `[C, n]` on the CPU, n whole frames of its last (or only) window; cut it to the length of the
            audio.

        Raises:
            ValueError: the codes have windows and the codec has none, or the reverse, or more codebooks than the codec.
        """
        with exact_float32():
            if self._gpu is not None:
                return self._decode_on_gpu(codes)
            if self._blocked_decoder is not None:
                return self._decode_blocked(self._blocked_decoder, codes)
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
        for group in self._lanes.groups([span.num_samples for span in spans]):
            with exact_float32(tf32_convolutions=self._tf32):
                encoded = self._lanes.encode([loaded(index) for index in group], finish=finish)
            results |= dict(zip(group, encoded, strict=True))
        return [results[index] for index in range(len(spans))]

    def _run_blocked(
        self,
        waveforms: Sequence[Tensor],
        spans: Sequence[_Span],
        scales: Sequence[Tensor] | None,
        *,
        encode: Callable[[Sequence[Tensor]], list[Tensor]],
    ) -> list[Tensor]:
        audio = _cut(waveforms, spans)
        if scales is None:
            return encode(audio)
        encoded: list[Tensor] = []
        for start in range(0, len(spans), WINDOWS_AT_ONCE):
            some = slice(start, start + WINDOWS_AT_ONCE)
            encoded += encode([window / scale for window, scale in zip(audio[some], scales[some], strict=True)])
        return encoded

    def _encode_on_gpu(
        self, gpu: GpuEncoder, waveforms: Sequence[Tensor], spans: Sequence[_Span]
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        # TF32, if any, is for convolutions alone: distances are float32.
        with exact_float32(tf32_convolutions=self._tf32):
            encoded = gpu.encode(_cut(waveforms, spans))
        scales = [one.scale for one in encoded if one.scale is not None]
        return [one.codes for one in encoded], scales if self._config.normalize else None

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
        decoded = [self._decode_window(window[None])[0] for window in self._windows(item)]
        return self._joined(item, decoded)

    def _decode_blocked(self, decoder: BlockedDecoder, codes: Sequence[Codes]) -> list[Tensor]:
        windows = [self._windows(item) for item in codes]
        decoded = iter(decoder.decode([window for item in windows for window in item], begin=self._latents))
        return [self._joined(item, [next(decoded) for _ in own]) for item, own in zip(codes, windows, strict=True)]

    def _latents(self, codes: Tensor) -> Tensor:
        """`[K, T]` -> `[D, T]`."""
        return self._quantizer.dequantize(codes[None])[0]

    def _decode_on_gpu(self, codes: Sequence[Codes]) -> list[Tensor]:
        windows = [self._windows(item) for item in codes]
        decoded = iter(
            decode_in_batches(
                [window for item in windows for window in item],
                hop_length=self._config.hop_length,
                decode=self._decode_window,
            )
        )
        pieces = [[next(decoded) for _ in item] for item in windows]
        return [self._joined(item, decoded).cpu() for item, decoded in zip(codes, pieces, strict=True)]

    def _windows(self, item: Codes) -> list[Tensor]:
        """Return the codes int64 `[K, T_i]` of each window, or of the item, on the device."""
        has_windows = self._config.chunk_length is not None
        if (item.window_frames is not None) != has_windows:
            raise ValueError(
                f"{item} {'has no windows, the codec has' if has_windows else 'has windows, the codec has none'}; "
                "were they made by another codec?"
            )
        codes = item.codes.to(self.device, torch.int64)
        return [codes] if item.window_frames is None else list(torch.split(codes, item.window_frames.tolist(), dim=-1))

    def _joined(self, item: Codes, decoded: Sequence[Tensor]) -> Tensor:
        if item.scales is None:
            return decoded[0]
        scales = item.scales.to(self.device, self._dtype)
        scaled = [window * scale for window, scale in zip(decoded, scales, strict=True)]
        return linear_overlap_add(scaled, stride=self._config.chunk_stride or 1)

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


def _cut(waveforms: Sequence[Tensor], spans: Sequence[_Span]) -> list[Tensor]:
    return [waveforms[span.item][:, span.start : span.end] for span in spans]


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
    if precision != "fp32" and (reason := why_not_faster(device)) is not None:
        raise ValueError(f"precision = {precision!r} gains nothing: {reason}; choose fp32, or another GPU")
