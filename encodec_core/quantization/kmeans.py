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
        latents: `[N, D]` on the quantizer's device, N at least the number of entries; tens of vectors per entry or
            more, or later codebooks fit these alone.
        num_iterations: of each k-means.
        generator: the only source of random numbers; on the CPU.

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
        codebook.embed_avg.copy_(_sum_by_entry(residual, chosen, num_entries=len(entries)))
        codebook.inited.fill_(1)
        residual = residual - entries[chosen].to(residual.dtype)


def kmeans(vectors: Tensor, *, num_entries: int, num_iterations: int, generator: torch.Generator) -> Tensor:
    """Cluster `vectors` `[N, D]` into `[E, D]` means; an entry that nobody chooses moves to a random vector.

    `generator` is on the CPU, wherever the vectors are.

    Raises:
        ValueError: there are fewer vectors than entries.
    """
    num_vectors = len(vectors)
    if num_vectors < num_entries:
        raise ValueError(
            f"{num_vectors} vectors cannot make {num_entries} entries; give more audio, tens of vectors per entry"
        )
    entries = vectors[torch.randperm(num_vectors, generator=generator)[:num_entries].to(vectors.device)]
    for _ in range(num_iterations):
        chosen = _assign(vectors, entries)
        counts = torch.bincount(chosen, minlength=num_entries)
        sums = _sum_by_entry(vectors, chosen, num_entries=num_entries)
        anywhere = vectors[torch.randint(num_vectors, (num_entries,), generator=generator).to(vectors.device)]
        entries = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], anywhere)
    return entries


def _assign(vectors: Tensor, entries: Tensor) -> Tensor:
    return torch.cat([nearest_entries(block, entries) for block in torch.split(vectors, BLOCK_VECTORS)])


def _sum_by_entry(vectors: Tensor, chosen: Tensor, *, num_entries: int) -> Tensor:
    """Sum the `[N, D]` that chose each entry: `[E, D]`."""
    entries = torch.arange(num_entries, device=vectors.device)[:, None]
    # A product with one-hot columns, not index_add_: that adds in no fixed order on a GPU, and runs would differ.
    sums = torch.zeros(num_entries, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    blocks = zip(torch.split(vectors, BLOCK_VECTORS), torch.split(chosen, BLOCK_VECTORS), strict=True)
    for block, chosen_in_block in blocks:
        sums += (chosen_in_block == entries).to(vectors.dtype) @ block
    return sums
