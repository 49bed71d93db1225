"""The learning rate over a stretch of training."""

import math

__all__ = ["learning_rate_at"]


def learning_rate_at(
    update: int, *, learning_rate: float, final_learning_rate: float | None, warmup_updates: int, num_updates: int
) -> float:
    """Return the learning rate of an update, counted from the stretch's first, 0.

    Args:
        update: its place.
        learning_rate: highest.
        final_learning_rate: reached along a cosine by the end of the stretch; None: the highest stays.
        warmup_updates: updates at the start over which the rate grows from nothing.
        num_updates: length of the stretch.
    """
    warmup = min(1.0, (update + 1) / warmup_updates) if warmup_updates else 1.0
    if final_learning_rate is None:
        return warmup * learning_rate
    share_left = (1 + math.cos(math.pi * min(1.0, update / num_updates))) / 2
    return warmup * (final_learning_rate + (learning_rate - final_learning_rate) * share_left)
