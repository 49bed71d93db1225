"""The residual quantizer while it is trained: straight-through latents, codebooks that follow them.

EnCodec paper, section 3.2. The entries learn by moving averages, not by gradients; the encoder learns by the
straight-through estimate and the commitment loss. The averages are those of Meta's `encodec/quantization/core_vq.py`,
checked against it, with three amendments, since there the code undoes what the paper describes:

- The commitment loss of every codebook reaches the encoder (as in audiocraft); in encodec 0.1.1 the straight-through
  estimate cancels in the residual, and only the first codebook's does.
- A replaced entry gets averages that agree with its new place; in both packages the update that follows in the same
  step moves it back to where it was.
- After k-means the averaged sum is the entry times its count; both packages store the bare entry, so that the first
  update divides every entry by about its count.

With several ranks every rule is that of the joint batch, so that a batch that is split teaches what it would whole.

Letters in shapes: B batch, D latent channels, T frames, K codebooks in use (n_q), N vectors (B x T on all ranks
together), E entries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.quantization import Codebook, ResidualVectorQuantizer
from encodec_core.quantization.kmeans import kmeans
from encodec_core.training.ranks import (
    broadcast_from_first,
    gather_over_ranks,
    is_equal_over_ranks,
    num_ranks,
    rank,
    rows_over_ranks,
    sum_over_ranks,
)

__all__ = [
    "QuantizerSettings",
    "TrainingQuantized",
    "adopt_codebooks",
    "quantize_for_training",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizerSettings:
    """How codebooks follow the latents."""

    decay: float = 0.99
    """What is left after one batch of the moving averages of an entry; in [0, 1)."""
    epsilon: float = 1e-5
    """Laplace smoothing: what each entry's count is raised by before its sum is divided by it; positive."""
    dead_code_share: float = 0.4
    """An entry that a batch chooses, on the moving average, less often than this share of N / E, its even share of the
    batch, is replaced by a vector of the batch; in [0, 1), and 0 replaces none. Both packages count the vectors
    themselves (`threshold_ema_dead_code = 2`): for the paper's batch of 64 s, where the even share is 4.7, that is 0.4
    of it, and on small batches more than all of it."""
    kmeans_iterations: int = 50
    """Iterations of the k-means that starts a codebook marked as not started."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay = {self.decay}; expected a number in [0, 1), such as 0.99")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon = {self.epsilon}; expected a positive number, such as 1e-5")
        if not 0 <= self.dead_code_share < 1:
            raise ValueError(
                f"dead_code_share = {self.dead_code_share}; expected a share in [0, 1), such as 0.4; 0 replaces none"
            )
        if self.kmeans_iterations < 1:
            raise ValueError(f"kmeans_iterations = {self.kmeans_iterations}; expected 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingQuantized:
    """What `quantize_for_training` returns."""

    quantized: Tensor
    """`[B, D, T]`: the sum of the chosen entries; its gradient passes unchanged to the latents."""
    codes: Tensor
    """int64 `[B, K, T]`."""
    commitment_loss: Tensor
    """Scalar: mean over the codebooks of the mean squared distance of residual and entry; it pulls the latents."""
    num_replaced: int
    """Entries of all codebooks that this batch replaced."""


def quantize_for_training(
    quantizer: ResidualVectorQuantizer,
    latents: Tensor,
    *,
    n_q: int,
    settings: QuantizerSettings,
    generator: torch.Generator,
    update: bool = True,
) -> TrainingQuantized:
    """Quantize a batch with the first `n_q` codebooks, then move their entries towards it.

    Args:
        quantizer: the codec's own; its buffers are changed in place. A codebook whose `inited` is 0 is first fitted
            to the batch by k-means.
        latents: `[B, D, T]`, any floating dtype; computed in float32 or wider, also under autocast. Every rank gives
            a part of one size.
        n_q: K; the caller draws it per batch (quantizer dropout). All ranks of a distributed run give the same.
        settings: how the entries follow.
        generator: the only source of random numbers; on the CPU. With several ranks that of rank 0 decides.
        update: False leaves every buffer as it is.

    Returns:
        What the entries before the update gave. All ranks keep equal entries.

    Raises:
        ValueError: `n_q` or a shape does not fit, latents are not finite, the batch is too small for k-means, or
            without `update` a codebook has not been started.
    """
    _check(quantizer, latents, n_q=n_q)
    codebooks = quantizer.codebooks[:n_q]
    with torch.autocast(latents.device.type, enabled=False):
        target = latents.transpose(1, 2).to(torch.promote_types(latents.dtype, torch.float32))
        started = torch.cat([codebook.inited for codebook in codebooks]).bool().tolist()
        residual, total = target, torch.zeros_like(target)
        codes, losses, levels = [], [], []
        for index, codebook in enumerate(codebooks):
            vectors = residual.detach().flatten(0, 1)
            if not started[index]:
                if not update:
                    raise ValueError(f"codebook {index} has no entries yet; quantize a batch with update=True first")
                _start(codebook, vectors, settings=settings, generator=generator)
            chosen = codebook.encode(residual.detach())
            entries = codebook.decode(chosen)
            losses.append(functional.mse_loss(residual, entries))
            residual, total = residual - entries, total + entries
            codes.append(chosen)
            levels.append(vectors)
        num_replaced = 0
        if update:
            num_replaced = _follow(codebooks, levels, codes, settings=settings, generator=generator)
        straight_through = target + (total - target).detach()
    return TrainingQuantized(
        quantized=straight_through.transpose(1, 2).to(latents.dtype),
        codes=torch.stack(codes, dim=1),
        commitment_loss=torch.stack(losses).mean(),
        num_replaced=num_replaced,
    )


@torch.no_grad()
def adopt_codebooks(quantizer: ResidualVectorQuantizer, *, num_vectors: int) -> None:
    """Make the codebooks that a codec brings ready for a training of their own; to be called once, at its start.

    - One that no vector was ever counted for is random: it waits for k-means on the first batch that uses it. Averages
      begun from nothing would throw its entries far away.
    - One whose counts sum to less than a batch comes without averages, or with those of smaller batches, and most of
      its entries would be dead at once: each starts with its even share of the batch, so that it keeps its place and
      has time to find vectors.
    - Others stay as they are.

    Args:
        quantizer: its averages are changed in place, its entries are not.
        num_vectors: N, of a batch.
    """
    for codebook in quantizer.codebooks:
        num_counted = float(codebook.cluster_size.sum())
        if num_counted == 0:
            codebook.inited.zero_()
        elif num_counted < num_vectors:
            count = num_vectors / len(codebook.embed)
            codebook.cluster_size.fill_(count)
            codebook.embed_avg.copy_(codebook.embed * count)


def _check(quantizer: ResidualVectorQuantizer, latents: Tensor, *, n_q: int) -> None:
    num_codebooks = len(quantizer.codebooks)
    if not 1 <= n_q <= num_codebooks:
        raise ValueError(f"n_q = {n_q}; expected 1 to {num_codebooks}, the codebooks that there are")
    if not is_equal_over_ranks(n_q, device=latents.device):
        raise ValueError(f"n_q = {n_q} here, another on another rank; draw it from a generator that all ranks share")
    num_channels = quantizer.codebooks[0].embed.shape[1]
    if latents.ndim != 3 or latents.shape[1] != num_channels or latents.numel() == 0:
        raise ValueError(f"latents of shape {list(latents.shape)}; expected [B, {num_channels}, T], nothing empty")
    if not torch.isfinite(latents).all():
        raise ValueError("latents hold NaN or infinity, which would stay in the codebooks; lower the learning rate")


@torch.no_grad()
def _start(codebook: Codebook, vectors: Tensor, *, settings: QuantizerSettings, generator: torch.Generator) -> None:
    """Fit a codebook to the vectors of all ranks, `[N / ranks, D]` each, by k-means on the first one."""
    vectors, num_entries = gather_over_ranks(vectors), len(codebook.embed)
    if len(vectors) < num_entries:  # said by every rank, not by one while the others wait
        raise ValueError(
            f"a batch of {len(vectors)} vectors cannot start a codebook of {num_entries} entries; give larger batches, "
            "or fit the codebooks to many of them first"
        )
    if rank() == 0:
        entries = kmeans(
            vectors, num_entries=num_entries, num_iterations=settings.kmeans_iterations, generator=generator
        )
        codebook.embed.copy_(entries)
        # An entry that nobody chose counts one, so that sum and entry agree for it too.
        counts = torch.bincount(codebook.encode(vectors), minlength=num_entries).clamp(min=1)
        codebook.cluster_size.copy_(counts)
        codebook.embed_avg.copy_(codebook.embed * codebook.cluster_size[:, None])
        codebook.inited.fill_(1)
    broadcast_from_first(codebook.embed, codebook.cluster_size, codebook.embed_avg, codebook.inited)


@torch.no_grad()
def _follow(
    codebooks: Sequence[Codebook],
    levels: Sequence[Tensor],
    codes: Sequence[Tensor],
    *,
    settings: QuantizerSettings,
    generator: torch.Generator,
) -> int:
    """Move the entries of each codebook towards its vectors, replace dead ones, and return how many were dead."""
    statistics = torch.stack(
        [
            _counts_and_sums(vectors, chosen.flatten(), num_entries=len(codebook.embed))
            for codebook, vectors, chosen in zip(codebooks, levels, codes, strict=True)
        ]
    )
    sum_over_ranks(statistics)
    even_share = float(statistics[0, :, 0].mean())
    threshold = settings.dead_code_share * even_share
    num_replaced = 0
    for codebook, vectors, counted in zip(codebooks, levels, statistics, strict=True):
        _average(codebook, counted[:, 0], counted[:, 1:], settings=settings)
        if threshold > 0:
            dead = (codebook.cluster_size < threshold).nonzero()[:, 0]
            _replace(codebook, dead, vectors, count=even_share, generator=generator)
            num_replaced += len(dead)
    return num_replaced


def _counts_and_sums(vectors: Tensor, chosen: Tensor, *, num_entries: int) -> Tensor:
    """Count `[N, D]` by the entry that each vector chose, and sum them: `[E, 1 + D]`."""
    # A product with one-hot rows, not index_add_: that adds in no fixed order on a GPU, and a resumed run would differ.
    one_hot = functional.one_hot(chosen, num_entries).to(vectors.dtype)
    return torch.cat([one_hot.sum(0)[:, None], one_hot.t() @ vectors], dim=1)


def _average(codebook: Codebook, counts: Tensor, sums: Tensor, *, settings: QuantizerSettings) -> None:
    codebook.cluster_size.mul_(settings.decay).add_(counts, alpha=1 - settings.decay)
    codebook.embed_avg.mul_(settings.decay).add_(sums, alpha=1 - settings.decay)
    total = codebook.cluster_size.sum()
    smoothed = (codebook.cluster_size + settings.epsilon) / (total + len(counts) * settings.epsilon) * total
    codebook.embed.copy_(codebook.embed_avg / smoothed[:, None])


def _replace(codebook: Codebook, dead: Tensor, vectors: Tensor, *, count: float, generator: torch.Generator) -> None:
    """Put the `dead` entries where random vectors of all ranks are, of which `vectors` are this rank's.

    A new entry starts with the even share as its `count`, so that it has time to find vectors of its own: one that
    finds none falls below the threshold after log(dead_code_share) / log(decay) batches, 91 by default.
    """
    num_dead, num_vectors = len(dead), num_ranks() * len(vectors)
    if num_dead == 0:
        return
    if num_vectors >= num_dead:
        drawn = torch.randperm(num_vectors, generator=generator)[:num_dead]
    else:
        drawn = torch.randint(num_vectors, (num_dead,), generator=generator)
    drawn = drawn.to(vectors.device)
    broadcast_from_first(drawn)
    entries = rows_over_ranks(vectors, drawn).to(codebook.embed.dtype)
    codebook.embed[dead] = entries
    codebook.embed_avg[dead] = entries * count
    codebook.cluster_size[dead] = count
