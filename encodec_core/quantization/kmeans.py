"""Residual k-means: codebooks fitted to latents, as training starts from and as a codec without training needs.

Letters in shapes: N vectors, D latent channels, E entries.
"""

import torch
from torch import Tensor

from encodec_core.quantization.codebook import nearest_entries
from encodec_core.quantization.rvq import ResidualVectorQuantizer

__all__ = ["fit_codebooks", "kmeans"]

BLOCK_VECTORS = 4096
"""Vectors whose distances are held at once: 16 MB for 1,024 entries."""


@torch.no_grad()
def fit_codebooks(
    quantizer: ResidualVectorQuantizer, latents: Tensor, *, num_iterations: int, generator: torch.Generator
) -> None:
    """Fit each codebook to what the earlier ones leave over of `latents`, in place.

    Args:
        quantizer: its entries, and the averages beside them, are overwritten.
        latents: `[N, D]`, N at least the number of entries; tens of vectors per entry or more, or later codebooks fit
            these alone.
        num_iterations: of each k-means.
        generator: the only source of random numbers.

    Raises:
        ValueError: there are fewer vectors than entries.
    """
    residual = latents
    for codebook in quantizer.codebooks:
        entries = kmeans(
            residual, num_entries=codebook.embed.shape[0], num_iterations=num_iterations, generator=generator
        ).to(codebook.embed.dtype)
        chosen = _assign(residual, entries.to(residual.dtype))
        codebook.embed.copy_(entries)
        codebook.cluster_size.copy_(torch.bincount(chosen, minlength=len(entries)))
        codebook.embed_avg.zero_().index_add_(0, chosen, residual.to(codebook.embed_avg.dtype))
        codebook.inited.fill_(1)
        residual = residual - entries[chosen].to(residual.dtype)


def kmeans(vectors: Tensor, *, num_entries: int, num_iterations: int, generator: torch.Generator) -> Tensor:
    """Cluster `vectors` `[N, D]` into `[E, D]` means; an entry that nobody chooses moves to a random vector.

    Raises:
        ValueError: there are fewer vectors than entries.
    """
    num_vectors = len(vectors)
    if num_vectors < num_entries:
        raise ValueError(
            f"{num_vectors} vectors cannot make {num_entries} entries; give more audio, tens of vectors per entry"
        )
    entries = vectors[torch.randperm(num_vectors, generator=generator)[:num_entries]].clone()
    for _ in range(num_iterations):
        chosen = _assign(vectors, entries)
        counts = torch.bincount(chosen, minlength=num_entries)
        sums = torch.zeros_like(entries).index_add_(0, chosen, vectors)
        anywhere = vectors[torch.randint(num_vectors, (num_entries,), generator=generator)]
        entries = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], anywhere)
    return entries


def _assign(vectors: Tensor, entries: Tensor) -> Tensor:
    return torch.cat([nearest_entries(block, entries) for block in torch.split(vectors, BLOCK_VECTORS)])
