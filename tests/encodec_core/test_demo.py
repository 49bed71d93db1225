"""The codec inside the package, the script that makes it, and the k-means under it."""

from pathlib import Path

import pytest
import torch

import encodec_core
from encodec_core import BatchEncoder, EncodecModel
from encodec_core.demo.make import synthetic_audio, write_demo
from encodec_core.quantization.kmeans import fit_codebooks, kmeans

FOLDER = Path(encodec_core.__file__).parent / "demo"


def clips(num_clips: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [synthetic_audio(240_000, sampling_rate=24_000, generator=generator) for _ in range(num_clips)]


def test_it_is_small_and_says_that_it_is_untrained() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.*")) < 2_000_000
    assert "**Untrained.**" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("bandwidth", "n_q"), [(1.5, 2), (3.0, 4), (6.0, 8)])
def test_it_encodes_and_decodes_at_every_bandwidth(bandwidth: float, n_q: int) -> None:
    model = EncodecModel.from_pretrained("demo")
    encoder = BatchEncoder(model, bandwidth, "cpu")
    codes = encoder.encode([torch.zeros(1, 1000)])
    assert codes[0].codes.shape == (n_q, 4)
    assert encoder.decode(codes)[0].shape == (1, 1280)


def test_every_codebook_is_in_use() -> None:
    """Measured 440 to 520 on 5 minutes; 1,500 frames cannot show more than a part of that."""
    codes = BatchEncoder(EncodecModel.from_pretrained("demo"), 6.0, "cpu").encode(clips(2))
    for level in torch.cat([item.codes.long() for item in codes], -1):
        shares = torch.bincount(level) / len(level)
        perplexity = torch.exp(-torch.xlogy(shares, shares).sum())
        assert perplexity > 150


def test_it_is_written_as_it_is_read(tmp_path: Path) -> None:
    model = EncodecModel.from_pretrained("demo")
    write_demo(model, tmp_path)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_kmeans_finds_clusters_and_moves_entries_that_nobody_chose() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(8, 4, generator=generator)
    vectors = centres.repeat(50, 1) + 0.01 * torch.randn(400, 4, generator=generator)
    means = kmeans(vectors, num_entries=32, num_iterations=20, generator=generator)
    assert torch.cdist(centres, means).min(1).values.max() < 0.05


def test_each_codebook_is_fitted_to_what_the_earlier_ones_leave() -> None:
    model = EncodecModel.from_pretrained("demo")
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3000, 32, generator=generator)
    fit_codebooks(model.quantizer, latents, num_iterations=3, generator=generator)
    codes = model.quantizer.quantize(latents.t()[None], n_q=8)
    left_over = [
        float((model.quantizer.dequantize(codes[:, :level])[0].t() - latents).norm() / latents.norm())
        for level in range(1, 9)
    ]
    assert left_over == sorted(left_over, reverse=True)
    assert left_over[-1] < 0.5
    assert int(model.quantizer.codebooks[0].cluster_size.sum()) == len(latents)


def test_too_few_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="3 vectors cannot make 4 entries"):
        kmeans(torch.zeros(3, 2), num_entries=4, num_iterations=1, generator=torch.Generator())
