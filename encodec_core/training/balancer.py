"""The loss balancer (EnCodec paper section 3.4): weights say which share of the gradient a loss has, not its scale.

Of losses l_i with weights w_i, at the codec's output x̂, with g_i = ∂l_i / ∂x̂ and avg an exponential moving average:

    gradient of x̂ = Σ_i total_norm · w_i / Σ_j w_j · g_i / avg(‖g_i‖)

The numbers are those of `encodec/balancer.py` in Meta's repository.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, autograd

from encodec_core.training.ranks import average_over_ranks

__all__ = ["Balancer"]


class Balancer:
    """Sends one gradient of known norm into the codec's output in place of many of unknown scale.

    Args:
        weights: of each loss, by name, none negative. A loss of weight 0 is reported but not differentiated.
        total_norm: norm of the sum, were all gradients to point one way.
        ema_decay: what is left of the averages after one more batch; 1 averages all batches alike.
        per_batch_item: norms are means over the batch of each item's; False: of the whole batch's gradient.
        epsilon: added to an averaged norm before the division by it, for gradients of zero.

    Raises:
        ValueError: a weight is negative or not finite, or none is above 0.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        total_norm: float = 1.0,
        ema_decay: float = 0.999,
        per_batch_item: bool = True,
        epsilon: float = 1e-12,
    ) -> None:
        if not all(weight >= 0 and math.isfinite(weight) for weight in weights.values()) or not any(weights.values()):
            raise ValueError(f"weights = {dict(weights)}; expected finite ones, none negative and one above 0")
        self.weights = dict(weights)
        self.total_norm = total_norm
        self.ema_decay = ema_decay
        self.per_batch_item = per_batch_item
        self.epsilon = epsilon
        self._totals: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def backward(self, losses: Mapping[str, Tensor], output: Tensor) -> dict[str, float]:
        """Send the balanced gradient of `losses` through `output`, into `.grad` of the leaves before it.

        Args:
            losses: scalars by name, each computed from `output` and with a weight. What else they depend on gets no
                gradient: a loss inside the codec, such as the commitment loss, goes a way of its own.
            output: `[B, ...]`, the codec's output, or a leaf in its place.

        Returns:
            The value of each loss by its name, and `ratio_<name>`: its share of the sum of averaged gradient norms,
            before weighting. With several ranks, values and norms are means over the ranks.

        Raises:
            ValueError: a loss has no weight, does not depend on `output`, or it or its gradient is not finite (then
                neither averages nor gradients have changed); or all weights of the losses given are 0.
        """
        gradients = {
            name: self._gradient(name, loss, output) for name, loss in losses.items() if self._weight(name) > 0
        }
        if not gradients:
            raise ValueError(f"no loss with a weight above 0 among {', '.join(losses) or 'none at all'}; give one")
        values, norms = self._measure(losses, gradients)
        for name, value in values.items():
            if not math.isfinite(value) or not math.isfinite(norms.get(name, 0.0)):
                raise ValueError(
                    f"loss {name} is {value} with a gradient of norm {norms.get(name)}; expected finite ones; look for "
                    f"silence or huge samples in the batch, or lower the learning rate"
                )
        averages = {name: self._average(name, norm) for name, norm in norms.items()}
        total_weight = sum(self.weights[name] for name in gradients)
        balanced = torch.zeros_like(output)
        for name, gradient in gradients.items():
            scale = self.weights[name] / total_weight * self.total_norm / (self.epsilon + averages[name])
            balanced += gradient * scale
        torch.autograd.backward([output], [balanced])
        total = sum(averages.values())
        return values | {f"ratio_{name}": average / total if total else 0.0 for name, average in averages.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the moving averages as plain numbers."""
        return {"totals": dict(self._totals), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from moving averages that `state_dict` gave."""
        self._totals = dict(state["totals"])
        self._counts = dict(state["counts"])

    def _weight(self, name: str) -> float:
        if name not in self.weights:
            raise ValueError(f"loss {name} has no weight; there are weights for {', '.join(self.weights)}")
        return self.weights[name]

    def _gradient(self, name: str, loss: Tensor, output: Tensor) -> Tensor:
        if not loss.requires_grad:
            raise ValueError(f"loss {name} has no gradient; expected one that is computed from the codec's output")
        (gradient,) = autograd.grad(loss, [output], retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(f"loss {name} does not depend on the codec's output; compute it from that")
        return gradient

    def _measure(
        self, losses: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return the value of each loss and the norm of each gradient, both averaged over the ranks."""
        norms = [self._norm(gradient) for gradient in gradients.values()]
        scalars = [loss.detach().reshape(()).to(norms[0]) for loss in losses.values()]
        batch_size = len(next(iter(gradients.values())))
        # The averages of all ranks stay equal, so that one checkpoint serves all, and all see a NaN of any.
        measured = average_over_ranks(
            torch.stack([*scalars, *norms]), weight=batch_size if self.per_batch_item else 1
        ).tolist()
        return dict(zip(losses, measured, strict=False)), dict(zip(gradients, measured[len(losses) :], strict=True))

    def _norm(self, gradient: Tensor) -> Tensor:
        if self.per_batch_item:
            return gradient.flatten(1).square().sum(1).sqrt().mean()
        return gradient.square().sum().sqrt()

    def _average(self, name: str, norm: float) -> float:
        """Take one more norm into the average, which weighs batches alike at first (no bias towards 0)."""
        self._totals[name] = self._totals.get(name, 0.0) * self.ema_decay + norm
        self._counts[name] = self._counts.get(name, 0.0) * self.ema_decay + 1
        return self._totals[name] / self._counts[name]
