"""Codebooks that follow the latents: Meta's averages, and the laws of what is done otherwise."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from encodec_core.quantization import ResidualVectorQuantizer
from encodec_core.training import QuantizerSettings, adopt_codebooks, quantize_for_training
from tests.encodec_core.models import meta_package

NUM_CODEBOOKS, NUM_ENTRIES, NUM_CHANNELS = 3, 16, 6
NUM_VECTORS = 160
"""Of a batch of `make_latents`."""
NO_REPLACEMENT = QuantizerSettings(dead_code_share=0)
BUFFERS = ("embed", "embed_avg", "cluster_size")


def make_quantizer(*, seed: int = 0, fitted: bool = True) -> ResidualVectorQuantizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        quantizer = ResidualVectorQuantizer(
            num_quantizers=NUM_CODEBOOKS, codebook_size=NUM_ENTRIES, num_channels=NUM_CHANNELS, frame_rate=75
        ).double()
    if fitted:
        adopt_codebooks(quantizer, num_vectors=NUM_VECTORS)
        quantize_for_training(
            quantizer,
            make_latents(seed=999),
            n_q=NUM_CODEBOOKS,
            settings=NO_REPLACEMENT,
            generator=torch.Generator().manual_seed(seed),
        )
    return quantizer


def make_latents(*, seed: int, batch_size: int = 4, num_frames: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, NUM_CHANNELS, num_frames, generator=generator, dtype=torch.float64)


def quantize(quantizer: ResidualVectorQuantizer, latents: Tensor, **arguments: Any) -> Any:
    defaults: dict[str, Any] = {
        "n_q": NUM_CODEBOOKS,
        "settings": NO_REPLACEMENT,
        "generator": torch.Generator().manual_seed(0),
    }
    return quantize_for_training(quantizer, latents, **(defaults | arguments))


def in_meta(quantizer: ResidualVectorQuantizer) -> Any:
    with meta_package(), torch.random.fork_rng(devices=[]):
        from encodec.quantization.core_vq import ResidualVectorQuantization

        theirs = ResidualVectorQuantization(
            num_quantizers=NUM_CODEBOOKS,
            dim=NUM_CHANNELS,
            codebook_size=NUM_ENTRIES,
            kmeans_init=False,
            threshold_ema_dead_code=0,
            decay=NO_REPLACEMENT.decay,
            epsilon=NO_REPLACEMENT.epsilon,
        ).double()
    for level, codebook in zip(theirs.layers, quantizer.codebooks, strict=True):
        level._codebook.load_state_dict(codebook.state_dict())
    return theirs.train()


def state_of(quantizer: ResidualVectorQuantizer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}


def assert_same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("fitted", [True, False])
def test_batches_move_the_codebooks_as_in_meta(fitted: bool) -> None:
    ours = make_quantizer(fitted=fitted)
    theirs = in_meta(ours)
    for index, n_q in enumerate((3, 1, 2, 3, 3, 2)):
        latents = make_latents(seed=index).requires_grad_()
        their_latents = latents.detach().clone().requires_grad_()
        result = quantize(ours, latents, n_q=n_q)
        quantized, codes, losses = theirs(their_latents, n_q=n_q)
        assert torch.equal(result.codes, codes.transpose(0, 1))
        # float64 rounding; theirs goes through x + (q - x), which rounds once more.
        torch.testing.assert_close(result.quantized, quantized, rtol=1e-9, atol=1e-9)
        # Theirs adds the loss to a float32 zero.
        torch.testing.assert_close(result.commitment_loss.float(), losses.mean())
        for codebook, level in zip(ours.codebooks, theirs.layers, strict=True):
            for name in BUFFERS:
                expected = getattr(level._codebook, name)
                torch.testing.assert_close(getattr(codebook, name), expected, rtol=1e-9, atol=1e-9)
        pull = make_latents(seed=100 + index)
        (result.quantized * pull).sum().backward()
        (quantized * pull).sum().backward()
        torch.testing.assert_close(latents.grad, their_latents.grad, rtol=1e-9, atol=1e-9)


def test_commitment_to_one_codebook_has_the_gradient_of_meta() -> None:
    ours = make_quantizer()
    theirs = in_meta(ours)
    latents = make_latents(seed=1).requires_grad_()
    their_latents = latents.detach().clone().requires_grad_()
    quantize(ours, latents, n_q=1).commitment_loss.backward()
    theirs(their_latents, n_q=1)[2].mean().backward()
    torch.testing.assert_close(latents.grad, their_latents.grad, rtol=1e-9, atol=1e-12)


def test_commitment_of_every_codebook_reaches_the_latents() -> None:
    quantizer = make_quantizer()
    latents = make_latents(seed=1).requires_grad_()
    result = quantize(quantizer, latents, update=False)
    result.commitment_loss.backward()
    residual, expected = latents.detach(), torch.zeros_like(latents)
    for codebook, chosen in zip(quantizer.codebooks, result.codes.unbind(1), strict=True):
        residual = residual - codebook.embed[chosen].transpose(1, 2)
        expected += 2 * residual / latents.numel() / NUM_CODEBOOKS
    torch.testing.assert_close(latents.grad, expected)


def test_gradient_passes_straight_through() -> None:
    latents = make_latents(seed=1).requires_grad_()
    pull = make_latents(seed=2)
    (quantize(make_quantizer(), latents).quantized * pull).sum().backward()
    torch.testing.assert_close(latents.grad, pull)


@pytest.mark.parametrize("n_q", [1, NUM_CODEBOOKS])
def test_training_quantizes_as_inference_does(n_q: int) -> None:
    quantizer = make_quantizer()
    latents = make_latents(seed=1)
    expected = quantizer.quantize(latents, n_q=n_q)
    result = quantize(quantizer, latents, n_q=n_q, update=False)
    assert torch.equal(result.codes, expected)
    torch.testing.assert_close(result.quantized, quantizer.dequantize(expected))


def test_autocast_changes_no_code() -> None:
    quantizer = make_quantizer().float()
    latents = make_latents(seed=1).float()
    expected = quantize(quantizer, latents, update=False).codes
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantize(quantizer, latents, update=False).codes, expected)


def test_no_update_leaves_the_codebooks() -> None:
    quantizer = make_quantizer()
    before = state_of(quantizer)
    quantize(quantizer, make_latents(seed=1), update=False)
    assert_same_state(state_of(quantizer), before)


def test_unused_codebooks_are_left() -> None:
    quantizer = make_quantizer()
    before = state_of(quantizer)
    quantize(quantizer, make_latents(seed=1), n_q=1)
    after = state_of(quantizer)
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"0"}


def test_means_are_a_fixed_point_of_the_averages() -> None:
    """A batch that k-means has fitted moves nothing when it comes again: averages and entries agree from the start."""
    quantizer = make_quantizer(fitted=False)
    adopt_codebooks(quantizer, num_vectors=NUM_VECTORS)
    latents = make_latents(seed=1, batch_size=8)
    quantize(quantizer, latents, n_q=1, settings=QuantizerSettings(dead_code_share=0, kmeans_iterations=200))
    fitted = quantizer.codebooks[0].embed.clone()
    for _ in range(20):
        quantize(quantizer, latents, n_q=1)
    # Laplace smoothing moves an entry by about epsilon / its share of 20 vectors.
    torch.testing.assert_close(quantizer.codebooks[0].embed, fitted, rtol=0, atol=1e-5)


def test_first_batch_starts_only_codebooks_that_wait() -> None:
    quantizer = make_quantizer()
    quantizer.codebooks[1].inited.zero_()
    started = quantizer.codebooks[0].embed.clone()
    quantize(quantizer, make_latents(seed=1), settings=QuantizerSettings(dead_code_share=0, decay=0.999999))
    assert all(codebook.inited.item() == 1 for codebook in quantizer.codebooks)
    torch.testing.assert_close(quantizer.codebooks[0].embed, started, rtol=0, atol=1e-4)


def with_dead_entries(num_dead: int) -> tuple[ResidualVectorQuantizer, QuantizerSettings]:
    """Return codebooks whose first entries are far from everything, and settings that call only those dead."""
    quantizer = make_quantizer()
    for codebook in quantizer.codebooks:
        codebook.embed[:num_dead] = 100
        codebook.embed_avg[:num_dead] = 1e-6
        codebook.cluster_size[:num_dead] = 1e-8
        codebook.cluster_size[num_dead:].clamp_(min=5)
    return quantizer, QuantizerSettings(dead_code_share=0.1)


def test_dead_entries_move_to_vectors_of_the_batch() -> None:
    quantizer, settings = with_dead_entries(5)
    control, _ = with_dead_entries(5)
    latents = make_latents(seed=1)
    result = quantize(quantizer, latents, settings=settings)
    quantize(control, latents)
    assert result.num_replaced == 5 * NUM_CODEBOOKS
    residual = latents.transpose(1, 2).reshape(-1, NUM_CHANNELS)
    for level, codebook in enumerate(quantizer.codebooks):
        assert torch.cdist(codebook.embed[:5], residual).min(dim=1).values.max() < 1e-6
        assert len(torch.unique(codebook.embed[:5], dim=0)) == 5
        assert torch.equal(codebook.embed[5:], control.codebooks[level].embed[5:])
        # What this batch left over was by the entries before the update, of which the far ones were not chosen.
        chosen = result.codes[:, level].flatten()
        before, _ = with_dead_entries(5)
        residual = residual - before.codebooks[level].embed[chosen]


def test_a_replaced_entry_stays_and_gets_a_batch_to_find_vectors() -> None:
    quantizer, settings = with_dead_entries(5)
    latents = make_latents(seed=1)
    quantize(quantizer, latents, settings=settings)
    placed = quantizer.codebooks[0].embed[:5].clone()
    result = quantize(quantizer, latents, settings=settings)
    assert result.num_replaced == 0
    # One batch of vectors around it moves it by a hundredth of their distance; the old place was 100 away.
    assert (quantizer.codebooks[0].embed[:5] - placed).norm(dim=1).max() < 0.1
    assert (result.codes[:, 0] < 5).any()


def test_an_entry_that_finds_nobody_is_replaced_when_its_count_has_decayed() -> None:
    quantizer = make_quantizer()
    even_share = NUM_VECTORS / NUM_ENTRIES
    codebook = quantizer.codebooks[0]
    codebook.cluster_size.fill_(1000)
    codebook.embed_avg.copy_(codebook.embed * 1000)
    codebook.embed[0] = 100
    codebook.embed_avg[0] = 100 * even_share
    codebook.cluster_size[0] = even_share
    settings = QuantizerSettings(dead_code_share=0.2, decay=0.8)
    replaced = [
        quantize(quantizer, make_latents(seed=index), n_q=1, settings=settings).num_replaced for index in range(8)
    ]
    num_batches = math.ceil(math.log(settings.dead_code_share) / math.log(settings.decay))
    assert replaced.index(1) == num_batches - 1 == 7


def test_what_is_dead_does_not_depend_on_the_size_of_a_batch() -> None:
    """A batch that is the small one three times over, on thrice the averages, leaves the same entries."""
    quantizers = []
    for times in (1, 3):
        quantizer, settings = with_dead_entries(5)
        for codebook in quantizer.codebooks:
            codebook.cluster_size[5:] = torch.arange(1, 12) / 4  # of an even share of 10, so that some more fall below
            codebook.cluster_size *= times
            codebook.embed_avg.copy_(codebook.embed * codebook.cluster_size[:, None])
        latents = make_latents(seed=1).repeat(times, 1, 1)
        quantizers.append((quantizer, quantize(quantizer, latents, settings=settings, n_q=1).num_replaced))
    (small, num_dead_in_small), (large, num_dead_in_large) = quantizers
    assert 5 < num_dead_in_small < NUM_ENTRIES
    assert num_dead_in_small == num_dead_in_large
    counts = [quantizer.codebooks[0].cluster_size for quantizer in (small, large)]
    torch.testing.assert_close(3 * counts[0], counts[1])


class TestAdoptedCodebooks:
    """What becomes of the codebooks that a codec brings to a training."""

    def test_random_ones_wait_for_k_means(self) -> None:
        quantizer = make_quantizer(fitted=False)
        adopt_codebooks(quantizer, num_vectors=NUM_VECTORS)
        latents = make_latents(seed=1)
        quantize(quantizer, latents, settings=QuantizerSettings())
        for codebook in quantizer.codebooks:
            assert codebook.inited.item() == 1
            # Averages begun from nothing put entries up to a hundred times beyond the latents.
            assert codebook.embed.norm(dim=1).max() <= latents.norm(dim=1).max()

    @pytest.mark.parametrize("count", [1.0, 0.01], ids=["none_kept", "small_batches"])
    def test_those_without_averages_of_such_batches_keep_their_entries(self, count: float) -> None:
        quantizer = make_quantizer()
        for codebook in quantizer.codebooks:
            codebook.cluster_size.fill_(count)
            codebook.embed_avg.copy_(codebook.embed * count)
        before = state_of(quantizer)
        adopt_codebooks(quantizer, num_vectors=10 * NUM_VECTORS)
        result = quantize(quantizer, make_latents(seed=1, num_frames=400), settings=QuantizerSettings())
        assert result.num_replaced == 0
        for level, codebook in enumerate(quantizer.codebooks):
            moved = (codebook.embed - before[f"layers.{level}.codebook.embed"]).norm(dim=1)
            assert moved.max() < 0.05 * codebook.embed.norm(dim=1).mean()

    def test_those_with_averages_of_such_batches_stay(self) -> None:
        quantizer = make_quantizer()
        before = state_of(quantizer)
        adopt_codebooks(quantizer, num_vectors=NUM_VECTORS)
        assert_same_state(state_of(quantizer), before)


def test_resumed_equals_uninterrupted() -> None:
    settings = QuantizerSettings(dead_code_share=0.6, decay=0.8)

    def run(quantizer: ResidualVectorQuantizer, generator: torch.Generator, batches: range) -> int:
        return sum(
            quantize(quantizer, make_latents(seed=index), settings=settings, generator=generator).num_replaced
            for index in batches
        )

    straight, generator = make_quantizer(), torch.Generator().manual_seed(7)
    assert run(straight, generator, range(6)) > 0
    first, generator = make_quantizer(), torch.Generator().manual_seed(7)
    run(first, generator, range(3))
    second, resumed = make_quantizer(seed=1, fitted=False), torch.Generator()
    second.load_state_dict(first.state_dict())
    resumed.set_state(generator.get_state())
    assert run(second, resumed, range(3, 6)) > 0
    assert_same_state(state_of(second), state_of(straight))


@pytest.mark.parametrize("n_q", [0, NUM_CODEBOOKS + 1])
def test_codebooks_that_do_not_exist_are_refused(n_q: int) -> None:
    with pytest.raises(ValueError, match=f"n_q = {n_q}; expected 1 to 3"):
        quantize(make_quantizer(), make_latents(seed=1), n_q=n_q)


@pytest.mark.parametrize("shape", [(2, NUM_CHANNELS + 1, 4), (NUM_CHANNELS, 4), (1, NUM_CHANNELS, 0)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[B, 6, T\]"):
        quantize(make_quantizer(), torch.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_latents_that_are_not_finite_leave_the_codebooks(value: float) -> None:
    quantizer = make_quantizer()
    before = state_of(quantizer)
    latents = make_latents(seed=1)
    latents[0, 0, 0] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(quantizer, latents)
    assert_same_state(state_of(quantizer), before)


def test_codebooks_without_entries_are_refused_without_update() -> None:
    quantizer = make_quantizer(fitted=False)
    adopt_codebooks(quantizer, num_vectors=NUM_VECTORS)
    with pytest.raises(ValueError, match="codebook 0 has no entries yet"):
        quantize(quantizer, make_latents(seed=1), update=False)


@pytest.mark.parametrize(
    "setting",
    [
        {"decay": 1.0},
        {"epsilon": 0.0},
        {"dead_code_share": -0.1},
        {"dead_code_share": 1.0},
        {"dead_code_share": math.nan},
        {"kmeans_iterations": 0},
    ],
)
def test_settings_without_meaning_are_refused(setting: dict[str, Any]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        QuantizerSettings(**setting)
