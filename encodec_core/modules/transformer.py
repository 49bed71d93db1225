"""The causal transformer of the entropy model (EnCodec paper, section 3.3), which can be run step by step.

Layers and names are those of Meta's package, and so are the operations and their order: the arithmetic coder needs the
same probabilities to the last bit.

Letters in shapes: B batch, T time steps, H time steps before them, D channels.

    step     1 2 3 4 5 6 7         past_context = 3
    key      0 1 2 3 4 5 6 7       step t sees the keys t - 3 to t; key 0, before the first step, is zeros
    step 5:      2 3 4 5
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CausalTransformer", "TransformerState", "position_embedding"]

MAX_PERIOD = 10_000
"""Longest wavelength of the position embedding, over 2π, in time steps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TransformerState:
    """What later steps need of earlier ones."""

    layer_inputs: tuple[Tensor, ...]
    """For each layer its latest inputs `[B, H, D]`, 1 ≤ H ≤ past_context."""
    num_steps: int
    """Time steps so far."""

    def __repr__(self) -> str:
        shape = list(self.layer_inputs[0].shape)
        return f"TransformerState({len(self.layer_inputs)} × {shape}, num_steps={self.num_steps})"


def position_embedding(num_steps: int, *, first: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Return cosines and sines `[1, num_steps, dim]` float32 of the positions from `first` on."""
    positions = torch.arange(num_steps, device=device).view(1, -1, 1) + first
    half = dim // 2
    channels = torch.arange(half, device=device).view(1, 1, -1)
    phase = positions / (MAX_PERIOD ** (channels / (half - 1)))
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and then normalised."""

    def __init__(self, dim: int, *, num_heads: int, feed_forward_dim: int, past_context: int) -> None:
        super().__init__()
        self.past_context = past_context
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.linear1 = nn.Linear(dim, feed_forward_dim)
        self.linear2 = nn.Linear(feed_forward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """`[B, T, D]`, with the inputs before it `[B, H, D]`, -> `[B, T, D]`."""
        keys = torch.cat([past, x], dim=1)
        num_past, num_steps = past.shape[1], x.shape[1]
        query_at = torch.arange(num_past, num_past + num_steps, device=x.device).view(-1, 1)
        distance = query_at - torch.arange(num_past + num_steps, device=x.device).view(1, -1)
        hidden = (distance < 0) | (distance > self.past_context)
        attended: Tensor = self.self_attn(x, keys, keys, attn_mask=hidden, need_weights=False)[0]
        x = self.norm1(x + attended)
        fed: Tensor = self.linear2(functional.gelu(self.linear1(x)))
        normalised: Tensor = self.norm2(x + fed)
        return normalised


class CausalTransformer(nn.Module):
    """Layers in which a time step sees itself and `past_context` steps before it.

    Args:
        dim: D, even and at least 4, a multiple of `num_heads`.
        num_heads: of each attention.
        num_layers: of the transformer.
        feed_forward_dim: hidden channels of the feed-forward networks.
        past_context: time steps, at least 1.
    """

    def __init__(self, dim: int, *, num_heads: int, num_layers: int, feed_forward_dim: int, past_context: int) -> None:
        super().__init__()
        self.past_context = past_context
        self.norm_in = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            TransformerLayer(dim, num_heads=num_heads, feed_forward_dim=feed_forward_dim, past_context=past_context)
            for _ in range(num_layers)
        )

    def forward(self, x: Tensor, state: TransformerState | None = None) -> tuple[Tensor, TransformerState]:
        """Run over the next time steps: all of a sequence at once, or as many as there are.

        Args:
            x: `[B, T, D]` float32, T > 0.
            state: what the call on the steps before returned; None: these are the first.

        Returns:
            `[B, T, D]`, and the state for the next call, whose size does not depend on the number of steps.
        """
        _, num_steps, dim = x.shape
        if state is None:
            state = TransformerState(layer_inputs=(torch.zeros_like(x[:, :1]),) * len(self.layers), num_steps=0)
        x = self.norm_in(x)
        x = x + position_embedding(num_steps, first=state.num_steps, dim=dim, device=x.device)
        kept = []
        for layer, past in zip(self.layers, state.layer_inputs, strict=True):
            kept.append(torch.cat([past, x], dim=1)[:, -self.past_context :])
            x = layer(x, past)
        return x, TransformerState(layer_inputs=tuple(kept), num_steps=state.num_steps + num_steps)
