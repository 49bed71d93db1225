"""Two ranks on halves of a batch train as one on all of it, and never drift apart."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.quantization import ResidualVectorQuantizer
from encodec_core.training import (
    Balancer,
    DiscriminatorSettings,
    QuantizerSettings,
    Stage,
    Trainer,
    TrainingSettings,
    quantize_for_training,
)
from encodec_core.training.ranks import gather_over_ranks, rows_over_ranks

NUM_RANKS, NUM_BATCHES, N_Q = 2, 4, 2
SETTINGS = {
    "averages": QuantizerSettings(dead_code_share=0),
    "replacement": QuantizerSettings(dead_code_share=0.7, decay=0.7),
}
WEIGHTS = {"near": 1.0, "far": 2.0}
# Feature matching, which ranks measure against their own audio, comes in a stage of its own.
JOINT_LOSSES = {"waveform_l1": 0.1, "relative_error": 1.0, "mel": 1.0, "adversarial": 3.0}
RECIPE = TrainingSettings(
    stages=(
        Stage(name="first_batch", num_updates=3, losses=JOINT_LOSSES),
        Stage(name="fitted", num_updates=3, losses=JOINT_LOSSES, codebook_crops=8),
        Stage(name="features", num_updates=2, losses={"feature_matching": 1.0}),
    ),
    unit_variance_crops=4,
    quantizer=QuantizerSettings(dead_code_share=0.8, decay=0.7, kmeans_iterations=3),
    discriminator=DiscriminatorSettings(num_filters=2, window_lengths=(64, 32)),
)
NUM_JOINT_UPDATES = 6


def make_quantizer() -> ResidualVectorQuantizer:
    with torch.random.fork_rng(devices=[]):
        quantizer = ResidualVectorQuantizer(num_quantizers=N_Q, codebook_size=8, num_channels=4, frame_rate=75).double()
    generator = torch.Generator().manual_seed(0)
    for codebook in quantizer.codebooks:
        codebook.embed.copy_(torch.randn(codebook.embed.shape, generator=generator, dtype=torch.float64))
        codebook.cluster_size.fill_(10)
        codebook.embed_avg.copy_(codebook.embed * 10)
    return quantizer


def joint_batch(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + index)
    return torch.randn(4, 4, 20, generator=generator, dtype=torch.float64)


def train(part: slice, *, settings: QuantizerSettings, seed: int, start: bool = False) -> dict[str, Any]:
    """Run a few batches, of which this process sees the items of `part`."""
    quantizer, balancer = make_quantizer(), Balancer(WEIGHTS)
    if start:
        for codebook in quantizer.codebooks:
            codebook.inited.zero_()
    generator = torch.Generator().manual_seed(seed)
    num_replaced, gradients, metrics = 0, [], []
    for index in range(NUM_BATCHES):
        latents = joint_batch(index)[part].requires_grad_()
        result = quantize_for_training(quantizer, latents, n_q=N_Q, settings=settings, generator=generator)
        num_replaced += result.num_replaced
        item_losses = {"near": (latents - 1).abs().flatten(1).sum(1), "far": latents.square().flatten(1).sum(1)}
        metrics.append(balancer.backward({name: loss.mean() for name, loss in item_losses.items()}, latents))
        gradients.append(latents.grad)
    return {
        "state": quantizer.state_dict(),
        "num_replaced": num_replaced,
        "gradients": gradients,
        "metrics": metrics,
        "balancer": balancer.state_dict(),
    }


def crops(update: int) -> Tensor:
    generator = torch.Generator().manual_seed(200 + update)
    hertz = 200 + 3000 * torch.rand(4, 1, 1, generator=generator)
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(240) / 24_000)


def tiny_model() -> EncodecModel:
    torch.manual_seed(0)
    layout: dict[str, Any] = {"num_filters": 2, "hidden_size": 4, "num_lstm_layers": 1, "upsampling_ratios": [3, 2]}
    return EncodecModel(EncodecConfig(**layout, codebook_size=16, target_bandwidths=[16, 32]))


def train_codec(part: slice) -> dict[str, Any]:
    """Run a recipe with every network and rule of a trainer, of whose crops this process sees those of `part`."""
    with float64():
        trainer = Trainer(tiny_model(), RECIPE)
        trainer.scale_weights([crops(0)[part]])
        metrics, states = [], []
        while not trainer.is_done:
            if trainer.needs_codebooks:
                trainer.fit_codebooks([crops(update)[part] for update in (trainer.update, trainer.update + 1)])
            metrics.append(trainer.step(crops(trainer.update)[part]))
            if trainer.update == NUM_JOINT_UPDATES:
                states.append({name: tensor.clone() for name, tensor in networks(trainer).items()})
        return {"joint": states[0], "end": networks(trainer), "metrics": metrics}


def go_on_from_a_codec(part: slice) -> dict[str, Tensor]:
    """Return the codebooks after one update of a codec that came without averages."""
    with float64():
        model = tiny_model()
        for codebook in model.quantizer.codebooks:
            codebook.cluster_size.fill_(1)
        trainer = Trainer(model, RECIPE)
        trainer.step(crops(0)[part])
        return {name: tensor for name, tensor in networks(trainer).items() if "codebook" in name}


def networks(trainer: Trainer) -> dict[str, Tensor]:
    state = trainer.state_dict()
    return {
        f"{network}.{name}": tensor for network in ("model", "discriminator") for name, tensor in state[network].items()
    }


@contextmanager
def float64() -> Iterator[None]:
    """Make networks and audio float64, so that only rounding of no account tells a split batch from a whole one."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(default)


def exchanges(rank: int) -> dict[str, Tensor]:
    own = torch.arange(6).view(3, 2) + 100 * rank
    return {"gathered": gather_over_ranks(own), "rows": rows_over_ranks(own, torch.tensor([5, 0, 3]))}


def refusals(rank: int) -> dict[str, str]:
    """Return what a rank says where only one can tell that something is wrong, instead of waiting for ever."""
    messages = {}
    quantizer, latents = make_quantizer(), joint_batch(0)
    try:
        quantize_for_training(
            quantizer, latents, n_q=1 + rank, settings=SETTINGS["averages"], generator=torch.Generator()
        )
    except ValueError as error:
        messages["n_q"] = str(error)
    quantizer.codebooks[0].inited.zero_()
    try:
        quantize_for_training(
            quantizer, latents[:1, :, :3], n_q=1, settings=SETTINGS["averages"], generator=torch.Generator()
        )
    except ValueError as error:
        messages["start"] = str(error)
    leaf = latents.clone().requires_grad_()
    loss = leaf.sum() * (float("nan") if rank == 1 else 1.0)
    try:
        Balancer({"only": 1.0}).backward({"only": loss}, leaf)
    except ValueError as error:
        messages["loss"] = str(error)
    return messages


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=NUM_RANKS
    )
    part = slice(2 * rank, 2 * rank + 2)
    results: dict[str, Any] = {name: train(part, settings=settings, seed=rank) for name, settings in SETTINGS.items()}
    results["start"] = train(part, settings=SETTINGS["averages"], seed=rank, start=True)
    results["refusals"] = refusals(rank)
    results["codec"] = train_codec(part)
    results["gone_on_from"] = go_on_from_a_codec(part)
    results["exchanges"] = exchanges(rank)
    torch.save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=run_rank, args=(rank, folder), daemon=True) for rank in range(NUM_RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=180)
    exit_codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert exit_codes == [0, 0], "a rank failed, or waits for one that did"
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_RANKS)]


@pytest.mark.parametrize("case", ["averages", "replacement", "start"])
def test_codebooks_follow_the_joint_batch(ranks: list[dict[str, Any]], case: str) -> None:
    settings = SETTINGS.get(case, SETTINGS["averages"])
    alone = train(slice(None), settings=settings, seed=0, start=case == "start")
    assert ranks[0][case]["num_replaced"] == alone["num_replaced"]
    torch.testing.assert_close(dict(ranks[0][case]["state"]), dict(alone["state"]))


def test_a_codec_learns_from_a_split_batch_what_it_learns_from_a_whole_one(ranks: list[dict[str, Any]]) -> None:
    alone = train_codec(slice(None))
    for results in ranks:
        torch.testing.assert_close(results["codec"]["joint"], alone["joint"])
    replaced = [metrics["replaced_entries"] for metrics in alone["metrics"]]
    assert sum(replaced) > 0
    assert [metrics["replaced_entries"] for metrics in ranks[0]["codec"]["metrics"]][:6] == replaced[:6]
    assert 0 < sum("discriminator" in metrics for metrics in alone["metrics"]) < len(alone["metrics"])


def test_codebooks_that_a_codec_brings_are_taken_over_for_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(ranks[0]["gone_on_from"], go_on_from_a_codec(slice(None)))


def test_ranks_keep_equal_networks(ranks: list[dict[str, Any]]) -> None:
    first, second = (results["codec"]["end"] for results in ranks)
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


def test_rows_are_those_of_all_ranks_in_their_order(ranks: list[dict[str, Any]]) -> None:
    joint = torch.cat([torch.arange(6).view(3, 2), 100 + torch.arange(6).view(3, 2)])
    for results in ranks:
        assert torch.equal(results["exchanges"]["gathered"], joint)
        assert torch.equal(results["exchanges"]["rows"], joint[[5, 0, 3]])


@pytest.mark.parametrize("case", ["averages", "replacement", "start"])
def test_ranks_keep_equal_codebooks(ranks: list[dict[str, Any]], case: str) -> None:
    first, second = (results[case] for results in ranks)
    assert first["num_replaced"] == second["num_replaced"]
    assert (first["num_replaced"] > 0) == (case == "replacement")
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name


def test_codebooks_that_wait_are_started_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    assert all(
        tensor.item() == 1
        for results in ranks
        for name, tensor in results["start"]["state"].items()
        if name.endswith("inited")
    )


def test_gradients_are_balanced_over_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    alone = train(slice(None), settings=SETTINGS["averages"], seed=0)
    for batch, expected in enumerate(alone["gradients"]):
        joint = torch.cat([results["averages"]["gradients"][batch] for results in ranks])
        # The mean over half the items has twice the gradient of each, and twice the norm that it is divided by.
        torch.testing.assert_close(joint, expected)
        for results in ranks:
            assert results["averages"]["metrics"][batch] == pytest.approx(alone["metrics"][batch])


def test_ranks_keep_equal_averages(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["averages"]["balancer"] == ranks[1]["averages"]["balancer"]


def test_a_batch_too_small_for_k_means_is_refused_by_every_rank(ranks: list[dict[str, Any]]) -> None:
    for results in ranks:
        assert "6 vectors cannot start a codebook of 8 entries" in results["refusals"]["start"]


def test_what_one_rank_does_wrong_every_rank_refuses(ranks: list[dict[str, Any]]) -> None:
    for rank, results in enumerate(ranks):
        assert f"n_q = {1 + rank} here, another on another rank" in results["refusals"]["n_q"]
        assert "loss only is nan" in results["refusals"]["loss"]
