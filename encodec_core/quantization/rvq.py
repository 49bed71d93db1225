"""Residual vector quantization (EnCodec paper section 3.2; algorithm 1 of arXiv 2107.03312).

Letters in shapes: B batch, D latent channels, T frames, K codebooks in use (n_q).
"""

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
    """

    def __init__(self, *, num_quantizers: int, codebook_size: int, num_channels: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.layers = nn.ModuleList(QuantizerLayer(codebook_size, num_channels) for _ in range(num_quantizers))

    @property
    def codebooks(self) -> list[Codebook]:
        """The codebooks, coarse first."""
        return [cast(QuantizerLayer, layer).codebook for layer in self.layers]

    def encode(self, latents: Tensor, *, n_q: int) -> Tensor:
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

    def decode(self, codes: Tensor) -> Tensor:
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
