"""Residual vector quantization (EnCodec paper section 3.2; algorithm 1 of arXiv 2107.03312).

`quantize` and `dequantize` are ours, batch first. `encode` and `decode` are those of transformers' `model.quantizer`,
codebooks first.

Letters in shapes: B batch, D latent channels, T frames, K codebooks in use (n_q).
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from encodec_core.quantization.codebook import Codebook, QuantizerLayer

__all__ = ["ResidualVectorQuantizer"]


class ResidualVectorQuantizer(nn.Module):
    """A chain of codebooks, each of which quantizes what the earlier ones left over.

    Args:
        num_quantizers: codebooks in the chain.
        codebook_size: entries of each.
        num_channels: D.
        frame_rate: frames per second, which decides what a bandwidth pays for.
    """

    def __init__(self, *, num_quantizers: int, codebook_size: int, num_channels: int, frame_rate: int) -> None:
        super().__init__()
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.frame_rate = frame_rate
        self.layers = nn.ModuleList(QuantizerLayer(codebook_size, num_channels) for _ in range(num_quantizers))

    @property
    def codebooks(self) -> list[Codebook]:
        """The codebooks, coarse first."""
        return [cast(QuantizerLayer, layer).codebook for layer in self.layers]

    def quantize(self, latents: Tensor, *, n_q: int) -> Tensor:
        """Quantize with the first `n_q` codebooks.

        Args:
            latents: `[B, D, T]`. Half precision is computed in float32: bfloat16 distances choose a third of the codes
                wrongly.
            n_q: K; those above the number of codebooks count as all of them.

        Returns:
            Codes int64 `[B, K, T]` in [0, codebook_size). The first K' of them are the codes for n_q = K'.
        """
        residual = latents.transpose(1, 2).to(torch.promote_types(latents.dtype, torch.float32))
        codes = []
        for codebook in self.codebooks[:n_q]:
            chosen = codebook.encode(residual)
            residual = residual - codebook.decode(chosen)
            codes.append(chosen)
        return torch.stack(codes, dim=1)

    def get_num_quantizers_for_bandwidth(self, bandwidth: float | None = None) -> int:
        """Return how many codebooks `bandwidth`, in kbps, pays for, at least one; all for None or 0, as transformers.

        Unlike `EncodecConfig.n_q_for` it takes any bandwidth, and may return more than there are.
        """
        if bandwidth is None or bandwidth <= 0:
            return self.num_quantizers
        return max(1, math.floor(bandwidth * 1000 / (math.log2(self.codebook_size) * self.frame_rate)))

    def encode(self, embeddings: Tensor, bandwidth: float | None = None) -> Tensor:
        """Quantize `[B, D, T]` to codes int64 `[K, B, T]`, K being what `bandwidth` pays for, as transformers does."""
        n_q = self.get_num_quantizers_for_bandwidth(bandwidth)
        return self.quantize(embeddings, n_q=n_q).transpose(0, 1).contiguous()

    def decode(self, codes: Tensor) -> Tensor:
        """Sum the entries that `codes` `[K, B, T]` name into latents `[B, D, T]`, as transformers does.

        Raises:
            ValueError: more codebooks than the chain has.
        """
        return self.dequantize(codes.transpose(0, 1))

    def dequantize(self, codes: Tensor) -> Tensor:
        """Sum the entries that `codes` `[B, K, T]` name into latents `[B, D, T]`.

        Raises:
            ValueError: more codebooks than the chain has.
        """
        _, n_q, _ = codes.shape
        if n_q > len(self.layers):
            raise ValueError(
                f"the codes have {n_q} codebooks, the model {len(self.layers)}; were they made by another model?"
            )
        latents = torch.zeros((), device=codes.device)
        for codebook, chosen in zip(self.codebooks, codes.unbind(1), strict=False):
            latents = latents + codebook.decode(chosen)
        return latents.transpose(1, 2)
