"""Samples to a batch.

Letters in shapes: B batch, T tokens (or frames) of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokenizer_jobs.training.dealing import Sample

__all__ = ["Collation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collation:
    """Joins samples to a batch; give it to a DataLoader as `collate_fn`. Only here do codes become int64."""

    pad_id: int
    """Of what is padded on the right; no code."""

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Join samples.

        Returns:
            `tokens` or `codes`: int64 [B, …, T], padded with `pad_id`. `lengths`: int64 [B] of their last axis, and
            `mask`: bool [B, T], True where it is no padding. Of packed samples also `positions` and `document_ids`
            int64 [B, T], 0 and -1 in padding, and `cu_seqlens` int32, the bounds of documents in the flattened [B × T],
            padding being one more document. Everything else: a list.
        """
        name = "tokens" if "tokens" in samples[0] else "codes"
        lengths = torch.tensor([sample[name].shape[-1] for sample in samples])
        num_tokens = int(lengths.max())
        batch: dict[str, Any] = {
            name: _padded([sample[name] for sample in samples], num_tokens=num_tokens, value=self.pad_id),
            "lengths": lengths,
            "mask": torch.arange(num_tokens) < lengths[:, None],
        }
        if "cu_seqlens" in samples[0]:
            for key, value in (("positions", 0), ("document_ids", -1)):
                batch[key] = _padded([sample[key] for sample in samples], num_tokens=num_tokens, value=value)
            batch["cu_seqlens"] = _joined_bounds([sample["cu_seqlens"] for sample in samples], num_tokens=num_tokens)
        rest = [key for key in samples[0] if key not in batch and key not in ("codes", "tokens")]
        return batch | {key: [sample[key] for sample in samples] for key in rest}


def _padded(tensors: Sequence[torch.Tensor], *, num_tokens: int, value: int) -> torch.Tensor:
    padded = torch.full((len(tensors), *tensors[0].shape[:-1], num_tokens), value, dtype=torch.int64)
    for row, tensor in zip(padded, tensors, strict=True):
        row[..., : tensor.shape[-1]] = tensor
    return padded


def _joined_bounds(bounds: Sequence[torch.Tensor], *, num_tokens: int) -> torch.Tensor:
    joined = [torch.zeros(1, dtype=torch.int32)]
    for number, own in enumerate(bounds):
        joined.append(own[1:] + number * num_tokens)
        if int(own[-1]) < num_tokens:
            joined.append(torch.tensor([(number + 1) * num_tokens], dtype=torch.int32))
    return torch.cat(joined)
