"""Do stored codes stand for this audio? Re-encodes it with the plain model, and tells rounding from mistakes.

Letters in shapes: C audio channels, n samples, K codebooks in use (n_q), T frames, D latent channels, N frames that
differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from encodec_core.batch_encoder import BatchEncoder
from encodec_core.codes import Codes
from encodec_core.fast.precision import exact_float32
from encodec_core.model import EncodecModel
from encodec_core.spans import window_spans
from encodec_core.windows import loudness

__all__ = ["NEAR_TIE", "Agreement", "compare_codes"]

NEAR_TIE = 1e-5
"""A code is a near tie where the stored entry is further away than the reference's by less than this share of |r|^2, r
being what the reference's codebook had to quantize: (|r - stored|^2 - |r - reference's|^2) / |r|^2. First flips
between kernels had gaps up to 2.4e-6 (measured over 4,800 frames); of all gaps between two nearest entries about 2 in
10,000 are that small."""
ROUNDING = 1e-6
"""It is a near tie too where r lies nearer than this share of the latent's norm to the plane halfway between the two
entries: the reference's own latents are off by up to 8.5e-7 of their norm (float32 against float64, 24 kHz codec,
4,500 frames), so it cannot tell the two apart. This matters where the codebooks leave less than a thirtieth of the
latent over, so that |r|^2 is no measure of rounding."""
SCALE_TOLERANCE = 1e-5
"""Relative. Scales are means over 1 s in float32; orders of summation differ by 1e-6 at most."""
MAX_WHOLE_SECONDS = 60
"""Longer items without windows are re-encoded in tiles, because the plain model's activations would take 8 GB for an
hour and more."""
BLOCK_FRAMES = 4096
"""Frames quantized at once, fewer than twice as many in the last block: distances to 1024 entries take 34 MB at most.
Products of such blocks have the bits of the whole (45,003 frames, one and two threads, torch 2.13 on x86)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How stored codes compare with those of the reference."""

    num_codes: int
    """Codes of the reference, K * T."""
    num_equal: int
    """Codes that are the same."""
    num_frames: int
    """Frames of the reference, T."""
    num_near_tie_frames: int
    """Frames that differ and whose first differing codebook is a near tie; the codebooks after it quantize another
    residual."""
    num_wrong_frames: int
    """Frames that differ in any other way, or lie in a window whose stored scale is wrong."""
    largest_gap: float
    """The largest gap of a first differing codebook, relative as in `NEAR_TIE`; 0 where no frame differs."""
    mismatch: str | None
    """Why nothing could be compared; all frames are wrong then. None: everything was."""

    @property
    def is_faithful(self) -> bool:
        """Whether the codes are the reference's but for near ties."""
        return self.num_wrong_frames == 0 and self.mismatch is None


@torch.no_grad()
@exact_float32()
def compare_codes(model: EncodecModel, waveform: Tensor, codes: Codes, *, bandwidth_kbps: float) -> Agreement:
    """Compare stored codes with those that `model` gives.

    Args:
        model: the reference. Items of up to a minute, and windows, go through it as it is; longer ones through its
            convolutions in tiles, which equals it but for rounding.
        waveform: `[C, n]`, n > 0, of the model's dtype and rate: the audio that the codes should stand for.
        codes: as stored.
        bandwidth_kbps: that they were encoded at.

    Raises:
        ValueError: the bandwidth is not offered, or the waveform has another shape or dtype than the model's.
    """
    n_q = model.config.n_q_for(bandwidth_kbps)
    _check_waveform(model, waveform)
    windows = list(_reference_windows(model, waveform))
    num_frames = sum(latents.shape[0] for latents, _ in windows)
    mismatch = _mismatch(codes, n_q=n_q, window_frames=[latents.shape[0] for latents, _ in windows])
    if mismatch is not None:
        return Agreement(
            num_codes=n_q * num_frames,
            num_equal=0,
            num_frames=num_frames,
            num_near_tie_frames=0,
            num_wrong_frames=num_frames,
            largest_gap=float("inf"),
            mismatch=mismatch,
        )
    stored = codes.codes.to(model.device, torch.int64).t()
    latents = torch.cat([frames for frames, _ in windows])
    reference = torch.cat([_quantize(model, frames.t(), n_q=n_q) for frames, _ in windows])
    gaps, is_near_tie = _first_gaps(model, latents, reference=reference, stored=stored)
    differs = (reference != stored).any(1)
    is_wrong = (differs & ~is_near_tie) | _has_wrong_scale(codes, [scale for _, scale in windows]).to(model.device)
    return Agreement(
        num_codes=n_q * num_frames,
        num_equal=int((reference == stored).sum()),
        num_frames=num_frames,
        num_near_tie_frames=int((differs & ~is_wrong).sum()),
        num_wrong_frames=int(is_wrong.sum()),
        largest_gap=float(gaps.max()),
        mismatch=None,
    )


def _reference_windows(model: EncodecModel, waveform: Tensor) -> Iterator[tuple[Tensor, float | None]]:
    """Yield the latents `[T, D]` of each window, or of the item, and its scale."""
    config = model.config
    if config.chunk_length is None and waveform.shape[-1] > MAX_WHOLE_SECONDS * config.sampling_rate:
        encoder = BatchEncoder(model, config.target_bandwidths[0], device=model.device)
        yield encoder.latents([waveform])[0].t(), None
        return
    for span in window_spans(waveform.shape[-1], length=config.chunk_length, stride=config.chunk_stride):
        window = waveform[None, :, span].to(model.device)
        scale = loudness(window) if config.normalize else None
        latents = model.encoder(window if scale is None else window / scale)
        yield latents[0].t(), None if scale is None else float(scale)


def _mismatch(codes: Codes, *, n_q: int, window_frames: list[int]) -> str | None:
    if codes.num_codebooks != n_q:
        return f"the codes have {codes.num_codebooks} codebooks, the bandwidth {n_q}"
    if codes.num_frames != sum(window_frames):
        return f"the codes have {codes.num_frames} frames, the audio {sum(window_frames)}"
    if codes.window_frames is not None and codes.window_frames.tolist() != window_frames:
        return f"the codes have windows of {codes.window_frames.tolist()} frames, the audio {window_frames}"
    return None


def _quantize(model: EncodecModel, latents: Tensor, *, n_q: int) -> Tensor:
    """Quantize latents `[D, T]` of one item or window to codes int64 `[T, K]`, in blocks of frames.

    A block is contiguous as the whole is: torch sums squares of frames in another order where it is not.
    """
    num_blocks = max(1, latents.shape[1] // BLOCK_FRAMES)
    ends = [BLOCK_FRAMES * block for block in range(1, num_blocks)]
    blocks = torch.tensor_split(latents, ends, dim=1)
    return torch.cat([model.quantizer.quantize(block.contiguous()[None], n_q=n_q)[0].t() for block in blocks])


def _first_gaps(model: EncodecModel, latents: Tensor, *, reference: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Look at the first differing codebook of each frame.

    Args:
        latents: `[T, D]`.
        reference, stored: codes `[T, K]`.

    Returns:
        float64 `[T]`: its gap, 0 where none differs, infinite for codes that name no entry; and bool `[T]`: whether it
        is a near tie.
    """
    differs = reference != stored
    first = torch.where(differs.any(1), differs.int().argmax(1), -1)
    gaps = torch.zeros(len(latents), dtype=torch.float64, device=latents.device)
    is_near_tie = torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
    residual = latents
    for level, codebook in enumerate(model.quantizer.codebooks[: reference.shape[1]]):
        chosen = first == level
        gap, margin = _gaps(residual[chosen], codebook.embed, reference[chosen, level], stored[chosen, level])
        gaps[chosen] = gap
        is_near_tie[chosen] = (gap < NEAR_TIE) | (margin < ROUNDING * latents[chosen].double().norm(dim=1))
        residual = residual - codebook.decode(reference[:, level])
    return gaps, is_near_tie


def _gaps(residual: Tensor, entries: Tensor, reference: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for `residual` `[N, D]` and codes `[N]`, gap and distance to the plane halfway between the entries."""
    exact, num_entries = residual.double(), entries.shape[0]
    stored_entry = entries[stored.clamp(max=num_entries - 1)].double()
    reference_entry = entries[reference].double()
    excess = ((exact - stored_entry).pow(2).sum(1) - (exact - reference_entry).pow(2).sum(1)).abs()
    gap, margin = excess / exact.pow(2).sum(1), excess / (2 * (stored_entry - reference_entry).norm(dim=1))
    # Two equal entries, or a residual of zero between two equal distances: a tie like any other.
    gap, margin = (torch.where(excess == 0, 0.0, value) for value in (gap, margin))
    names_an_entry = stored < num_entries
    return torch.where(names_an_entry, gap, torch.inf), torch.where(names_an_entry, margin, torch.inf)


def _has_wrong_scale(codes: Codes, scales: list[float | None]) -> Tensor:
    """Return for each frame whether its window's stored scale is not the reference's, bool `[T]`."""
    if codes.scales is None or codes.window_frames is None or None in scales:
        return torch.zeros(codes.num_frames, dtype=torch.bool)
    reference = torch.tensor(scales, dtype=torch.float64)
    is_wrong = ~((codes.scales.double() - reference).abs() <= SCALE_TOLERANCE * reference)
    return is_wrong.repeat_interleave(codes.window_frames)


def _check_waveform(model: EncodecModel, waveform: Tensor) -> None:
    channels = model.config.audio_channels
    if waveform.dim() != 2 or waveform.shape[0] != channels or waveform.shape[1] == 0 or waveform.dtype != model.dtype:
        raise ValueError(
            f"the waveform is {waveform.dtype} {list(waveform.shape)}; expected {model.dtype} [{channels}, samples > 0]"
        )
