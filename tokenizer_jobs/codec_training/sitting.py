"""The updates of one sitting, with what belongs between them: codebooks, points of curves, checkpoints, evaluations."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from encodec_core.training import Trainer, evaluate
from encodec_core.training.ranks import num_ranks, rank, sum_over_ranks
from tokenizer_jobs.codec_training.checkpoints import save
from tokenizer_jobs.codec_training.config import TrainingJob
from tokenizer_jobs.codec_training.crops import Crops
from tokenizer_jobs.codec_training.curves import Curves
from tokenizer_jobs.codec_training.held_out import SplitAudio, held_out_clips
from tokenizer_jobs.errors import ConfigError

__all__ = ["MODEL", "Sitting"]

MODEL = "model"
"""Folder of the codec in the output."""


class Sitting:
    """What the updates of a sitting work with.

    Args:
        job: what is trained.
        trainer: where training is.
        crops: to train on; every rank takes its share of each update's.
        audio: what is held out, by source.
        curves: of this rank.
        say: gets one line now and then.
    """

    def __init__(
        self,
        job: TrainingJob,
        trainer: Trainer,
        *,
        crops: Crops,
        audio: Mapping[str, SplitAudio],
        curves: Curves,
        say: Callable[[str], None],
    ) -> None:
        self._job, self._trainer, self._crops, self._audio = job, trainer, crops, audio
        self._curves, self._say = curves, say
        self._saved_update, self._saved_at = trainer.update, time.monotonic()

    def run(self, *, last_update: int, stop: threading.Event) -> None:
        """Train until an update is done, or one of the ranks is asked to stop; then all of them do, with a checkpoint.

        Raises:
            ConfigError: the recipe fails on this audio, such as for a loss that is no number.
        """
        trainer = self._trainer
        if self._is_evaluated_at(trainer.update, last_update):  # the last sitting may have ended just before it
            self._evaluate()
        while trainer.update < last_update and not _is_asked(stop, device=trainer.device):
            with _refused_recipes():
                self._prepare()
                metrics = trainer.step(self._batch(trainer.update))
            line = self._curves.add(trainer.update, metrics)
            if line is not None:
                self._say(line)
            is_due = time.monotonic() - self._saved_at > 60 * self._job.runtime.checkpoint_minutes
            is_evaluated = self._is_evaluated_at(trainer.update, last_update)
            if is_due or is_evaluated:
                self._save()
            if is_evaluated:
                self._evaluate()
        if trainer.update > self._saved_update:
            self._save()

    def _prepare(self) -> None:
        """What comes before the first update, and before the first one of a stage."""
        trainer, training = self._trainer, self._job.training
        if trainer.update == 0 and training.unit_variance_crops:
            trainer.scale_weights(self._batches(training.unit_variance_crops))
        if trainer.needs_codebooks:
            self._say(f"stage {trainer.stage.name}: fitting codebooks")
            trainer.fit_codebooks(self._batches(trainer.stage.codebook_crops))

    def _batch(self, update: int) -> Tensor:
        """This rank's share of the crops of an update, the same audio however many ranks there are."""
        size = self._job.audio.batch_size // num_ranks()
        return self._crops.batch(update, size=size, rank=rank(), num_ranks=num_ranks())

    def _batches(self, num_crops: int) -> Iterator[Tensor]:
        """This rank's share of as many crops, rounded up to whole updates."""
        for offset in range(-(-num_crops // self._job.audio.batch_size)):
            yield self._batch(self._trainer.update + offset)

    def _is_evaluated_at(self, update: int, last_update: int) -> bool:
        return update > 0 and (update == last_update or update % self._job.runtime.evaluation_updates == 0)

    def _evaluate(self) -> None:
        trainer = self._trainer
        if rank() != 0 or self._curves.is_evaluated(trainer.update):
            return
        for name, split_audio in self._audio.items():
            clips = held_out_clips(split_audio, max_clips=self._job.runtime.evaluation_recordings)
            if clips:
                result = evaluate(trainer.model, clips, device=str(trainer.device))
                self._say(self._curves.add_evaluation(trainer.update, name, result))
                self._curves.add_audio(trainer.update, name, trainer.model, clips[0])
            elif split_audio.held_out:
                self._say(
                    f"held out, {name}: all {len(split_audio.held_out)} recordings are silent, nothing to evaluate"
                )

    def _save(self) -> None:
        if rank() == 0:
            output, trainer = Path(self._job.output), self._trainer
            save(output, trainer.state_dict(), model=output / MODEL, write=trainer.model.save_pretrained)
        self._saved_update, self._saved_at = self._trainer.update, time.monotonic()


def _is_asked(stop: threading.Event, *, device: torch.device) -> bool:
    """Whether any rank is asked to stop; all ranks come to the same answer at the same update."""
    if num_ranks() == 1:
        return stop.is_set()
    asked = torch.tensor(float(stop.is_set()), device=device)
    sum_over_ranks(asked)
    return bool(asked)


@contextmanager
def _refused_recipes() -> Iterator[None]:
    """What the trainer refuses, the user has to mend."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"training stopped: {error}") from error
