"""The updates of one sitting, with what belongs between them: points of curves, checkpoints and evaluations."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import torch

from encodec_core.training.ranks import num_ranks, sum_over_ranks
from tokenizer_jobs.codec_training.config import TrainingRuntime
from tokenizer_jobs.codec_training.curves import Curves
from tokenizer_jobs.codec_training.lm_config import LanguageModelRuntime

__all__ = ["Sitting", "run_updates"]


class Sitting(Protocol):
    """What is trained, between two updates."""

    @property
    def update(self) -> int:
        """Updates done, earlier sittings included."""

    @property
    def device(self) -> torch.device:
        """Where this rank trains."""

    def step(self) -> dict[str, float]:
        """Do one update and return what it reports."""

    def save(self) -> None:
        """Keep all that the next update depends on, and publish the model."""

    def evaluate(self) -> None:
        """Evaluate what has no evaluation at this update yet."""


def run_updates(
    sitting: Sitting,
    *,
    last_update: int,
    runtime: TrainingRuntime | LanguageModelRuntime,
    curves: Curves,
    say: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Train until an update is done, or one of the ranks is asked to stop; then all of them do, with a checkpoint.

    Killed between a checkpoint and its evaluation, the next sitting begins with the evaluation.

    Raises:
        ConfigError: the recipe fails on this input, such as for a loss that is no number.
    """

    def is_evaluated() -> bool:
        update = sitting.update
        return update > 0 and (update == last_update or update % runtime.evaluation_updates == 0)

    saved_update, saved_at = sitting.update, time.monotonic()
    if is_evaluated():
        sitting.evaluate()
    while sitting.update < last_update and not _is_asked(stop, device=sitting.device):
        metrics = sitting.step()
        line = curves.add(sitting.update, metrics)
        if line is not None:
            say(line)
        if is_evaluated() or time.monotonic() - saved_at > 60 * runtime.checkpoint_minutes:
            sitting.save()
            saved_update, saved_at = sitting.update, time.monotonic()
        if is_evaluated():
            sitting.evaluate()
    if sitting.update > saved_update:
        sitting.save()


def _is_asked(stop: threading.Event, *, device: torch.device) -> bool:
    """Whether any rank is asked to stop; all ranks come to the same answer at the same update."""
    if num_ranks() == 1:
        return stop.is_set()
    asked = torch.tensor(float(stop.is_set()), device=device)
    sum_over_ranks(asked)
    return bool(asked)
