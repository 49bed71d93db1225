"""Sums and broadcasts over the ranks of a training run.

A run of one process, or without torch.distributed, is rank 0 of 1 and sends nothing.
"""

from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

__all__ = [
    "LONGEST_WAIT",
    "average_gradients",
    "average_over_ranks",
    "broadcast_from_first",
    "gather_over_ranks",
    "is_equal_over_ranks",
    "num_ranks",
    "rank",
    "rows_over_ranks",
    "sum_over_ranks",
]

LONGEST_WAIT = timedelta(hours=6)
"""Give this to `torch.distributed.init_process_group` as its timeout: ranks wait while the first one fits codebooks by
k-means, minutes on a GPU and an hour on a CPU for 32 of them, and torch's own limits are 10 and 30 minutes."""


def num_ranks() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Return the number of this process among them."""
    return distributed.get_rank() if _is_distributed() else 0


def sum_over_ranks(tensor: Tensor) -> None:
    """Replace `tensor`, in place, by its sum over the ranks; every rank must call."""
    if num_ranks() > 1:
        distributed.all_reduce(tensor)


def gather_over_ranks(tensor: Tensor) -> Tensor:
    """Return the `[n, ...]` of every rank, in their order, as one tensor; all must call, with equal shapes."""
    if num_ranks() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(num_ranks())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def rows_over_ranks(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return `gather_over_ranks(tensor)[rows]`, sending those rows alone; every rank must call, with equal `rows`."""
    if num_ranks() == 1:
        return tensor[rows]
    own = rows - rank() * len(tensor)
    is_own = (own >= 0) & (own < len(tensor))
    taken = tensor.new_zeros(len(rows), *tensor.shape[1:])
    taken[is_own] = tensor[own[is_own]]
    sum_over_ranks(taken)
    return taken


def average_over_ranks(values: Tensor, *, weight: float) -> Tensor:
    """Return the mean of `values` `[n]` over the ranks, each rank counting by its `weight`; every rank must call."""
    if num_ranks() == 1:
        return values
    weighted = torch.cat([values, values.new_ones(1)]) * weight
    sum_over_ranks(weighted)
    return weighted[:-1] / weighted[-1]


def is_equal_over_ranks(value: int, *, device: torch.device) -> bool:
    """Return whether all ranks give the same `value`; every rank must call."""
    if num_ranks() == 1:
        return True
    bounds = torch.tensor([value, -value], device=device)
    distributed.all_reduce(bounds, op=distributed.ReduceOp.MAX)
    highest, negated_lowest = bounds.tolist()
    return bool(highest == -negated_lowest)


def broadcast_from_first(*tensors: Tensor) -> None:
    """Overwrite `tensors`, in place, by those of rank 0; every rank must call."""
    if num_ranks() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient, in place, by its mean over the ranks; every rank must call.

    All go in one exchange. A parameter that has no gradient here counts as zero.
    """
    if num_ranks() == 1:
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    sum_over_ranks(flat)
    flat /= num_ranks()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
