"""Residual k-means: clusters are found, and each codebook is fitted to what the earlier ones leave."""

import pytest
import torch

from encodec_core.quantization import ResidualVectorQuantizer
from encodec_core.quantization.kmeans import BLOCK_VECTORS, fit_codebooks, kmeans


def test_clusters_are_found_and_entries_that_nobody_chose_move() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(8, 4, generator=generator)
    vectors = centres.repeat(50, 1) + 0.01 * torch.randn(400, 4, generator=generator)
    means = kmeans(vectors, num_entries=32, num_iterations=20, generator=generator)
    assert torch.cdist(centres, means).min(1).values.max() < 0.05


def test_each_codebook_is_fitted_to_what_the_earlier_ones_leave() -> None:
    with torch.random.fork_rng(devices=[]):
        quantizer = ResidualVectorQuantizer(num_quantizers=8, codebook_size=256, num_channels=8, frame_rate=75)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3000, 8, generator=generator)
    fit_codebooks(quantizer, latents, num_iterations=3, generator=generator)
    codes = quantizer.quantize(latents.t()[None], n_q=8)
    left_over = [
        float((quantizer.dequantize(codes[:, :level])[0].t() - latents).norm() / latents.norm())
        for level in range(1, 9)
    ]
    assert left_over == sorted(left_over, reverse=True)
    assert left_over[-1] < 0.1
    assert int(quantizer.codebooks[0].cluster_size.sum()) == len(latents)


def test_averages_beside_the_entries_are_those_of_the_vectors_that_chose_them() -> None:
    with torch.random.fork_rng(devices=[]):
        quantizer = ResidualVectorQuantizer(num_quantizers=2, codebook_size=8, num_channels=4, frame_rate=75)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2 * BLOCK_VECTORS + 1, 4, generator=generator)
    fit_codebooks(quantizer, latents, num_iterations=2, generator=generator)
    residual = latents
    for codebook in quantizer.codebooks:
        chosen = codebook.encode(residual)
        for entry in range(8):
            own = residual[chosen == entry]
            assert codebook.cluster_size[entry] == len(own)
            # float32 sums of a thousand numbers around 1
            torch.testing.assert_close(codebook.embed_avg[entry], own.sum(0), rtol=1e-4, atol=1e-3)
        residual = residual - codebook.decode(chosen)


def test_too_few_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="3 vectors cannot make 4 entries"):
        kmeans(torch.zeros(3, 2), num_entries=4, num_iterations=1, generator=torch.Generator())
