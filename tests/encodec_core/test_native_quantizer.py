"""The quantizer in C gives torch's codes and distances, to the last bit.

Letters in shapes: N frames, D latent channels, K codebooks, E entries.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.fast.native import kernels, why_absent
from encodec_core.fast.native.quantizer import BlockedQuantizer, FramePiece, QuantizedPiece, can_quantize_blocked
from encodec_core.fast.quantizer import FrameQuantizer
from encodec_core.quantization import ResidualVectorQuantizer

pytestmark = pytest.mark.skipif(kernels() is None, reason=f"no kernels: {why_absent()}")

NUM_FRAMES = (4, 5, 7, 8, 13, 14, 15, 31, 32, 33, 75, 128, 141, 1000)
"""Around the sizes of a tile (14), of a block of tiles (140) and of the groups in which torch sums squares (4, 32)."""
ALONE, IN_A_BATCH = True, False


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_codebooks(n_q: int, *, num_entries: int, num_channels: int, scale: float = 1.0) -> Tensor:
    """Return entries `[K, E, D]`, each codebook finer than the one before it, as those of a codec."""
    fineness = 0.9 ** torch.arange(n_q)[:, None, None]
    return scale * fineness * normal(n_q, num_entries, num_channels, seed=n_q)


def in_quantizer(codebooks: Tensor) -> ResidualVectorQuantizer:
    n_q, num_entries, num_channels = codebooks.shape
    with torch.random.fork_rng(devices=[]):
        quantizer = ResidualVectorQuantizer(
            num_quantizers=n_q, codebook_size=num_entries, num_channels=num_channels, frame_rate=75
        )
    for codebook, entries in zip(quantizer.codebooks, codebooks, strict=True):
        codebook.embed.copy_(entries)
    return quantizer


def blocked(frames: Tensor) -> Tensor:
    """`[N, D]` -> `[D / 16, N, 16]`."""
    return frames.reshape(len(frames), frames.shape[1] // 16, 16).transpose(0, 1)


def quantize(codebooks: Tensor, frames: Tensor, *, alone: bool) -> QuantizedPiece:
    piece = FramePiece(frames=blocked(frames), item_frames=len(frames) if alone else None)
    return BlockedQuantizer(in_quantizer(codebooks).codebooks).quantize([piece])[0]


def torch_quantizes(codebooks: Tensor, frames: Tensor, *, alone: bool) -> tuple[Tensor, Tensor]:
    """Return codes and distances `[K, N]`, with every operation and every layout as in both references."""
    residual = frames.t().contiguous()[None] if alone else frames.clone()
    codes, distances = [], []
    for entries in codebooks:
        vectors = residual.permute(0, 2, 1).reshape(-1, entries.shape[1]) if alone else residual
        transposed = entries.t()
        table = vectors.pow(2).sum(1, keepdim=True) - 2 * vectors @ transposed + transposed.pow(2).sum(0, keepdim=True)
        chosen = (-table).max(dim=-1).indices
        nearest = functional.embedding(chosen, entries)
        residual = residual - (nearest[None].permute(0, 2, 1) if alone else nearest)
        codes.append(chosen)
        distances.append(table.gather(1, chosen[:, None])[:, 0])
    return torch.stack(codes), torch.stack(distances)


def assert_equal_bits(quantized: QuantizedPiece, expected: tuple[Tensor, Tensor]) -> None:
    codes, distances = expected
    assert torch.equal(quantized.codes.long(), codes)
    assert torch.equal(quantized.distances.view(torch.int32), distances.view(torch.int32))


@pytest.mark.parametrize("alone", [ALONE, IN_A_BATCH])
@pytest.mark.parametrize("num_frames", NUM_FRAMES)
@pytest.mark.parametrize(
    ("n_q", "num_entries", "num_channels"),
    [(8, 1024, 128), (4, 2048, 128), (8, 1024, 64), (2, 100, 128), (3, 100, 16), (3, 12, 48)],
)
def test_codes_and_distances_have_the_bits_of_torch(
    n_q: int, num_entries: int, num_channels: int, num_frames: int, alone: bool
) -> None:
    codebooks = random_codebooks(n_q, num_entries=num_entries, num_channels=num_channels)
    frames = 3 * normal(num_frames, num_channels, seed=num_frames)
    expected = torch_quantizes(codebooks, frames, alone=alone)
    assert_equal_bits(quantize(codebooks, frames, alone=alone), expected)


@pytest.mark.parametrize("scale", [1e-22, 1e-19, 1e-10, 1e10, 1e18])
def test_magnitudes_at_the_ends_of_float32_round_as_torch(scale: float) -> None:
    codebooks = random_codebooks(4, num_entries=256, num_channels=128, scale=scale)
    frames = scale * normal(75, 128, seed=1)
    assert_equal_bits(quantize(codebooks, frames, alone=ALONE), torch_quantizes(codebooks, frames, alone=ALONE))


@pytest.mark.parametrize("alone", [ALONE, IN_A_BATCH])
def test_all_codebooks_of_a_codec_have_the_codes_of_its_quantizer(alone: bool) -> None:
    quantizer = in_quantizer(random_codebooks(32, num_entries=1024, num_channels=128))
    latents = normal(1 if alone else 3, 128, 75, seed=2)
    pieces = [FramePiece(frames=blocked(item.t()), item_frames=75 if alone else None) for item in latents.contiguous()]
    with pytest.raises(AssertionError, match="side by side"):
        BlockedQuantizer(quantizer.codebooks).quantize(pieces)
    pieces = [FramePiece(frames=blocked(item.t().contiguous()), item_frames=75 if alone else None) for item in latents]
    codes = [piece.codes.long() for piece in BlockedQuantizer(quantizer.codebooks).quantize(pieces)]
    assert torch.equal(torch.stack(codes), quantizer.quantize(latents, n_q=32))


def near_ties(num_entries: int, num_channels: int, *, seed: int) -> Tensor:
    """Return entries `[1, E, D]` of which every second one is its neighbour with one channel moved by a few ulps."""
    entries = normal(num_entries // 2, num_channels, seed=seed)
    twins = entries.clone()
    moved = torch.arange(num_entries // 2) % num_channels
    twins[torch.arange(num_entries // 2), moved] *= 1 + 2**-21
    return torch.stack([entries, twins], 1).flatten(0, 1)[None]


@pytest.mark.parametrize("alone", [ALONE, IN_A_BATCH])
def test_near_ties_fall_as_in_torch(alone: bool) -> None:
    codebooks = near_ties(1024, 128, seed=3)
    frames = codebooks[0, ::2][torch.arange(2000) % 512] + normal(2000, 128, seed=4)
    expected, distances = torch_quantizes(codebooks, frames, alone=alone)
    assert_equal_bits(quantize(codebooks, frames, alone=alone), (expected, distances))

    # The test is sharp: exact distances, or squares summed in the order of the other layout, choose otherwise.
    exact = torch.cdist(frames.double(), codebooks[0].double()).argmin(1)
    other, other_distances = torch_quantizes(codebooks, frames, alone=not alone)
    assert (exact != expected[0]).sum() > 100
    assert not torch.equal(other, expected)
    assert (other_distances != distances).sum() > 100


def test_distances_one_ulp_apart_are_told_apart() -> None:
    codebooks = near_ties(1024, 128, seed=5)
    frames = codebooks[0, ::2][torch.arange(2000) % 512] + normal(2000, 128, seed=6)
    quantized = quantize(codebooks, frames, alone=IN_A_BATCH)
    chosen = quantized.codes[0].long()
    # The twin alone, in a codebook of one kind of entry, has a distance of its own.
    ulps = torch.stack(
        [torch_quantizes(codebooks[:, start::2], frames, alone=IN_A_BATCH)[1][0].view(torch.int32) for start in (0, 1)]
    )
    apart = (ulps[0] - ulps[1]).abs() == 1
    assert apart.sum() > 100
    assert torch.equal(chosen[apart] % 2, ulps.argmin(0)[apart])


@pytest.mark.parametrize("copies", [2, 17, 32])
def test_of_equal_entries_the_first_is_chosen(copies: int) -> None:
    different = normal(64, 64, seed=7)
    codebooks = different.repeat(copies, 1)[None]
    frames = normal(500, 64, seed=8)
    quantized = quantize(codebooks, frames, alone=ALONE)
    assert quantized.codes.long().max() < 64
    assert_equal_bits(quantized, torch_quantizes(codebooks, frames, alone=ALONE))


def cut_up(frames: Tensor, lengths: Sequence[int]) -> list[FramePiece]:
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    return [
        FramePiece(frames=blocked(piece), first_frame=start, item_frames=len(frames))
        for start, piece in zip(starts, torch.split(frames, list(lengths)), strict=True)
    ]


def test_items_and_parts_of_items_are_quantized_together_as_alone() -> None:
    codebooks = random_codebooks(4, num_entries=256, num_channels=64)
    quantizer = BlockedQuantizer(in_quantizer(codebooks).codebooks)
    items = [normal(length, 64, seed=length) for length in (1, 2, 3, 7, 33, 75, 300)]
    alone = [quantizer.quantize(cut_up(item, [len(item)]))[0] for item in items]
    whole = quantizer.quantize([piece for item in items for piece in cut_up(item, [len(item)])])
    pieces = [cut_up(item, [1] * (len(item) % 20) + [len(item) // 20 * 20]) for item in items]
    parts = quantizer.quantize([piece for item in pieces for piece in item])
    in_parts = torch.cat([part.distances for part in parts], 1)
    assert all(torch.equal(one.distances, other.distances) for one, other in zip(alone, whole, strict=True))
    assert all(torch.equal(one.codes, other.codes) for one, other in zip(alone, whole, strict=True))
    assert torch.equal(in_parts, torch.cat([one.distances for one in alone], 1))


def test_blocked_frames_are_read_where_they_lie() -> None:
    codebooks = random_codebooks(2, num_entries=64, num_channels=48)
    frames = normal(3, 50, 16, seed=9)[:, 3:40]
    quantized = BlockedQuantizer(in_quantizer(codebooks).codebooks).quantize([FramePiece(frames=frames)])[0]
    rows = frames.transpose(0, 1).flatten(1)
    assert_equal_bits(quantized, torch_quantizes(codebooks, rows, alone=IN_A_BATCH))


@pytest.mark.filterwarnings("error")
def test_frames_that_are_not_finite_get_the_codes_of_torch() -> None:
    codebooks = random_codebooks(3, num_entries=100, num_channels=64)
    frames = normal(40, 64, seed=10)
    frames[3, 5], frames[7, 0], frames[11, 63], frames[12] = torch.nan, torch.inf, -torch.inf, torch.inf
    frames[20, 2], frames[21] = 1e20, 3e38
    codes, _ = torch_quantizes(codebooks, frames, alone=ALONE)
    assert torch.equal(quantize(codebooks, frames, alone=ALONE).codes.long(), codes)


def test_codes_are_those_of_the_blocks_of_torch() -> None:
    """`FrameQuantizer` rounds squares in another order, and so differs at 3 of 900,000 random frames; not at these."""
    quantizer = in_quantizer(random_codebooks(8, num_entries=1024, num_channels=128))
    frames = normal(300, 128, seed=11)
    plain = FrameQuantizer(quantizer.codebooks, device=torch.device("cpu"), dtype=torch.float32)
    piece = BlockedQuantizer(quantizer.codebooks).quantize([FramePiece(frames=blocked(frames))])[0]
    assert torch.equal(piece.codes.long().t(), plain.encode(frames))


@pytest.mark.parametrize(
    ("num_entries", "num_channels", "fits"),
    [
        (1024, 128, True),
        (2048, 64, True),
        (1024, 256, False),
        (8, 128, False),
        (1024, 40, False),
        (2**16 + 1, 16, False),
    ],
)
def test_codebooks_whose_bits_would_differ_are_left_to_torch(num_entries: int, num_channels: int, fits: bool) -> None:
    codebooks = in_quantizer(random_codebooks(2, num_entries=num_entries, num_channels=num_channels)).codebooks
    assert can_quantize_blocked(codebooks) is fits


def test_codebooks_that_are_not_finite_are_left_to_torch() -> None:
    codebooks = random_codebooks(2, num_entries=64, num_channels=64)
    codebooks[1, 3, 5] = torch.inf
    assert not can_quantize_blocked(in_quantizer(codebooks).codebooks)
