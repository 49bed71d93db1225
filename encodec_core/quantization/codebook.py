"""One codebook: the nearest entry by Euclidean distance.

Letters in shapes: N vectors, D latent channels, E entries.
"""

import torch
from torch import Tensor, nn

__all__ = ["Codebook", "QuantizerLayer", "nearest_entries"]


def nearest_entries(vectors: Tensor, entries: Tensor) -> Tensor:
    """Return the index of the entry nearest to each vector.

    Args:
        vectors: `[N, D]`.
        entries: `[E, D]`, same dtype.

    Returns:
        int64 `[N]`. The distance is expanded to |x|^2 - 2 x.e + |e|^2 in this order of operations, because the
        references round in this order too and a near tie is decided by rounding; equal distances go to the index that
        `torch.max` gives.
    """
    squares = vectors.pow(2).sum(1, keepdim=True)
    distances = squares - 2 * vectors @ entries.t() + entries.t().pow(2).sum(0, keepdim=True)
    return (-distances).max(dim=-1).indices


class Codebook(nn.Module):
    """The entries of one codebook, and the moving averages that training keeps beside them.

    Args:
        num_entries: E.
        num_channels: D.

    Buffers are named as in both references. Entries start uniform in [-1/E, 1/E]: so small that an untrained codec
    decodes all but what one with transformers' initial entries, all zero, decodes, and yet its codes vary.
    """

    inited: Tensor
    """float32 `[1]`, 1 where the entries hold values to quantize with. Training only."""
    cluster_size: Tensor
    """`[E]`: moving average of how many vectors chose the entry. Training only."""
    embed: Tensor
    """`[E, D]`: the entries."""
    embed_avg: Tensor
    """`[E, D]`: moving average of the sum of the vectors that chose the entry. Training only."""

    def __init__(self, num_entries: int, num_channels: int) -> None:
        super().__init__()
        embed = torch.empty(num_entries, num_channels)
        embed.uniform_(-1 / num_entries, 1 / num_entries)
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(num_entries))
        self.register_buffer("embed", embed)
        self.register_buffer("embed_avg", embed.clone())

    def encode(self, vectors: Tensor) -> Tensor:
        """`[..., D]` -> indices int64 `[...]`; distances in float32, or float64 where the vectors have it."""
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        flat = vectors.reshape(-1, vectors.shape[-1]).to(dtype)
        return nearest_entries(flat, self.embed.to(dtype)).view(vectors.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Indices `[...]` -> entries `[..., D]`."""
        return nn.functional.embedding(codes, self.embed)


class QuantizerLayer(nn.Module):
    """One level of the residual quantizer. It exists for its name: the references nest the codebook one module deep."""

    def __init__(self, num_entries: int, num_channels: int) -> None:
        super().__init__()
        self.codebook = Codebook(num_entries, num_channels)
