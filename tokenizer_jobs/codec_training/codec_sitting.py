"""A codec between two updates: its crops, its codebooks, its checkpoint, its evaluation."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from encodec_core.training import Trainer, evaluate
from encodec_core.training.ranks import num_ranks, rank
from tokenizer_jobs.codec_training.checkpoints import save
from tokenizer_jobs.codec_training.config import TrainingJob
from tokenizer_jobs.codec_training.crops import Crops
from tokenizer_jobs.codec_training.curves import Curves
from tokenizer_jobs.codec_training.held_out import SplitAudio, held_out_clips
from tokenizer_jobs.errors import ConfigError

__all__ = ["MODEL", "CodecSitting"]

MODEL = "model"
"""Folder of the codec in the output."""


class CodecSitting:
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

    @property
    def update(self) -> int:
        """Updates done."""
        return self._trainer.update

    @property
    def device(self) -> torch.device:
        """Of this rank."""
        return self._trainer.device

    def step(self) -> dict[str, float]:
        """Do one update, and before it what the first one of all or of a stage needs.

        Raises:
            ConfigError: the recipe fails on this audio, such as for a loss that is no number.
        """
        with _refused_recipes():
            self._prepare()
            return self._trainer.step(self._batch(self.update))

    def save(self) -> None:
        """Keep what the next update depends on, and publish the codec."""
        if rank() == 0:
            output, trainer = Path(self._job.output), self._trainer
            save(output, trainer.state_dict(), model=output / MODEL, write=trainer.model.save_pretrained)

    def evaluate(self) -> None:
        """Evaluate the sources that have no evaluation at this update yet."""
        if rank() != 0:
            return
        for name, split_audio in self._audio.items():
            if not self._curves.is_evaluated(self.update, source=name):
                self._evaluate(name, split_audio)

    def _evaluate(self, name: str, audio: SplitAudio) -> None:
        trainer = self._trainer
        clips = held_out_clips(audio, max_clips=self._job.runtime.evaluation_recordings)
        if clips:
            result = evaluate(trainer.model, clips, device=str(trainer.device))
            self._say(self._curves.add_evaluation(trainer.update, name, result))
            self._curves.add_audio(trainer.update, name, trainer.model, clips[0])
        elif audio.held_out:
            self._say(f"held out, {name}: all {len(audio.held_out)} recordings are silent, nothing to evaluate")

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
            yield self._batch(self.update + offset)


@contextmanager
def _refused_recipes() -> Iterator[None]:
    """What the trainer refuses, the user has to mend."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"training stopped: {error}") from error
