"""Training of the language model that the entropy coder asks (EnCodec paper, section 3.3).

Letters in shapes: B batch, K codebooks, T frames, E entries of a codebook.

    frame        t - 1      t     t + 1            a crop [B, K, T + 1] begins one frame early: that frame is
    crop       │   7        3       9   │          seen and not predicted; -1 stands where there is no frame
    sees       │   8        4   │                  (codes + 1, so that "no frame" is the model's 0)
    predicts            │   3       9   │
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from encodec_core.entropy import LanguageModel
from encodec_core.modules.transformer import TransformerState
from encodec_core.training.schedule import learning_rate_at

__all__ = ["NO_CODE", "LanguageModelSettings", "LanguageModelTrainer"]

NO_CODE = -1
"""In crops, where a sequence has no frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelSettings:
    """A whole recipe but for the codes and the model's shape."""

    num_updates: int
    learning_rate: float = 3e-4
    """Of Adam, highest."""
    final_learning_rate: float | None = None
    """Reached along a cosine by the end; None: constant."""
    warmup_updates: int = 0
    """Updates at the start over which the rate grows from nothing."""
    adam_betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    """Share of each matrix that is taken away in an update, times the learning rate; vectors keep theirs."""
    dropout: float = 0.0
    """Of what each block adds and of the embeddings, for small sets of codes; the paper has none."""
    max_gradient_norm: float = 1.0
    """Longer gradients are scaled down to it."""
    max_first_position: int = 0
    """The position of a crop's first frame is drawn from 0 to this, in frames, so that positions far into a recording
    are known too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: products of matrices in it, the rest and the weights in fp32; 1.6 times as fast on a Zen 5 core."""
    seed: int = 0
    """Of every draw: weights, crops, numbers of codebooks, positions, dropout."""

    def __post_init__(self) -> None:
        _check(self.num_updates > 0, f"num_updates = {self.num_updates}; expected at least 1")
        _check(self.learning_rate > 0, f"learning_rate = {self.learning_rate}; expected above 0")
        _check(self.weight_decay >= 0, f"weight_decay = {self.weight_decay}; expected 0 or more")
        _check(0 <= self.dropout < 1, f"dropout = {self.dropout}; expected 0 or more and below 1")
        _check(self.max_gradient_norm > 0, f"max_gradient_norm = {self.max_gradient_norm}; expected above 0")
        _check(self.precision in ("fp32", "bf16"), f"precision = {self.precision!r}; choose fp32 or bf16")
        _check(self.max_first_position >= 0, f"max_first_position = {self.max_first_position}; expected 0 or more")

    def learning_rate_at(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        return learning_rate_at(
            update,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            warmup_updates=self.warmup_updates,
            num_updates=self.num_updates,
        )


class LanguageModelTrainer:
    """Trains a language model in place.

    Args:
        model: it moves to `device`.
        settings: the recipe.
        n_q_choices: numbers of codebooks, of which each update draws one, as the codec's bandwidths use them; what is
            trained on 2, 4 and 8 serves each. Named twice, one is drawn twice as often.
        device: of torch.

    With equal crops, machine and number of threads, training that was interrupted and goes on from `state_dict` ends
    in the same bits as training that was not.

    Raises:
        ValueError: a number of codebooks is not one that the model knows.
    """

    def __init__(
        self,
        model: LanguageModel,
        settings: LanguageModelSettings,
        *,
        n_q_choices: tuple[int, ...],
        device: str | torch.device = "cpu",
    ) -> None:
        if not n_q_choices or not all(1 <= n_q <= model.config.n_q for n_q in n_q_choices):
            raise ValueError(f"n_q_choices = {n_q_choices}; expected some of 1 to {model.config.n_q}")
        self.model = model.to(device).train().requires_grad_(True)
        self.settings = settings
        self.device = torch.device(device)
        self.update = 0
        """Updates done."""
        self._n_q_choices = n_q_choices
        self._generator = torch.Generator().manual_seed(settings.seed)
        matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=1.0,
            betas=settings.adam_betas,
        )

    @property
    def is_done(self) -> bool:
        """Whether every update of the recipe is done."""
        return self.update >= self.settings.num_updates

    def step(self, crops: Tensor) -> dict[str, float]:
        """Do one update.

        Args:
            crops: int64 `[B, K, T + 1]` in [-1, E): the frame before, then the frames to predict; -1 throughout a
                frame that does not exist. K is at least the highest of `n_q_choices`.

        Returns:
            Bits per code (under a name that says how many codebooks were drawn), norm of the gradient, learning rate.

        Raises:
            ValueError: training is done, or the loss or its gradient is not finite.
        """
        if self.is_done:
            raise ValueError(f"update {self.update} is beyond the recipe's {self.settings.num_updates}; raise it")
        learning_rate = self.settings.learning_rate_at(self.update)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        n_q = self._n_q_choices[self._draw(len(self._n_q_choices))]
        state = self._state_before(len(crops), position=self._draw(self.settings.max_first_position + 1))
        self._optimizer.zero_grad(set_to_none=True)
        self.model.train()
        with _dropout(self.model, rate=self.settings.dropout, seed=self._draw(2**31), device=self.device):
            loss = self._backward(crops[:, :n_q].to(self.device), state)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise ValueError(
                f"the loss of update {self.update} is {loss} with a gradient of norm {norm}; expected finite ones; "
                "lower the learning rate or lengthen the warm-up"
            )
        self._optimizer.step()
        self.update += 1
        return {
            f"bits_per_code_of_{n_q}": loss / math.log(2),
            "gradient_norm": norm,
            "learning_rate": learning_rate,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on, as tensors, numbers and strings."""
        return {
            "update": self.update,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.update = state["update"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())

    def _draw(self, end: int) -> int:
        return int(torch.randint(end, (), generator=self._generator))

    def _state_before(self, num_items: int, *, position: int) -> TransformerState:
        """Return the state of a stream that begins at a position other than 0 (paper, section 3.3)."""
        config = self.model.config
        nothing = torch.zeros(num_items, 1, config.dim, device=self.device)
        return TransformerState(layer_inputs=(nothing,) * config.num_layers, num_steps=position)

    def _backward(self, crops: Tensor, state: TransformerState) -> float:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits, _ = self.model(crops[..., :-1] + 1, state)
        loss = functional.cross_entropy(
            logits.permute(0, 2, 3, 1).flatten(0, 2).float(), crops[..., 1:].flatten(), ignore_index=NO_CODE
        )
        torch.autograd.backward([loss])
        return float(loss.detach())


@contextmanager
def _dropout(model: LanguageModel, *, rate: float, seed: int, device: torch.device) -> Iterator[None]:
    """Drop a share of what the embeddings and each block of the transformer put out, as `seed` says."""
    if rate == 0:
        yield
        return

    def drop(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # of attention: what it gives, and its weights
            return (functional.dropout(output[0], rate), *output[1:])
        return functional.dropout(output, rate)

    blocks: list[nn.Module] = [model.transformer.norm_in]
    for layer in model.transformer.layers:
        blocks += [layer.get_submodule("self_attn"), layer.get_submodule("linear2")]
    hooks = [block.register_forward_hook(drop) for block in blocks]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
