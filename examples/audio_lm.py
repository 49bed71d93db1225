"""A compact decoder-only transformer over codes, for the examples: its sizes, the model, and how it continues codes.

Letters in shapes: B batch, K codebooks, S steps (tokens of a codebook), T frames, V vocabulary, D width of the model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenizer_jobs.training import DelayPattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Size of the model, and its training."""

    width: int = 256
    layers: int = 4
    heads: int = 4
    window: int = 256
    """Steps that attention looks back; whole recordings of any length are read as crops are."""
    dropout: float = 0.2
    hidden_inputs: float = 0.1
    """Share of input codes hidden from the model in training, lest it learn recordings by heart."""
    crop_frames: int = 384
    batch_size: int = 4
    """Crops of an update, over all ranks."""
    updates: int = 600
    learning_rate: float = 1e-3
    """Highest, after a tenth of the updates (200 at most); from there along a cosine to nothing."""
    weight_decay: float = 0.1
    evaluate_every: int = 50
    """Updates between looks at the part for choices."""


PRESETS = {
    "small": Preset(),
    "tiny": Preset(
        width=64,
        layers=2,
        window=32,
        dropout=0.1,
        hidden_inputs=0.05,
        crop_frames=64,
        batch_size=8,
        updates=40,
        learning_rate=4e-3,
        evaluate_every=20,
    ),
}


class Block(nn.Module):
    """Attention to the steps before, then a network of each step; both add to what comes in, [B, S, D]."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.heads, width = preset.heads, preset.width
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.write = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(preset.dropout)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """`rotation`: cosines and sines [S, D / heads]; `seen`: bool [S, S], what each step may look at."""
        heads = self.read(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        cosines, sines = rotation
        query, key = (
            u * cosines + torch.cat([-u.chunk(2, -1)[1], u.chunk(2, -1)[0]], -1) * sines for u in (query, key)
        )
        mixed = functional.scaled_dot_product_attention(query.to(value), key.to(value), value, attn_mask=seen)
        x = x + self.dropout(self.write(mixed.transpose(1, 2).flatten(-2)))
        return x + self.dropout(self.network(self.network_norm(x)))


class AudioLM(nn.Module):
    """Predicts the next step of every codebook from all steps before.

    Args:
        preset: Of the sizes.
        num_codebooks: K.
        vocabulary_size: V, special tokens included.
        pad_id: The token of holes, which also hides inputs.
    """

    def __init__(self, preset: Preset, *, num_codebooks: int, vocabulary_size: int, pad_id: int) -> None:
        super().__init__()
        self.preset, self.pad_id = preset, pad_id
        # One table for reading codes and for scoring them: few codes are seen often enough for two.
        self.table = nn.Parameter(0.05 * torch.randn(num_codebooks, vocabulary_size, preset.width))
        self.frequencies = nn.Parameter(torch.zeros(num_codebooks, vocabulary_size))
        self.blocks = nn.ModuleList(Block(preset) for _ in range(preset.layers))
        self.first_norm, self.last_norm = nn.LayerNorm(preset.width), nn.LayerNorm(preset.width)
        self.heads = nn.Linear(preset.width, num_codebooks * preset.width, bias=False)
        self.dropout = nn.Dropout(preset.dropout)
        nn.init.zeros_(self.heads.weight)
        for block in self.blocks:
            for last in (block.write, block.network[-1]):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * preset.layers))

    def begin_at(self, shares: Sequence[npt.NDArray[np.float64]]) -> None:
        """Let untrained scores be the frequencies of codes, so that training begins at a histogram's cost."""
        with torch.no_grad():
            self.frequencies.fill_(-20.0)
            for row, of_codes in zip(self.frequencies, shares, strict=True):
                row[: len(of_codes)] = torch.from_numpy(np.log(of_codes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the step after each of `tokens` [B, K, S]: [B, K, S, V]."""
        _, num_codebooks, num_steps = tokens.shape
        if self.training:
            hidden = torch.rand(tokens.shape, device=tokens.device) < self.preset.hidden_inputs
            tokens = tokens.masked_fill(hidden, self.pad_id)
        read = [functional.embedding(tokens[:, k], self.table[k]) for k in range(num_codebooks)]
        x = self.dropout(self.first_norm(torch.stack(read).sum(0)))
        steps = torch.arange(num_steps, device=tokens.device)
        back = steps[:, None] - steps
        seen = (back >= 0) & (back < self.preset.window)
        rotation = self._rotation(steps)
        for block in self.blocks:
            x = block(x, rotation, seen)
        scored = self.heads(self.last_norm(x)).unflatten(-1, (num_codebooks, -1)).transpose(1, 2)  # [B, K, S, D]
        return scored @ self.table.transpose(1, 2) + self.frequencies[:, None]

    def _rotation(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        half = self.preset.width // self.preset.heads // 2
        speeds = 1000.0 ** (-torch.arange(half, device=steps.device) / half)
        angles = (steps[:, None] * speeds).repeat(1, 2)
        return angles.cos(), angles.sin()


@torch.inference_mode()
def continued(
    model: AudioLM,
    prompt: npt.NDArray[np.uint16],
    *,
    pattern: DelayPattern,
    num_frames: int,
    temperature: float,
    top_k: int,
    seed: int,
) -> Tensor:
    """Draw the frames after a prompt [K, T]: int64 [K, T + num_frames], the prompt in front."""
    model.eval()
    device = model.table.device
    random = torch.Generator(device).manual_seed(seed)
    codes = functional.pad(torch.from_numpy(prompt.astype(np.int64)), (0, num_frames)).to(device)
    tokens = pattern.apply(codes)
    is_new = (
        pattern.apply((torch.arange(codes.shape[1], device=device) >= prompt.shape[1]).long().expand_as(codes)) == 1
    )
    for step in is_new.any(0).nonzero().flatten().tolist():
        before = tokens[None, :, max(0, step - model.preset.crop_frames) : step]
        scores = model(before)[0, :, -1, : pattern.num_code_ids] / temperature
        scores = scores.masked_fill(scores < scores.topk(min(top_k, scores.shape[-1])).values[:, -1:], -math.inf)
        drawn = torch.multinomial(scores.softmax(-1), 1, generator=random).flatten()
        tokens[:, step] = torch.where(is_new[:, step], drawn, tokens[:, step])
    return pattern.invert(tokens)
