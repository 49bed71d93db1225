"""Two ranks on halves of a batch train as one on all of it, and never drift apart."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from encodec_core.quantization import ResidualVectorQuantizer
from encodec_core.training import Balancer, QuantizerSettings, quantize_for_training, reset_codebooks

NUM_RANKS, NUM_BATCHES, N_Q = 2, 4, 2
SETTINGS = {
    "averages": QuantizerSettings(dead_code_threshold=0),
    "replacement": QuantizerSettings(dead_code_threshold=7.0, decay=0.7),
}
WEIGHTS = {"near": 1.0, "far": 2.0}


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
        reset_codebooks(quantizer)
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


def refusals(rank: int) -> dict[str, str]:
    """Return what a rank says when only the other one errs, instead of waiting for it for ever."""
    messages = {}
    quantizer, latents = make_quantizer(), joint_batch(0)
    try:
        quantize_for_training(
            quantizer, latents, n_q=1 + rank, settings=SETTINGS["averages"], generator=torch.Generator()
        )
    except ValueError as error:
        messages["n_q"] = str(error)
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
        process.join(timeout=120)
    exit_codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert exit_codes == [0, 0], "a rank failed, or waits for one that did"
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_RANKS)]


def test_codebooks_follow_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    alone = train(slice(None), settings=SETTINGS["averages"], seed=0)
    for name, expected in alone["state"].items():
        torch.testing.assert_close(ranks[0]["averages"]["state"][name], expected)


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


def test_what_one_rank_does_wrong_every_rank_refuses(ranks: list[dict[str, Any]]) -> None:
    for rank, results in enumerate(ranks):
        assert f"n_q = {1 + rank} here, another on another rank" in results["refusals"]["n_q"]
        assert "loss only is nan" in results["refusals"]["loss"]
