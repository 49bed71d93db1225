"""The loss balancer: Meta's numbers, and the laws of its weights."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encodec_core.training import Balancer

WEIGHTS = {"close": 1.0, "far": 3.0, "tilted": 0.5}
OF_META: dict[str, dict[str, Any]] = {
    "defaults": {
        "arguments": {},
        "gradients": [
            [-0.26574457, 0.14564188, -0.36196661, 0.46649253],
            [-0.26797178, -0.39525962, 0.26750785, -0.15569748],
            [-0.2671259, -0.43687645, -0.23912564, 0.34284377],
        ],
        "norms": [1.43726194, 1.38433385, 1.3774817],
        "ratios": [0.00023698, 0.99964614, 0.00011688],
    },
    "whole_batch": {
        "arguments": {"per_batch_item": False, "ema_decay": 0.5, "total_norm": 2.0},
        "gradients": [
            [-0.2896955, 0.16441828, -0.39543945, 0.50752163],
            [-0.30231538, -0.44406885, 0.30119425, -0.17648835],
            [-0.30560967, -0.49649218, -0.27268326, 0.39056939],
        ],
        "norms": [1.57191682, 1.55754352, 1.56688595],
        "ratios": [0.00023169, 0.99964874, 0.00011956],
    },
}
"""What `encodec/balancer.py` of facebookresearch/encodec at 0e2d0ae gives for `losses_at(0)` to `(2)` under `WEIGHTS`:
elements 0, 5, 11 and 23 of the gradient and its norm, at each step; shares after the last."""


def losses_at(step: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return losses of very different scale, and the output `[3, 1, 8]` that they are computed from."""
    output = torch.sin(torch.arange(24.0) * (step + 1) * 0.37).reshape(3, 1, 8).requires_grad_()
    reference = torch.cos(torch.arange(24.0) * 0.11).reshape(3, 1, 8)
    difference = output - reference
    losses = {
        "close": difference.abs().mean(),
        "far": 100 * difference.square().sum(),
        "tilted": (output * reference).tanh().mean(),
    }
    return losses, output


def gradient_of(output: Tensor) -> Tensor:
    assert output.grad is not None
    return output.grad


@pytest.mark.parametrize("case", OF_META)
def test_gradients_and_shares_are_those_of_meta(case: str) -> None:
    expected = OF_META[case]
    balancer = Balancer(WEIGHTS, **expected["arguments"])
    for step in range(3):
        losses, output = losses_at(step)
        metrics = balancer.backward(losses, output)
        gradient = gradient_of(output)
        wanted = torch.tensor(expected["gradients"][step])
        torch.testing.assert_close(gradient.flatten()[[0, 5, 11, 23]], wanted, rtol=1e-5, atol=1e-7)
        assert gradient.norm().item() == pytest.approx(expected["norms"][step], rel=1e-5)
        for name, loss in losses.items():
            assert metrics[name] == pytest.approx(loss.item())
    assert [metrics[f"ratio_{name}"] for name in WEIGHTS] == pytest.approx(expected["ratios"], rel=1e-3)


def test_the_scale_of_a_loss_does_not_matter() -> None:
    plain, scaled = Balancer(WEIGHTS), Balancer(WEIGHTS)
    for step in range(3):
        losses, output = losses_at(step)
        plain.backward(losses, output)
        scaled_losses, scaled_output = losses_at(step)
        scaled.backward(scaled_losses | {"close": 1000 * scaled_losses["close"]}, scaled_output)
        torch.testing.assert_close(gradient_of(scaled_output), gradient_of(output))


def test_the_gradient_goes_on_into_the_codec() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = nn.Linear(8, 8)
    audio = torch.cos(torch.arange(16.0)).reshape(2, 8)
    output = codec(audio)
    Balancer({"only": 7.0}, total_norm=2.0, per_batch_item=False).backward({"only": output.square().mean()}, output)
    # The gradient of a mean square points along the output; its length is what was asked for.
    expected = 2.0 * output.detach() / output.detach().norm()
    torch.testing.assert_close(codec.weight.grad, expected.t() @ audio)


@pytest.mark.parametrize("case", OF_META)
def test_resumed_equals_uninterrupted(case: str) -> None:
    arguments = OF_META[case]["arguments"]
    straight, resumed = Balancer(WEIGHTS, **arguments), Balancer(WEIGHTS, **arguments)
    for step in range(4):
        losses, output = losses_at(step)
        straight.backward(losses, output)
        if step == 2:
            state = straight.state_dict()
    resumed.load_state_dict(state)
    losses, resumed_output = losses_at(3)
    resumed.backward(losses, resumed_output)
    assert torch.equal(gradient_of(resumed_output), gradient_of(output))
    assert resumed.state_dict() == straight.state_dict()


def test_a_loss_of_weight_zero_is_reported_and_has_no_part() -> None:
    losses, output = losses_at(0)
    metrics = Balancer({"close": 1.0, "far": 0.0}).backward({name: losses[name] for name in ("close", "far")}, output)
    alone_losses, alone_output = losses_at(0)
    Balancer({"close": 1.0}).backward({"close": alone_losses["close"]}, alone_output)
    assert torch.equal(gradient_of(output), gradient_of(alone_output))
    assert metrics["far"] == pytest.approx(losses["far"].item())
    assert "ratio_far" not in metrics


def test_a_gradient_of_zero_leaves_the_others_their_shares() -> None:
    losses, output = losses_at(0)
    flat = (output * 0).sum()
    Balancer({"close": 1.0, "flat": 3.0}, per_batch_item=False).backward(
        {"close": losses["close"], "flat": flat}, output
    )
    assert gradient_of(output).norm().item() == pytest.approx(0.25)


def test_gradients_of_zero_alone_give_zero() -> None:
    _, output = losses_at(0)
    metrics = Balancer({"flat": 1.0}).backward({"flat": (output * 0).sum()}, output)
    assert not gradient_of(output).any()
    assert metrics == {"flat": 0.0, "ratio_flat": 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_and_changes_nothing(value: float) -> None:
    balancer = Balancer(WEIGHTS)
    balancer.backward(*losses_at(0))
    before = balancer.state_dict()
    losses, output = losses_at(1)
    with pytest.raises(ValueError, match=f"loss far is {value}"):
        balancer.backward(losses | {"far": losses["far"] * value}, output)
    assert balancer.state_dict() == before
    assert output.grad is None


def test_a_gradient_that_is_not_finite_names_its_loss() -> None:
    losses, output = losses_at(0)
    root = (output * 0).sum().sqrt()  # finite, of infinite slope
    with pytest.raises(ValueError, match=r"loss far is 0\.0 with a gradient of norm nan"):
        Balancer(WEIGHTS).backward(losses | {"far": root}, output)


def test_a_loss_of_something_else_is_refused() -> None:
    losses, output = losses_at(0)
    other, _ = losses_at(1)
    with pytest.raises(ValueError, match="loss far does not depend on the codec's output"):
        Balancer(WEIGHTS).backward(losses | {"far": other["far"]}, output)
    with pytest.raises(ValueError, match="loss far has no gradient"):
        Balancer(WEIGHTS).backward(losses | {"far": losses["far"].detach()}, output)


def test_a_loss_without_weight_is_refused() -> None:
    losses, output = losses_at(0)
    with pytest.raises(ValueError, match="loss far has no weight"):
        Balancer({"close": 1.0, "tilted": 1.0}).backward(losses, output)


@pytest.mark.parametrize("weights", [{}, {"close": 0.0}, {"close": -1.0, "far": 2.0}, {"close": math.nan}])
def test_weights_that_share_out_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected finite ones, none negative and one above 0"):
        Balancer(weights)
